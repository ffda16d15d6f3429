-- Who waits for a lock of whom, by the IDs of their transactions. TiDB asks every store; it ends only by itself while
-- one is silent. Who waits in autocommit mode is listed on his own instance alone, the others on all. Needs PROCESS.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ DISTINCT TRX_ID, CURRENT_HOLDING_TRX_ID, KEY_INFO, `KEY`
FROM INFORMATION_SCHEMA.DATA_LOCK_WAITS
