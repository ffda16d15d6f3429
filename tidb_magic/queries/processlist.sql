-- Sessions that run something or hold a transaction. {sessions} are those that match the filters: sessions_cluster.sql,
-- sessions_distinct.sql or sessions_local.sql. tidb_magic_sessions counts them, idle ones included, tidb_magic_matched
-- what is listed without the limit.
-- ORDER BY makes TiDB wait for every instance: a bare LIMIT can be silently partial.
SELECT {server_deadline} {columns}, tidb_magic_sessions, COUNT(*) OVER () AS tidb_magic_matched
FROM (
    SELECT *, COUNT(*) OVER () AS tidb_magic_sessions
    FROM (
{sessions}
    ) AS found
) AS counted
WHERE {active}
ORDER BY {order}, INSTANCE, ID
LIMIT %(limit)s
