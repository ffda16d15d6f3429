"""Kills on a real cluster: the right session, an outcome that was seen, and nothing sent when in doubt."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pandas as pd
import pytest
from pymysql.constants import COMMAND

import tidb_magic
from tests.clients import (
    LONG,
    LONG_SELECT,
    Client,
    eventually,
    one_float,
    statements,
    wait_for_right,
    waits_for_its_reader,
)
from tidb_magic import Cluster
from tidb_magic.connection.driver import Driver
from tidb_magic.display.frame import TEXT
from tidb_magic.errors import ConnectionIdError, OptionError
from tidb_magic.kill.report import COLUMNS
from tidb_magic.kill.routing import Route
from tidb_magic.playground import Playground

INTERRUPTED, LOST = 1317, 2013


def only(report: Any) -> Any:
    dtypes = dict.fromkeys(COLUMNS, TEXT) | {"ID": pd.Int64Dtype(), "SECONDS": pd.Float64Dtype()}
    assert report.dtypes.to_dict() == dtypes
    assert list(report.columns) == COLUMNS
    assert len(report) == 1
    return report.iloc[0]


@pytest.mark.parametrize("instance", [0, 1])
def test_kill_query_ends_the_statement_and_its_client_lives(
    playground: Playground, cluster: Cluster, running: Any, instance: int
) -> None:
    with Client(playground, instance) as client:
        running(client.start(LONG_SELECT.format("query")))
        row = only(cluster.kill([client.id], query=True))
        assert (row["OUTCOME"], row["ACTION"], row["INSTANCE"]) == ("interrupted", "QUERY", client.instance)
        assert row["STATEMENT"] == f"KILL TIDB QUERY {client.id}"
        assert row["INFO"] == LONG_SELECT.format("query")
        assert row["SECONDS"] > 0
        assert client.error_code() == INTERRUPTED
        assert client.alive()


@pytest.mark.parametrize("instance", [0, 1])
def test_kill_connection_ends_the_session(
    playground: Playground, cluster: Cluster, running: Any, instance: int
) -> None:
    with Client(playground, instance) as client:
        running(client.start(LONG_SELECT.format("connection")))
        row = only(cluster.kill([client.id]))
        assert (row["OUTCOME"], row["ACTION"]) == ("killed", "CONNECTION")
        assert client.error_code() == LOST


@pytest.mark.parametrize("instance", [0, 1])
def test_an_idle_session_and_one_in_a_transaction_are_killed(
    playground: Playground, cluster: Cluster, instance: int
) -> None:
    with Client(playground, instance) as idle, Client(playground, instance) as holds:
        holds.query("BEGIN")
        holds.query(f"SELECT * FROM test.numbers WHERE n = {100 + instance} FOR UPDATE")
        report = cluster.kill([idle.id, holds.id])
        assert list(report["OUTCOME"]) == ["killed", "killed"]
        assert not idle.alive()
        assert not holds.alive()


@pytest.mark.parametrize("begin", ["SELECT 1", "BEGIN"])
def test_kill_query_of_a_session_that_runs_nothing_is_refused(
    playground: Playground, cluster: Cluster, begin: str
) -> None:
    with Client(playground, 1) as client:
        client.query(begin)
        row = only(cluster.kill([client.id], query=True))
        assert row["OUTCOME"] == "refused"
        assert "runs no statement now" in row["REASON"]
        assert client.alive()


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("number", [0, 1, 101, 102, 2097158, 4294967297, 9223372036854775807, 2**63, 2**64 - 1])
def test_an_id_that_nobody_has_is_already_gone(cluster: Cluster, number: int, query: bool) -> None:
    row = only(cluster.kill([number], query=query))
    assert row["OUTCOME"] == "already gone"
    assert "no session has this id" in row["REASON"]
    assert str(number) in f"{row['ID']} {row['REASON']}"


def test_ids_of_nobody_get_two_looks_and_no_kill(cluster: Cluster) -> None:
    asked = statements(cluster)
    cluster.kill([2097158])
    assert sum("CLUSTER_PROCESSLIST" in sql for sql in asked) == 2
    assert not any("KILL" in sql for sql in asked)


@pytest.fixture
def looks_stay_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no look expire before its KILL is sent, so that a slow machine adds no second look."""
    monkeypatch.setattr("tidb_magic.kill.instance_worker._FRESH", LONG)


