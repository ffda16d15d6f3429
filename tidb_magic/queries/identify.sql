-- Who am I, and is this TiDB? The id in the handshake has 32 bits only; MySQL and MariaDB have no TIDB_VERSION().
SELECT CONNECTION_ID(), TIDB_VERSION()
