"""No default that a cluster sets for its sessions changes what we read or whom we kill."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pymysql
import pytest

import tidb_magic
from tests.clients import Client, eventually
from tests.kill.test_kill import only
from tidb_magic.connection import connection, session_variables
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.session_variables import TIDB_ONLY
from tidb_magic.connection.settings import parse_url
from tidb_magic.playground import Playground

# The likeliest to be set, and those that made a statement of ours fail, or took seconds.
LIKELIEST = """
    autocommit character_set_client character_set_connection character_set_results collation_connection
    cte_max_recursion_depth default_collation_for_utf8mb4 group_concat_max_len innodb_lock_wait_timeout
    interactive_timeout max_allowed_packet max_execution_time sql_mode sql_select_limit tidb_allow_mpp
    tidb_constraint_check_in_place tidb_distsql_scan_concurrency tidb_enable_cascades_planner
    tidb_enable_external_ts_read tidb_enable_index_merge tidb_enable_lazy_cursor_fetch tidb_enable_noop_functions
    tidb_enable_non_prepared_plan_cache tidb_enable_paging tidb_enable_rate_limit_action
    tidb_enable_vectorized_expression tidb_enable_window_function tidb_executor_concurrency tidb_init_chunk_size
    tidb_isolation_read_engines tidb_low_resolution_tso tidb_max_chunk_size tidb_mem_quota_query
    tidb_multi_statement_mode tidb_partition_prune_mode tidb_redact_log tidb_replica_read tidb_snapshot
    tidb_sysdate_is_now tidb_txn_mode tidb_window_concurrency tikv_client_read_timeout time_zone
    transaction_isolation wait_timeout windowing_use_high_precision
""".split()  # noqa: SIM905 (a name a line is long)
TEXTS = {
    "character_set_client": ["latin1", "gbk"],
    "character_set_connection": ["latin1"],
    "character_set_results": ["latin1", "gbk"],
    "character_set_server": ["latin1"],
    "collation_connection": ["utf8mb4_general_ci", "utf8mb4_0900_ai_ci", "latin1_bin"],
    "collation_server": ["utf8mb4_unicode_ci"],
    "default_collation_for_utf8mb4": ["utf8mb4_general_ci", "utf8mb4_0900_ai_ci"],
    "mpp_version": ["0"],
    "sql_mode": ["", "ANSI", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "PIPES_AS_CONCAT,IGNORE_SPACE,HIGH_NOT_PRECEDENCE"],
    "tidb_hash_join_version": ["optimized"],
    "tidb_isolation_read_engines": ["tikv", "tiflash", "tidb"],
    "tidb_opt_fix_control": ["44262:ON"],
    "time_zone": ["+14:00", "Asia/Kathmandu"],
}


@dataclass(frozen=True)
class Variable:
    """A global variable that is the default of a session's, and the other values that it can have."""

    name: str
    value: str
    others: tuple[str, ...]


@pytest.fixture(scope="module")
def defaults() -> Iterator[Playground]:
    """One instance, whose defaults for sessions are changed."""
    with Playground(instances=1) as started:
        yield started


@pytest.fixture(scope="module")
def root(defaults: Playground) -> Iterator[Client]:
    with Client(defaults) as client:
        yield client


@pytest.fixture(scope="module")
def holder(defaults: Playground, root: Client) -> Iterator[Client]:
    """A session that holds a lock for which another one waits."""
    root.query("CREATE TABLE test.locked (n INT PRIMARY KEY, m INT)")
    root.query("INSERT INTO test.locked VALUES (1, 1)")
    with Client(defaults) as holder, Client(defaults) as waiter:
        waiter.query("SET innodb_lock_wait_timeout = 3600")
        for client in (holder, waiter):
            client.query("BEGIN")
        holder.query("UPDATE test.locked SET m = 2")
        waiter.start("UPDATE test.locked SET m = 3")
        with tidb_magic.connect(defaults.url(0)) as cluster:
            eventually(lambda: list(cluster.locks().roots["ID"]) == [holder.id])
        yield holder


@pytest.fixture(scope="module")
def variables(root: Client) -> list[Variable]:
    rows = root.query(
        "SELECT VARIABLE_NAME, CURRENT_VALUE, DEFAULT_VALUE, MIN_VALUE, MAX_VALUE, POSSIBLE_VALUES"
        " FROM INFORMATION_SCHEMA.VARIABLES_INFO"
        " WHERE VARIABLE_SCOPE = 'SESSION,GLOBAL' AND IS_NOOP = 'NO' ORDER BY VARIABLE_NAME"
    )
    found = []
    for name, value, default, lowest, highest, possible in rows:
        if possible:
            values = possible.split(",")
        elif default in ("ON", "OFF"):
            values = ["ON", "OFF"]
        else:
            values = [lowest, highest] if lowest is not None else TEXTS.get(name, [])
        found.append(Variable(name, value, tuple(str(one) for one in values if str(one) != value)))
    return found