@pytest.mark.usefixtures("looks_stay_fresh")
@pytest.mark.parametrize("instance", [0, 1])
def test_a_kill_asks_no_more_than_a_person_would(
    playground: Playground, cluster: Cluster, running: Any, every_statement: list[str], instance: int
) -> None:
    """Look, KILL, look, and look at a transaction closely: on the instance of the session, once we are there."""
    with Client(playground, instance) as client, Client(playground, instance) as second:
        running(client.start(LONG_SELECT.format("counted")))
        cluster.plan([second.id])  # opens the connection
        del every_statement[:]
        cluster.kill([second.id])
        assert [_kind(sql) for sql in every_statement][:3] == ["look", "KILL", "look"]
        assert {_kind(sql) for sql in every_statement[3:]} <= {"look"}
        del every_statement[:]
        cluster.kill([client.id], query=True)
        assert [_kind(sql) for sql in every_statement][:4] == ["look", "closely", "KILL", "look"]
        assert {_kind(sql) for sql in every_statement[4:]} <= {"look"}
        assert not [sql for sql in every_statement if "FROM INFORMATION_SCHEMA.CLUSTER_" in sql]


@pytest.mark.usefixtures("looks_stay_fresh")
def test_many_victims_of_an_instance_get_one_look_together(
    playground: Playground, cluster: Cluster, every_statement: list[str]
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(playground, 1)) for _ in range(10)]
        cluster.plan([clients[0].id])
        del every_statement[:]
        report = cluster.kill([client.id for client in clients])
        assert set(report["OUTCOME"]) == {"killed"}
        kinds = [_kind(sql) for sql in every_statement]
        assert kinds.count("KILL") == 10
        assert kinds[:2] == ["look", "KILL"]
        assert len(kinds) < 20


def _kind(sql: str) -> str:
    words = {"KILL TIDB": "KILL", "TIDB_TRX": "closely", "PROCESSLIST": "look", "SHOW GRANTS": "SHOW"}
    return next(kind for word, kind in words.items() if word in sql)


def query_killed_beside(pool: Callable[[], None], cluster: Cluster, client: Client) -> Any:
    """Kill the client's statement while its pool waits to use the session for somebody else."""
    thread = threading.Thread(target=pool)
    thread.start()
    row = only(cluster.kill([client.id], query=True))
    thread.join()
    return row


def test_a_pooled_session_that_changes_its_user_after_kill_query_is_not_called_killed(
    playground: Playground, cluster: Cluster, running: Any, users: dict[str, str]
) -> None:
    """COM_CHANGE_USER keeps the id, changes the USER, and hides the session from the list for a moment."""
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("pooled")))

        def pool() -> None:
            client.result()
            for _ in range(5):
                client.become("joe", users["joe"])
                client.become("monitor", users["monitor"])

        assert query_killed_beside(pool, cluster, client)["OUTCOME"] == "interrupted"
        assert client.alive()


def test_a_session_that_became_another_users_is_not_called_killed_by_one_who_cannot_see_it(
    playground: Playground, running: Any, users: dict[str, str]
) -> None:
    url = playground.url(0).replace("root", "joe")  # without PROCESS
    with (
        tidb_magic.connect(url, password=users["joe"]) as cluster,
        Client(playground, 1, "joe", password=users["joe"]) as client,
    ):
        running(client.start(LONG_SELECT.format("pooled")))

        def pool() -> None:
            client.result()
            client.become("monitor", users["monitor"])

        assert query_killed_beside(pool, cluster, client)["OUTCOME"] == "interrupted"
        assert client.alive()


def test_an_id_of_a_server_that_is_not_registered_says_so(cluster: Cluster) -> None:
    row = only(cluster.kill([2097158]))
    assert row["REASON"] == (
        "no session has this id; no registered instance has its server id 1"
        " (restarted, cut off from PD, or of another cluster)"
    )


