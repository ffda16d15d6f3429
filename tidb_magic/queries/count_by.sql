-- Sessions counted by one column or several; ACTIVE ones run something or hold a transaction. LONGEST is in seconds and
-- of active ones only: TIME of the others is how long they have been idle. MEM is a counter that can fall below zero.
SELECT {server_deadline} {columns},
       COUNT(*) AS SESSIONS,
       COUNT(DISTINCT INSTANCE, ID) AS tidb_magic_ids,
       CAST(SUM({active}) AS SIGNED) AS ACTIVE,
       MAX(IF({active}, TIME, NULL)) AS LONGEST,
       CAST(SUM(IF(MEM < 1 << 62, MEM, 0)) AS SIGNED) AS MEMORY
FROM (
{sessions}
) AS found
GROUP BY {groups}
ORDER BY SESSIONS DESC, {groups}
