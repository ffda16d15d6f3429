-- Which instance is this? SELF_ID is the DDL_ID that this process has in TIDB_SERVERS_INFO: a UUID, new at each start.
-- Needs SUPER. Unlike a marker in the cluster's list it asks no other instance (8.5.6: 4 ms).
ADMIN SHOW DDL
