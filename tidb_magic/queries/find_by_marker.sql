-- Where is the connection that was marked?
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ INSTANCE, ID
FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
WHERE {column} LIKE %(mark)s
ORDER BY INSTANCE, ID