@pytest.mark.parametrize("number", [7, 2097158])
def test_through_a_proxy_an_id_that_can_be_the_proxys_says_so(
    playground: Playground, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """TiProxy counts its connections, and its count is the id of the handshake."""
    monkeypatch.setattr(Driver, "thread_id", lambda _: 12)
    with tidb_magic.connect(playground.url(0)) as cluster:
        row = only(cluster.kill([number]))
    assert row["OUTCOME"] == "already gone"
    assert row["REASON"] == (
        "no session has this id: a driver's thread id is the proxy's own number; SELECT CONNECTION_ID() gives TiDB's"
    )


def test_a_right_that_was_taken_away_counts_at_once(playground: Playground, users: dict[str, str]) -> None:
    url = playground.url(0).replace("root", "taken")
    with Client(playground, 0) as root, Client(playground, 1, "joe", password=users["joe"]) as stranger:
        root.query(f"CREATE USER taken IDENTIFIED BY '{users['joe']}'")
        root.query("GRANT PROCESS, CONNECTION_ADMIN ON *.* TO taken")
        wait_for_right(playground, "taken", users["joe"], "CONNECTION_ADMIN")
        try:
            with tidb_magic.connect(url, password=users["joe"]) as cluster:
                assert only(cluster.plan([stranger.id]))["OUTCOME"] == "planned"
                root.query("REVOKE CONNECTION_ADMIN ON *.* FROM taken")
                eventually(lambda: only(cluster.plan([stranger.id]))["OUTCOME"] == "refused")
                root.query("REVOKE PROCESS ON *.* FROM taken")
                eventually(lambda: "not visible" in only(cluster.kill([stranger.id]))["REASON"])
                assert stranger.alive()
        finally:
            root.query("DROP USER taken")


@pytest.mark.parametrize("timeout", ["5", None, 0, -1, float("nan"), float("inf"), 1e10, True])
def test_a_bad_timeout_is_refused_before_anything_is_sent(
    playground: Playground, cluster: Cluster, timeout: Any
) -> None:
    with Client(playground, 1) as client:
        with pytest.raises(OptionError, match="timeout"):
            cluster.kill([client.id], timeout=timeout)
        with pytest.raises(OptionError, match="deadline"):
            cluster.processlist(deadline=timeout)
        assert client.alive()


def test_seconds_are_from_kill_to_proof(
    playground: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    send = Route.send

    def slow(*args: Any, **kwargs: Any) -> Any:
        result = send(*args, **kwargs)
        began = time.monotonic()
        threading.Event().wait(0.3)
        slept.append(time.monotonic() - began)
        return result

    monkeypatch.setattr(Route, "send", slow)
    with Client(playground, 1) as client:
        assert only(cluster.kill([client.id]))["SECONDS"] > slept[0]


def test_own_connections_are_refused(playground: Playground, cluster: Cluster) -> None:
    with tidb_magic.connect(playground.url(1)) as other:
        for number in (cluster._pool.connection().id, other._pool.connection().id):
            row = only(cluster.kill([number]))  # type: ignore[list-item]
            assert row["OUTCOME"] == "refused"
            assert "tidb_magic itself" in row["REASON"]
        assert other.processlist().complete
    row = only(cluster.kill([tidb_magic.parse_kill("KILL CONNECTION_ID()")]))
    assert row["OUTCOME"] == "refused"


def test_own_connection_of_64_bits_is_refused(ids64: Playground) -> None:
    with tidb_magic.connect(ids64.url(1)) as cluster:
        own = cluster._pool.connection()
        assert own.id != own._driver.thread_id()
        assert only(cluster.kill([own.id]))["OUTCOME"] == "refused"  # type: ignore[list-item]
        assert cluster.processlist().complete


def test_two_ids_that_are_one_float_are_kept_apart_from_list_to_kill(ids64: Playground, running: Any) -> None:
    with tidb_magic.connect(ids64.url(0)) as cluster, one_float(ids64, 1) as (one, two):
        assert one.id != two.id
        for client in (one, two):
            running(client.start(LONG_SELECT.format("twins")))
        listed = cluster.processlist()
        (found,) = [int(number) for number in listed["ID"] if number == two.id]
        assert only(cluster.kill([found], query=True))["OUTCOME"] == "interrupted"
        assert two.error_code() == INTERRUPTED
        assert one.id in set(cluster.processlist()["ID"])
        assert only(cluster.kill(listed.loc[listed["ID"] == one.id, "ID"]))["OUTCOME"] == "killed"


@pytest.mark.parametrize("ids", [[5.0], [1, 2.5e18], ["QUERY 5"], [None], [True], [b"57"], ["9" * 5000]])
def test_what_is_no_id_stops_the_kill_before_anything_is_sent(
    playground: Playground, cluster: Cluster, ids: list[Any]
) -> None:
    with Client(playground, 1) as client:
        with pytest.raises(ConnectionIdError):
            cluster.kill([client.id, *ids])
        assert client.alive()


@pytest.mark.parametrize("ids", [b"57", 5.0, {57: 59}, pd.DataFrame({"ID": [57.0]}), pd.Series([57, None])])
def test_what_is_no_list_of_ids_is_refused(cluster: Cluster, ids: Any) -> None:
    with pytest.raises(ConnectionIdError):
        cluster.plan(ids)


def test_one_id_needs_no_list(cluster: Cluster) -> None:
    assert list(cluster.plan(2097158)["ID"]) == list(cluster.plan("2097158")["ID"]) == [2097158]


def test_without_the_right_another_users_session_is_refused_where_tidb_itself_would_kill_it(
    playground: Playground, users: dict[str, str]
) -> None:
    """TiDB lets a user without rights end anybody's session on another instance: the check is ours."""
    with Client(playground, 1, "monitor", password=users["monitor"]) as victim:
        url = playground.url(0).replace("root", "monitor")  # sees everybody, may end nobody else
        with (
            tidb_magic.connect(url, password=users["monitor"]) as cluster,
            Client(playground, 1, "joe", password=users["joe"]) as stranger,
        ):
            row = only(cluster.kill([stranger.id]))
            assert row["OUTCOME"] == "refused"
            assert "neither CONNECTION_ADMIN nor SUPER" in row["REASON"]
            assert stranger.alive()
            assert only(cluster.kill([victim.id]))["OUTCOME"] == "killed"  # one's own


def test_an_id_that_this_user_cannot_see_is_not_called_gone(playground: Playground, users: dict[str, str]) -> None:
    url = playground.url(0).replace("root", "oncall")  # may end everybody, sees nobody
    with (
        tidb_magic.connect(url, password=users["oncall"]) as cluster,
        Client(playground, 1, "joe", password=users["joe"]) as stranger,
    ):
        for number in (stranger.id, 2097158):
            row = only(cluster.kill([number]))
            assert row["OUTCOME"] == "refused"
            assert "without PROCESS other users' sessions are not visible" in row["REASON"]
        assert stranger.alive()


def test_a_role_that_is_active_counts(playground: Playground, users: dict[str, str]) -> None:
    with Client(playground) as root:
        root.query("CREATE ROLE IF NOT EXISTS killer")
        root.query("GRANT CONNECTION_ADMIN ON *.* TO killer")
        root.query("GRANT killer TO monitor")
        root.query("SET DEFAULT ROLE killer TO monitor")
        wait_for_right(playground, "monitor", users["monitor"], "CONNECTION_ADMIN")
        url = playground.url(0).replace("root", "monitor")
        try:
            with (
                tidb_magic.connect(url, password=users["monitor"]) as cluster,
                Client(playground, 1, "joe", password=users["joe"]) as stranger,
            ):
                assert only(cluster.kill([stranger.id]))["OUTCOME"] == "killed"
                assert not stranger.alive()
        finally:
            root.query("DROP ROLE killer")


def test_a_plan_sends_nothing(playground: Playground, cluster: Cluster, running: Any) -> None:
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("planned")))
        row = only(cluster.plan([client.id], query=True))
        assert (row["OUTCOME"], row["STATEMENT"]) == ("planned", f"KILL TIDB QUERY {client.id}")
        assert client.id in set(cluster.processlist()["ID"])
        cluster.kill([client.id])


