-- DDL jobs that have not ended, for who may not read which of them wait: all that run are taken to.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ JOB_ID, CAST(TABLE_ID AS CHAR) AS TABLE_IDS,
       IF(STATE = 'running', CAST(TABLE_ID AS CHAR), NULL) AS LOCKED_TABLE_IDS, DB_NAME, TABLE_NAME, QUERY
FROM INFORMATION_SCHEMA.DDL_JOBS
WHERE STATE IN ('running', 'queueing')
ORDER BY JOB_ID
