-- Does the cluster's own list answer again? It asks every registered instance.
SELECT /*+ MAX_EXECUTION_TIME(8000) */ COUNT(*)
FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