def walk(defaults: Playground, root: Client, holder: Client, variables: list[Variable]) -> tuple[int, dict[str, str]]:
    """Make each value the default in turn; return how many there were, and what went wrong with which."""
    values, wrong = 0, {}
    for variable in variables:
        for value in variable.others:
            if not assign(root, variable.name, value):
                continue
            values += 1
            try:
                use(defaults, holder)
            except Exception as error:  # noqa: BLE001 (the others are tried, too)
                wrong[f"{variable.name} = {value}"] = f"{type(error).__name__}: {error}"
            assert assign(root, variable.name, variable.value)
    return values, wrong


def assign(root: Client, name: str, value: str) -> bool:
    """Set a global variable; tell whether the server takes this value."""
    for text in (f"'{value}'", value):
        try:
            root.query(f"SET GLOBAL {name} = {text}")
        except pymysql.err.OperationalError:
            continue
        except pymysql.Error:
            return False
        return True
    return False


def use(defaults: Playground, holder: Client) -> None:
    all_rows = "SET sql_select_limit = 18446744073709551615"
    with tidb_magic.connect(defaults.url(0)) as cluster, Client(defaults, init_command=all_rows) as victim:
        listed = cluster.processlist(idle=True)
        assert listed.complete, listed
        assert {holder.id, victim.id} <= set(listed["ID"])
        assert cluster.count_by("USER")["SESSIONS"].sum() == len(listed)
        assert list(cluster.instances()["SESSIONS"]) == [len(listed)]
        assert list(cluster.locks().roots["ID"]) == [holder.id]
        row = only(cluster.kill([victim.id]))
        assert row["OUTCOME"] == "killed", row["REASON"]


def test_a_variable_that_a_version_does_not_know_is_left_out_from_then_on(
    playground: Playground, every_statement: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_variables, "_VALUES", {TIDB_ONLY: "512", "tidb_of_tomorrow": "1", "sql_mode": "''"})
    monkeypatch.setattr(connection, "_NOT_TAKEN", {})
    first, second = (Connection(parse_url(playground.url(0))) for _ in range(2))
    assert ["tidb_of_tomorrow" in sql for sql in every_statement if "SET " in sql] == [True, False, False]
    for one in (first, second):
        set_ = f"SELECT @@{TIDB_ONLY}, @@sql_mode, @@tidb_session_alias"
        assert one.query(set_, deadline=5).rows == ((512, "", one.alias),)
        one.close()


def test_where_the_error_names_no_variable_each_is_tried_by_itself(
    playground: Playground, every_statement: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in security-enhanced mode, where some need a right."""
    run = Connection._run_all

    def refused(self: Connection, statements: list[str]) -> Any:
        return run(self, ["KILL" if "sql_mode" in sql and "SET " in sql else sql for sql in statements])

    monkeypatch.setattr(Connection, "_run_all", refused)
    monkeypatch.setattr(connection, "_NOT_TAKEN", {})
    first, second = (Connection(parse_url(playground.url(0))) for _ in range(2))
    for one in (first, second):
        assert one.query("SELECT @@tidb_session_alias", deadline=5).rows == ((one.alias,),)
        one.close()
    (left_out,) = connection._NOT_TAKEN.values()
    assert left_out == {"sql_mode"}


@pytest.mark.cluster
@pytest.mark.xdist_group("defaults")
def test_the_likeliest_defaults_of_a_cluster_change_nothing(
    defaults: Playground, root: Client, holder: Client, variables: list[Variable]
) -> None:
    chosen = [one for one in variables if one.name in LIKELIEST]
    values, wrong = walk(defaults, root, holder, chosen)
    assert wrong == {}
    assert values > 40


@pytest.mark.cluster
@pytest.mark.xdist_group("defaults")
@pytest.mark.parametrize("variable", ["tidb_super_read_only", "tidb_restricted_read_only"])
def test_where_a_cluster_is_read_only_a_kill_names_the_setting_and_who_may_kill_all_the_same(
    defaults: Playground, root: Client, variable: str
) -> None:
    root.query("CREATE USER IF NOT EXISTS writer")
    root.query("GRANT PROCESS, CONNECTION_ADMIN, RESTRICTED_REPLICA_WRITER_ADMIN ON *.* TO writer")
    url = defaults.url(0)
    with (
        Client(defaults) as victim,
        tidb_magic.connect(url) as cluster,
        tidb_magic.connect(url.replace("root", "writer")) as writer,
    ):
        root.query(f"SET GLOBAL {variable} = ON")
        try:
            row = only(cluster.kill([victim.id]))
            assert row["OUTCOME"] == "failed"
            assert "tidb_super_read_only or tidb_restricted_read_only is ON, which refuses KILL" in row["REASON"]
            assert victim.alive()
            assert only(writer.kill([victim.id]))["OUTCOME"] == "killed"
        finally:
            root.query("SET GLOBAL tidb_restricted_read_only = OFF")
            root.query("SET GLOBAL tidb_super_read_only = OFF")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.xdist_group("defaults")
def test_no_default_of_a_cluster_changes_anything(
    defaults: Playground, root: Client, holder: Client, variables: list[Variable]
) -> None:
    values, wrong = walk(defaults, root, holder, variables)
    assert wrong == {}
    assert values > 300
