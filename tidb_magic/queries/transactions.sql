-- Open transactions, of this instance or of the cluster: {transactions} is TIDB_TRX or CLUSTER_TIDB_TRX. In
-- microseconds: how old one is, and how old it was when it began to wait for a lock. TiDB shows both beginnings in the
-- time zone of the instance's machine, so only their difference means something; TIDB_PARSE_TSO is in that of the session.
-- ORDER BY makes TiDB wait for every instance.
SELECT {hint}ID, STATE, MEM_BUFFER_KEYS, MEM_BUFFER_BYTES, RELATED_TABLE_IDS,
       TIMESTAMPDIFF(MICROSECOND, TIDB_PARSE_TSO(ID), NOW(6)) AS tidb_magic_age,
       TIMESTAMPDIFF(MICROSECOND, START_TIME, WAITING_START_TIME) AS tidb_magic_waits_since
FROM INFORMATION_SCHEMA.{transactions}
ORDER BY ID
