-- The deadlocks that each instance remembers, one row for each transaction in one. {deadlocks} is DEADLOCKS or
-- CLUSTER_DEADLOCKS, {instance} their INSTANCE. TiDB shows OCCUR_TIME in the time zone of the instance's machine.
-- The texts of the statements are left out: TiDB asks every instance for them. Needs PROCESS.
SELECT {hint}{instance} AS INSTANCE, DEADLOCK_ID,
       CAST(UNIX_TIMESTAMP(CONVERT_TZ(OCCUR_TIME, 'SYSTEM', @@time_zone)) * 1000 AS SIGNED) AS OCCUR_TIME,
       RETRYABLE, TRY_LOCK_TRX_ID, TRX_HOLDING_LOCK, KEY_INFO, `KEY`, CURRENT_SQL_DIGEST
FROM INFORMATION_SCHEMA.{deadlocks}
ORDER BY OCCUR_TIME, INSTANCE, DEADLOCK_ID
