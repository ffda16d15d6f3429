-- The sessions that may have been meant by an ID that no session has: IDs around it, which a float rounds to it,
-- and 64-bit ids whose low half it is.
SELECT {server_deadline} INSTANCE, ID, USER
FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST
WHERE ID BETWEEN %(lowest)s AND %(highest)s OR (ID > 4294967295 AND ID & 4294967295 = %(number)s)
ORDER BY INSTANCE, ID
