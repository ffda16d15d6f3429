-- What the transactions of some sessions would roll back, and whether they are committing. {transactions} is TIDB_TRX on
-- the instance itself, or that of the cluster.
SELECT SESSION_ID, ID, STATE, MEM_BUFFER_KEYS, MEM_BUFFER_BYTES
FROM INFORMATION_SCHEMA.{transactions}
WHERE SESSION_ID IN %(ids)s
ORDER BY SESSION_ID
