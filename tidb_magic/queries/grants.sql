-- What this session may do; active roles included, which INFORMATION_SCHEMA.USER_PRIVILEGES leaves out.
SHOW GRANTS
