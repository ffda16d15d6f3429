-- The same of one instance, asked on that instance itself.
SELECT *
FROM (
    SELECT %(instance_name)s AS INSTANCE, PROCESSLIST.*
    FROM INFORMATION_SCHEMA.PROCESSLIST
) AS CLUSTER_PROCESSLIST
WHERE {condition}
