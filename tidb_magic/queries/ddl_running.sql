-- DDL jobs that have not ended, for users who may not read which of them wait: all are treated as waiting.
SELECT {server_deadline} JOB_ID, CAST(TABLE_ID AS CHAR) AS TABLE_IDS,
       IF(STATE = 'running', CAST(TABLE_ID AS CHAR), NULL) AS LOCKED_TABLE_IDS, DB_NAME, TABLE_NAME, QUERY
FROM INFORMATION_SCHEMA.DDL_JOBS
WHERE STATE IN ('running', 'queueing')
ORDER BY JOB_ID
