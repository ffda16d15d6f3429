-- The latest DDL job of a statement: a KILL of its session does not end it.
SELECT {server_deadline} JOB_ID, STATE
FROM INFORMATION_SCHEMA.DDL_JOBS
WHERE QUERY = %(sql)s
ORDER BY JOB_ID DESC
LIMIT 1
