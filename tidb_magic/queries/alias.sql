-- Mark a connection of ours, so that it is known in the list wherever a proxy moves it.
SET SESSION tidb_session_alias = %(alias)s
