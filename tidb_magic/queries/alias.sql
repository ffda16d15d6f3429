-- Mark a connection of ours, so that another one finds it in the cluster's list.
SET SESSION tidb_session_alias = %(alias)s
