-- What a server is that has no process list as TiDB's.
SELECT VERSION()
