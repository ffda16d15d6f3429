-- All sessions that match the filters, when they are known to be few: without ORDER BY, LIMIT and a count, which cost a
-- fifth more, and on a cluster whose CPUs are saturated as much again. {sessions} are sessions_cluster.sql or sessions_local.sql.
SELECT {server_deadline} {columns}
FROM (
{sessions}
) AS found
