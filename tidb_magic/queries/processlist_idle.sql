-- All sessions, idle ones included. As processlist.sql otherwise.
SELECT {server_deadline} {columns}, COUNT(*) OVER () AS tidb_magic_matched
FROM (
{sessions}
) AS found
ORDER BY {order}, INSTANCE, ID
LIMIT %(limit)s
