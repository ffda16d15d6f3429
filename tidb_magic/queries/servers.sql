-- The instances that are registered with PD now, without the privilege that CLUSTER_INFO needs. In security-enhanced
-- mode there is no IP, and the process list names them by DDL_ID.
SELECT DDL_ID, IP, PORT, STATUS_PORT, VERSION
FROM INFORMATION_SCHEMA.TIDB_SERVERS_INFO
