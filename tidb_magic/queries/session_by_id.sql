-- Some sessions and our own one. {sessions} is the process list of this instance or of the cluster; {matches} is
-- whether the filters of a kill hold still.
SELECT {hint}{instance} AS INSTANCE, ID, USER, HOST, COMMAND, TIME, STATE, {info} AS INFO,
       TxnStart, {alias} AS SESSION_ALIAS, {matches} AS tidb_magic_matches, CONNECTION_ID() AS tidb_magic_own
FROM {sessions}
WHERE ID IN %(ids)s
{order}
