-- Sessions that run something or hold a transaction. {sessions} is CLUSTER_PROCESSLIST or here.sql, {condition} are the
-- filters; every instance applies them itself. tidb_magic_sessions counts what they match, idle sessions included,
-- tidb_magic_matched what is listed without the limit.
-- ORDER BY makes TiDB wait for every instance: a bare LIMIT can be silently partial.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ {columns}, tidb_magic_sessions, COUNT(*) OVER () AS tidb_magic_matched
FROM (
    SELECT *, COUNT(*) OVER () AS tidb_magic_sessions
    FROM {sessions}
    WHERE {condition}
) AS filtered
WHERE COMMAND <> 'Sleep' OR TxnStart <> ''
ORDER BY {order}, INSTANCE, ID
LIMIT %(limit)s
