-- Sessions that match the filters, the first ones by {order}; {shown} leaves out idle ones, or is TRUE. The rows of the
-- second part count all that match, for each instance, with one ID of it. Two different counts of sessions and IDs tell
-- that an instance is listed twice. {sessions} are those that match the filters: sessions_cluster.sql,
-- sessions_distinct.sql or sessions_local.sql. TiDB reads them once.
-- ORDER BY makes TiDB wait for every instance: a bare LIMIT can be silently partial.
WITH found AS (
{sessions}
)
SELECT {server_deadline} *
FROM (
    (
        SELECT {columns}, NULL AS tidb_magic_sessions, NULL AS tidb_magic_ids, NULL AS tidb_magic_shown
        FROM found
        WHERE {shown}
        ORDER BY {order}, INSTANCE, ID
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT {of_instance}, COUNT(*), COUNT(DISTINCT ID), CAST(SUM({shown}) AS SIGNED)
        FROM found
        GROUP BY INSTANCE
    )
) AS listed
