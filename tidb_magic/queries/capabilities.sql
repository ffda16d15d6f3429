-- How this instance is set up, and how it is known. Needs no privilege; refused in security-enhanced mode.
SELECT JSON_EXTRACT(@@tidb_config, '$."enable-global-kill"') AS global_kill,
       JSON_EXTRACT(@@tidb_config, '$."compatible-kill-query"') AS compatible_kill_query,
       JSON_UNQUOTE(JSON_EXTRACT(@@tidb_config, '$."advertise-address"')) AS advertised,
       CAST(JSON_EXTRACT(@@tidb_config, '$.status."status-port"') AS SIGNED) AS status_port
