-- The instances that are registered with PD now. In security-enhanced mode INSTANCE is the server id and there is no
-- address; a SERVER_ID of 0 means that global kill is off. Needs PROCESS; does not exist on TiDB Cloud Starter.
SELECT INSTANCE, STATUS_ADDRESS, VERSION, SERVER_ID, UPTIME
FROM INFORMATION_SCHEMA.CLUSTER_INFO
WHERE TYPE = 'tidb'
