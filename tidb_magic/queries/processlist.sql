-- Sessions that match the filters, the first ones by {order}; {shown} leaves out idle ones, or is TRUE. The rows of the
-- second part count all sessions that match, for each instance: its columns are NULL but for INSTANCE and the counts. The
-- two counts differ where an instance is listed twice. {sessions} are those that match the filters: sessions_cluster.sql,
-- sessions_distinct.sql or sessions_local.sql.
-- ORDER BY makes TiDB wait for every instance: a bare LIMIT can be silently partial.
(
    SELECT {server_deadline} {columns}, NULL AS tidb_magic_sessions, NULL AS tidb_magic_ids
    FROM (
{sessions}
    ) AS found
    WHERE {shown}
    ORDER BY {order}, INSTANCE, ID
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT {nothing}, COUNT(*), COUNT(DISTINCT ID)
    FROM (
{sessions}
    ) AS counted
    GROUP BY INSTANCE
)
