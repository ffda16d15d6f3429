-- Where is the connection that was marked?
SELECT {server_deadline} INSTANCE, ID
FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
WHERE {column} LIKE %(mark)s
ORDER BY INSTANCE, ID
