-- May this user be one that security-enhanced mode protects (8.5.6, measured: those with RESTRICTED_USER_ADMIN)? Roles
-- are not followed: each of them counts.
SELECT USER
FROM mysql.global_grants
WHERE PRIV = 'RESTRICTED_USER_ADMIN'
  AND (USER = %(user)s OR USER IN (SELECT FROM_USER FROM mysql.role_edges))
LIMIT 1
