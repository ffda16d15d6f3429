-- The server ids that connection ids of registered instances hold; 0 with global kill off. Needs PROCESS.
SELECT SERVER_ID
FROM INFORMATION_SCHEMA.CLUSTER_INFO
WHERE TYPE = 'tidb'