@pytest.mark.parametrize("query", [True, False])
def test_what_does_not_end_in_time_is_still_running(
    playground: Playground, cluster: Cluster, running: Any, monkeypatch: pytest.MonkeyPatch, query: bool
) -> None:
    """The KILL is replaced by a statement that the server accepts and that does nothing."""
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("stubborn")))
        monkeypatch.setattr("tidb_magic.kill.parser.KillStatement.sql", "DO 0")
        row = only(cluster.kill([client.id], query=query, timeout=0.5))
        assert row["OUTCOME"] == "still running"
        assert "did not end within 0.5 s" in row["REASON"]
        monkeypatch.undo()
        cluster.kill([client.id])


def test_a_result_that_its_client_does_not_read_is_still_running_and_the_step_that_is_named_ends_it(
    playground: Playground, cluster: Cluster
) -> None:
    with Client(playground, 1) as client:
        asked = b"SELECT REPEAT('x', 1000) FROM test.numbers a, test.numbers b"
        client._driver._execute_command(COMMAND.COM_QUERY, asked)  # and reads nothing
        eventually(lambda: waits_for_its_reader(playground, 1))
        row = only(cluster.kill([client.id], query=True, timeout=1))
        assert row["OUTCOME"] == "still running"
        said, _, typed = row["REASON"].rpartition(": ")
        assert said.endswith("if its client does not read the result, end the connection")
        assert typed == f"%tidb_kill {client.id}"
        assert only(cluster.kill([client.id]))["OUTCOME"] == "killed"


