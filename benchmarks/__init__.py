"""What tidb_magic costs beside the usual tools: ratios, measured in one run against the same server."""
