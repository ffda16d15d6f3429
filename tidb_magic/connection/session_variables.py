"""The session variables that each connection of tidb_magic sets: defaults of the cluster do not change what it reads.

Measured on 8.5.6, with the extremes of each variable as the cluster's default
(tests/connection/test_session_variables.py). The time zone is not set: TxnStart is shown in it.
"""

from collections.abc import Collection, Mapping

# All versions of TiDB know this one, and MySQL does not.
TIDB_ONLY = "tidb_max_chunk_size"
# As SQL: TiDB's own defaults, but for the SQL mode, of which our statements need nothing. All fit into the smallest
# max_allowed_packet, 1 KiB, which a session cannot change.
_VALUES: Mapping[str, str] = {
    # More than the 10,000 rows that TiDB expects of its tables in memory: it then computes columns without threads.
    # Their start doubles the time of a statement where CPUs are saturated. The largest value ends the server (memory).
    TIDB_ONLY: "16384",
    "autocommit": "1",  # else we hold a snapshot and show up as a blocker
    "character_set_client": "utf8mb4",
    "character_set_connection": "utf8mb4",
    "character_set_results": "utf8mb4",
    "collation_connection": "utf8mb4_bin",
    "tidb_init_chunk_size": "32",
    "sql_select_limit": "18446744073709551615",
    "sql_mode": "''",
    "max_execution_time": "0",
    "wait_timeout": "28800",
    "transaction_isolation": "'REPEATABLE-READ'",
    "tidb_mem_quota_query": "1073741824",
    "tidb_enable_window_function": "1",
    "tidb_enable_cascades_planner": "0",
    "tidb_isolation_read_engines": "'tikv,tiflash,tidb'",
    "tidb_replica_read": "'leader'",
    "tidb_read_staleness": "0",
    "tidb_executor_concurrency": "5",  # 256 takes seconds
    "tidb_distsql_scan_concurrency": "15",
    "tiflash_fastscan": "0",  # the cluster's list then warns, as if an instance were missing
    "tidb_redact_log": "0",  # else the comments that mark our statements are not listed
}


def assignments(alias: str, *, without: Collection[str] = ()) -> dict[str, str]:
    """Return the variables and their values as SQL, but for those `without`, which this server does not take."""
    values = {**_VALUES, "tidb_session_alias": f"'{alias}'"}
    return {name: value for name, value in values.items() if name not in without}
