-- The sessions of one instance, asked on that instance itself, with the columns of CLUSTER_PROCESSLIST.
SELECT %(instance_name)s AS INSTANCE, PROCESSLIST.*
FROM INFORMATION_SCHEMA.PROCESSLIST
