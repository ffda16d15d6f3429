-- Is that a condition by itself? EXPLAIN plans and asks nobody; {sessions} are sessions_local.sql.
EXPLAIN SELECT 1
FROM (
{sessions}
) AS CLUSTER_PROCESSLIST
WHERE
{condition}
