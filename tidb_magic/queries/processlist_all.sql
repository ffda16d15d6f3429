-- All sessions, when they are known to be fewer than the limit: without ORDER BY, LIMIT and a count, which cost a fifth
-- more. A list that is longer than the limit, or has a session twice, is read again with processlist_idle.sql.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ {columns}
FROM (
{sessions}
) AS found
