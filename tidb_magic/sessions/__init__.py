"""Lists of sessions: read from the cluster, filtered, counted."""
