-- The same ({sessions}) with what their transactions would roll back, and whether they are committing. {transactions} is
-- TIDB_TRX on the instance itself, or that of the cluster with its {instance}.
SELECT {hint}found.*, trx.STATE AS tidb_magic_trx, MEM_BUFFER_KEYS AS tidb_magic_keys, MEM_BUFFER_BYTES AS tidb_magic_bytes
FROM (
{sessions}
) AS found
LEFT JOIN INFORMATION_SCHEMA.{transactions} AS trx ON trx.SESSION_ID = found.ID{instance}
{order}
