-- How many transactions wait for locks. In autocommit mode a statement that waits is Committing there.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ COUNT(*) FROM INFORMATION_SCHEMA.CLUSTER_TIDB_TRX WHERE STATE = 'LockWaiting'
