-- The ID of this connection, and whether this is TiDB: MySQL and MariaDB have no TIDB_VERSION(). The ID in the handshake
-- has 32 bits only.
SELECT CONNECTION_ID(), TIDB_VERSION()
