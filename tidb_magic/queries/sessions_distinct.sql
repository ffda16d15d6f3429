-- The same, each session once. For about a minute after a restart an instance is registered twice, is asked twice, and
-- its sessions are listed twice, with rows that can differ a little.
SELECT *
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY INSTANCE, ID) AS tidb_magic_copy
    FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
    WHERE {condition}
) AS copies
WHERE tidb_magic_copy = 1
