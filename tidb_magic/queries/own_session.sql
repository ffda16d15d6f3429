-- The session that asks, as the process list shows it: behind a proxy HOST is the proxy's. Everybody sees their own.
SELECT ID, HOST, VERSION()
FROM INFORMATION_SCHEMA.PROCESSLIST
WHERE ID = CONNECTION_ID()
