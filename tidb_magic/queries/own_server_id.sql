-- The same UUID as SELF_ID of ADMIN SHOW DDL, for users without SUPER (8.5.6: 15 ms; more than 30 s with 100 heavy
-- statements on the instance).
SHOW STATUS LIKE 'server_id'
