-- DDL jobs that have not ended. LOCKED_TABLE_IDS are the tables of which a job waits until no older transaction uses
-- them, NULL if it does not. mysql.tidb_mdl_view finds the same, but also asks every instance for its transactions.
-- Needs SELECT on both tables.
SELECT {server_deadline} job.job_id AS JOB_ID, job.table_ids AS TABLE_IDS,
       mdl.table_ids AS LOCKED_TABLE_IDS,
       JSON_UNQUOTE(JSON_EXTRACT(CAST(CAST(job.job_meta AS CHAR) AS JSON), '$.schema_name')) AS DB_NAME,
       JSON_UNQUOTE(JSON_EXTRACT(CAST(CAST(job.job_meta AS CHAR) AS JSON), '$.table_name')) AS TABLE_NAME,
       JSON_UNQUOTE(JSON_EXTRACT(CAST(CAST(job.job_meta AS CHAR) AS JSON), '$.query')) AS QUERY
FROM mysql.tidb_ddl_job AS job
LEFT JOIN mysql.tidb_mdl_info AS mdl ON mdl.job_id = job.job_id
ORDER BY job.job_id
