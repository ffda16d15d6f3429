-- The sessions with these ids, on any instance, and our own one.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ *
FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
WHERE ID IN %(ids)s
ORDER BY INSTANCE, ID
