-- Parts of statements, one a line behind its name. A statement has them as {name}.
-- Runs something (auto analyze does with COMMAND Sleep), or holds a transaction:
active: (COMMAND <> 'Sleep' OR TxnStart <> '' OR INFO IS NOT NULL)
-- The filters:
filter_user: USER = %(user)s
filter_host: (HOST = %(host)s OR HOST RLIKE %(host_and_port)s)
filter_db: DB = %(db)s
filter_instance: INSTANCE = %(instance)s
filter_command: COMMAND = %(command)s
filter_min_time: TIME >= %(min_time)s
filter_match: INFO RLIKE %(match)s
filter_mine: (ID, HOST) IN %(mine)s
filter_orphans: (ID, HOST) IN %(orphans)s
-- The beginning of a statement. As bytes: LEFT of text would replace what is no UTF-8.
info: LEFT(CAST(INFO AS BINARY), %(info_cut)s)
info_length: IF(LENGTH(INFO) > %(info_cut)s, LENGTH(INFO), NULL) AS tidb_magic_length
-- HOST without its port, in which clients differ:
host_alone: IF(HOST RLIKE ':[0-9]+$', LEFT(HOST, LENGTH(HOST) - LENGTH(SUBSTRING_INDEX(HOST, ':', -1)) - 1), HOST)
-- The server ends the statement by its own deadline:
server_deadline: /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */
-- Makes TiDB wait for every instance:
every_instance: ORDER BY INSTANCE, ID
-- Of a transaction in the list of the cluster:
same_instance: AND trx.INSTANCE = found.INSTANCE
