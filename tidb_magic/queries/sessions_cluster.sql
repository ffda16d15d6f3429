-- The sessions of the whole cluster that match the filters ({condition}); every instance applies them itself.
SELECT *
FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
WHERE {condition}
