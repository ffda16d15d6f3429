-- How many sessions match the filters, idle ones included: asked only when none of them is listed.
SELECT {server_deadline} COUNT(*)
FROM (
{sessions}
) AS found
