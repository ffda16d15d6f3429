-- Sessions of the whole cluster, longest running first. By default those that run something or hold a transaction;
-- tidb_magic_sessions counts all of them. ORDER BY makes TiDB wait for every instance: a bare LIMIT can be silently partial.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ *
FROM (SELECT *, COUNT(*) OVER () AS tidb_magic_sessions FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST) AS everything
WHERE %(idle)s OR COMMAND <> 'Sleep' OR TxnStart <> ''
ORDER BY TIME DESC, INSTANCE, ID
