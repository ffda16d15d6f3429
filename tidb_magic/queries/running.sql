-- Is our own statement still running on the instance of this connection? It is known by its id and its token.
SELECT 1
FROM INFORMATION_SCHEMA.PROCESSLIST
WHERE ID = %(connection_id)s AND INFO LIKE %(token)s