def test_benchmark_is_not_interrupted_and_the_report_says_so(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    with Client(playground, 1) as client, Client(playground, 1) as watch:
        running(client.start("SELECT BENCHMARK(6000000, MD5('x'))"))
        for query in (True, False):
            row = only(cluster.kill([client.id], query=query, timeout=0.5))
            assert row["OUTCOME"] == "still running"
            assert row["REASON"].endswith(
                "TiDB does not interrupt BENCHMARK(): it ends by itself, or with its instance"
            )
        gone = f"SELECT 1 FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {client.id}"
        eventually(lambda: not watch.query(gone))  # by itself, and the session with it


def test_sleep_is_not_interrupted_for_rows_that_no_table_stores_and_the_report_says_so(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    with Client(playground, 1) as client, Client(playground, 1) as watch:
        running(client.start("SELECT SLEEP(0.005) FROM INFORMATION_SCHEMA.COLUMNS"))
        # While TiDB collects the rows the statement can be interrupted.
        eventually(
            lambda: watch.query(f"SELECT 1 FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {client.id} AND TIME >= 2")
        )
        row = only(cluster.kill([client.id], query=True, timeout=0.5))
        assert row["OUTCOME"] == "still running"
        assert "TiDB does not interrupt SLEEP() for rows that no table stores: it ends by itself" in row["REASON"]


@pytest.mark.parametrize("query", [True, False])
def test_a_wait_for_a_user_level_lock_ends_with_the_session_that_holds_it(
    playground: Playground, cluster: Cluster, running: Any, query: bool
) -> None:
    with Client(playground, 2) as holder, Client(playground, 1) as client:
        assert holder.query("SELECT GET_LOCK('ours', 1)") == ((1,),)
        running(client.start("SELECT GET_LOCK('ours', 600)"))
        row = only(cluster.kill([client.id], query=query, timeout=1))
        assert row["OUTCOME"] == "still running"
        assert "TiDB does not interrupt GET_LOCK(): it ends when the session that holds the lock" in row["REASON"]
        assert only(cluster.kill([holder.id]))["OUTCOME"] == "killed"
        client.result()


def test_an_id_that_was_rounded_or_cut_in_half_is_named_and_nothing_is_sent(ids64: Playground) -> None:
    with tidb_magic.connect(ids64.url(0)) as cluster, ExitStack() as stack:
        clients = [stack.enter_context(Client(ids64, 1)) for _ in range(3)]
        whole = [client.id for client in clients if int(float(client.id)) != client.id]
        for number in (int(float(whole[0])), whole[0] % 2**32):
            row = only(cluster.kill([number]))
            assert row["OUTCOME"] == "already gone"
            assert str(whole[0]) in row["REASON"]
            assert ("a float has rounded it" in row["REASON"]) == (number > 2**32)
        assert all(client.alive() for client in clients)
