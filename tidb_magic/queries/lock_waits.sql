-- Lock waits, by the IDs of the two transactions. TiDB asks every store; a KILL does not end it while one does not
-- respond. A waiter in autocommit mode is listed on its own instance only, the others on all. Needs PROCESS.
SELECT {server_deadline} DISTINCT TRX_ID, CURRENT_HOLDING_TRX_ID, KEY_INFO, `KEY`
FROM INFORMATION_SCHEMA.DATA_LOCK_WAITS
