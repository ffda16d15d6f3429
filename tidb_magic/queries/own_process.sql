-- Which instance is this? The DDL_ID that this process has in TIDB_SERVERS_INFO: a UUID, new at each start.
-- Needs no privilege. Unlike a marker in the cluster's list it asks no other instance (8.5.6: 15 ms).
SHOW STATUS LIKE 'server_id'
