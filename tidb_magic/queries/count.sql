-- How many sessions match the filters, idle ones included: asked only when none of them is listed.
SELECT /*+ MAX_EXECUTION_TIME(%(milliseconds)s) */ COUNT(*)
FROM (
{sessions}
) AS found
