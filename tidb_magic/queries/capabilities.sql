-- How this instance is set up. Needs no privilege; refused in security-enhanced mode.
SELECT JSON_EXTRACT(@@tidb_config, '$."enable-global-kill"') AS global_kill,
       JSON_EXTRACT(@@tidb_config, '$."compatible-kill-query"') AS compatible_kill_query
