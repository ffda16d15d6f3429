-- How many sessions match the filters and are not idle: asked only when the limit leaves out some.
SELECT {server_deadline} COUNT(DISTINCT INSTANCE, ID)
FROM (
{sessions}
) AS found
WHERE {active}
