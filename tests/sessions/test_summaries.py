"""Sessions counted by columns, and the instances."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets import TraitError

import tidb_magic
from tests.clients import LONG_SELECT, Client, statements
from tidb_magic import Cluster
from tidb_magic.errors import OptionError
from tidb_magic.playground import Playground


@pytest.fixture
def crowd(playground: Playground, users: dict[str, str], running: Any) -> Iterator[list[Client]]:
    """Three sessions of joe, one of them busy, and one of monitor in a transaction."""
    joes = [Client(playground, at, "joe", password=users["joe"], database="test") for at in range(3)]
    monitor = Client(playground, 1, "monitor", password=users["monitor"])
    running(joes[0].start(LONG_SELECT.format("views")))
    monitor.query("BEGIN")
    monitor.query("SELECT * FROM test.numbers WHERE n = 1")
    yield [*joes, monitor]
    for client in (*joes, monitor):
        client.__exit__(None, None, None)


def row(counts: pd.DataFrame, **values: object) -> Any:
    for name, value in values.items():
        counts = counts[counts[name] == value]
    (found,) = counts.itertuples(index=False)
    return found


def test_sessions_are_counted_by_the_server_in_one_statement(cluster: Cluster, crowd: list[Client]) -> None:
    asked = statements(cluster)
    counts = cluster.count_by("USER")
    assert len(asked) == 1
    joe, monitor = row(counts, USER="joe"), row(counts, USER="monitor")
    assert (joe.SESSIONS, joe.ACTIVE) == (3, 1)
    assert (monitor.SESSIONS, monitor.ACTIVE) == (1, 1)
    assert list(counts["SESSIONS"]) == sorted(counts["SESSIONS"], reverse=True)
    assert {name: str(dtype) for name, dtype in counts.dtypes.items() if name != "USER"} == dict.fromkeys(
        ("SESSIONS", "ACTIVE", "LONGEST", "MEMORY"), "Int64"
    )
    everything = cluster.processlist(idle=True, limit=10_000)
    assert counts["SESSIONS"].sum() == len(everything)
    assert counts.complete
    assert "Complete: every registered instance answered." in repr(counts)


def test_several_columns_and_filters(cluster: Cluster, crowd: list[Client]) -> None:
    counts = cluster.count_by("db", "Command", user="joe")
    assert list(counts.columns[:2]) == ["DB", "COMMAND"]
    assert row(counts, DB="test", COMMAND="Sleep").SESSIONS == 2
    assert row(counts, DB="test", COMMAND="Query").SESSIONS == 1
    assert pd.isna(row(counts, COMMAND="Sleep").LONGEST)  # idle ones do not run
    by_start = cluster.count_by("TxnStart", user="monitor")
    assert len(by_start) == 1


def test_clients_are_counted_by_host_without_the_port(cluster: Cluster, crowd: list[Client]) -> None:
    counts = cluster.count_by("HOST", user="joe")
    assert (list(counts["HOST"]), list(counts["SESSIONS"])) == (["127.0.0.1"], [3])


def test_the_limit_of_groups_is_said(cluster: Cluster, crowd: list[Client]) -> None:
    counts = cluster.count_by("ID", limit=2)
    assert len(counts) == 2
    assert counts.groups > 2
    assert f"2 of {counts.groups} groups are listed: --limit {counts.groups} for all." in repr(counts)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["USR"], "by: the process list has no column 'USR'. Did you mean USER?"),
        (["USER; DROP TABLE x"], "by: the process list has no column 'USER; DROP TABLE x'."),
        ([""], "by: the process list has no column ''. There are: INSTANCE, ID, USER"),
        ([], "by names no column."),
    ],
)
def test_a_column_that_is_not_there_is_named(cluster: Cluster, columns: list[str], says: str) -> None:
    with pytest.raises(OptionError, match=re.escape(says)):
        cluster.count_by(*columns)


def test_bars_are_drawn_behind_the_numbers_and_text_stays_text(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    with Client(playground, 1) as hostile:
        running(hostile.start(LONG_SELECT.format("</td><img src=x onerror=alert(1)>")))
        counts = cluster.count_by("INFO")
    assert counts.complete
    assert counts["INFO"].str.contains("onerror", regex=False).sum() == 1
    html = counts._repr_html_() or ""
    assert "linear-gradient(to right" in html
    assert "100%,transparent 100%" in html
    assert "<img" not in html
    assert "&lt;img src=x" in html


def test_instances_show_what_is_known_of_each(playground: Playground, cluster: Cluster, crowd: list[Client]) -> None:
    instances = cluster.instances()
    assert list(instances["INSTANCE"]) == sorted(playground.status_address(at) for at in range(3))
    for at in range(3):
        one = row(instances, INSTANCE=playground.status_address(at))
        assert f"127.0.0.1:{playground.port(at)}" == one.ADDRESS
        assert (playground.status_address(at), "8.5.6") == (one.STATUS_ADDRESS, one.VERSION)
        assert tidb_magic.ConnectionId(crowd[at].id).server_id == one.SERVER_ID
        assert timedelta(0) < datetime.now().astimezone() - one.UP_SINCE < timedelta(hours=2)
        assert one.SESSIONS >= 1
        assert one.ANSWERING
        assert one.GLOBAL_KILL
    assert instances["SESSIONS"].sum() == len(cluster.processlist(idle=True, limit=10_000))
    assert "3 instances, taken" in repr(instances)
    assert "<table" in (instances._repr_html_() or "")


def test_an_instance_without_sessions_is_listed(playground: Playground, cluster: Cluster) -> None:
    assert len(cluster.instances()) == 3


def test_without_process_the_instances_are_listed_with_what_may_be_seen(
    playground: Playground, users: dict[str, str]
) -> None:
    with tidb_magic.connect(playground.url(0).replace("root", "joe"), password=users["joe"]) as cluster:
        instances = cluster.instances()
        assert set(instances["ADDRESS"]) == {f"127.0.0.1:{playground.port(at)}" for at in range(3)}
        assert set(instances["VERSION"]) == {"8.5.6"}
        assert instances["SERVER_ID"].isna().all()
        assert instances["GLOBAL_KILL"].all()
        assert "Only your own sessions are visible: PROCESS is needed" in repr(instances)


def test_global_kill_off_is_shown_for_each_instance(no_global_kill: Playground) -> None:
    with tidb_magic.connect(no_global_kill.url(0)) as cluster:
        instances = cluster.instances()
        assert not instances["GLOBAL_KILL"].any()
        assert set(instances["SERVER_ID"]) == {0}


def test_the_views_as_typed(connected: InteractiveShell, crowd: list[Client]) -> None:
    connected.run_cell("by = %tidb_ps --by USER,DB --user joe", silent=True)
    assert list(connected.user_ns["by"]["SESSIONS"]) == [3]
    connected.run_cell("there = %tidb_ps --instances", silent=True)
    assert len(connected.user_ns["there"]) == 3
    connected.run_cell("ranked = %tidb_ps --sort mem --full", silent=True)
    ranked = list(connected.user_ns["ranked"]["MEM"])
    assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--by USER --instances", "--instances does not go with --by"),
        ("--instances --user joe", "--instances does not go with --user"),
        ("--by USER --idle", "--by does not go with --idle"),
        ("--by USER --min-time 5 --full", "--by does not go with --full"),
        ("--by nosuch", "--by: the process list has no column 'nosuch'."),
        ("--sort", "argument --sort: expected one argument"),
        ("--sort tim", "--sort: the process list has no column 'tim'. Did you mean TIME?"),
    ],
)
def test_what_does_not_go_together_is_named(
    connected: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    line: str,
    says: str,
) -> None:
    connected.run_cell(f"%tidb_ps {line}")
    shown = capsys.readouterr()
    assert says in shown.err + shown.out
    assert "Traceback" not in shown.err + shown.out


def test_the_deadline_is_a_setting(connected: InteractiveShell) -> None:
    magics: Any = connected.magics_manager.registry["TidbMagics"]
    asked = statements(magics.cluster)
    connected.run_cell("%config TidbMagics.deadline = 1.5", silent=True)
    connected.run_cell("df = %tidb_ps", silent=True)
    assert len(asked) == 1
    assert magics.deadline == 1.5
    with pytest.raises(TraitError, match="should not be less than"):
        magics.deadline = 0
    del connected.config["TidbMagics"]
