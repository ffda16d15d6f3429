-- Sessions of the whole cluster, longest running first. By default those that run something or hold a transaction.
-- {condition} are the filters; every instance applies them itself. tidb_magic_sessions counts what they match, idle
-- sessions included, tidb_magic_matched what is listed without the limit.
-- ORDER BY makes TiDB wait for every instance: a bare LIMIT can be silently partial.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ *, COUNT(*) OVER () AS tidb_magic_matched
FROM (
    SELECT *, COUNT(*) OVER () AS tidb_magic_sessions
    FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
    WHERE {condition}
) AS filtered
WHERE %(everything)s OR COMMAND <> 'Sleep' OR TxnStart <> ''
ORDER BY TIME DESC, INSTANCE, ID
LIMIT %(limit)s
