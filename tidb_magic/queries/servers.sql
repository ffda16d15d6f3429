-- The instances that are registered with PD now, as the process list names them: by status address, and in
-- security-enhanced mode by DDL id. Needs no privilege.
SELECT CONCAT(IP, ':', STATUS_PORT), DDL_ID
FROM INFORMATION_SCHEMA.TIDB_SERVERS_INFO
