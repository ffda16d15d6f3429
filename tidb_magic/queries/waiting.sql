-- How many transactions wait for locks. In autocommit mode a statement that waits is Committing there.
SELECT {server_deadline} COUNT(*) FROM INFORMATION_SCHEMA.CLUSTER_TIDB_TRX WHERE STATE = 'LockWaiting'
