-- Is that a complete condition? EXPLAIN only plans; {sessions} are sessions_local.sql.
EXPLAIN SELECT 1
FROM (
{sessions}
) AS CLUSTER_PROCESSLIST
WHERE
{condition}
