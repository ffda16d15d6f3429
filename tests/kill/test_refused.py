"""What is not sent although it could be: no right, DDL, IMPORT INTO, internal work, what is committing."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest

import tidb_magic
from tests.clients import LONG, OTHER_WORK, Client, eventually, wait_for_right
from tests.kill.test_identity import kills, row_of
from tests.kill.test_kill import only
from tidb_magic import Cluster
from tidb_magic.connection.cleanup import end_statement
from tidb_magic.connection.connection import Connection
from tidb_magic.errors import DeadlineError
from tidb_magic.playground import Playground

# -- rights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", ["auto", "never"])
@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("source", ["id", "row", "filter"])
def test_without_the_right_nothing_is_sent_to_another_instance_by_any_way_forced_or_not(
    playground: Playground, users: dict[str, str], every_statement: list[str], direct: str, force: bool, source: str
) -> None:
    url = playground.url(0).replace("root", "monitor")
    with (
        tidb_magic.connect(url, password=users["monitor"], direct=direct) as cluster,
        Client(playground, 1, "joe", password=users["joe"]) as stranger,
    ):
        match source:
            case "id":
                report = cluster.kill([stranger.id], force=force)
            case "row":
                report = cluster.kill(row_of(cluster, stranger), force=force)
            case _:
                report = cluster.kill(where=f"ID = {stranger.id}", idle=True, force=force)
        row = only(report)
        assert row["OUTCOME"] == "refused"
        assert row["REASON"] == "it is joe's session, and monitor has neither CONNECTION_ADMIN nor SUPER"
        assert kills(every_statement) == []
        assert stranger.alive()


def test_a_right_that_was_revoked_while_we_believed_in_it_is_the_servers_to_refuse(
    playground: Playground, users: dict[str, str]
) -> None:
    with Client(playground, 0) as root, Client(playground, 1, "joe", password=users["joe"]) as stranger:
        root.query(f"CREATE USER revoked IDENTIFIED BY '{users['joe']}'")
        root.query("GRANT PROCESS, CONNECTION_ADMIN ON *.* TO revoked")
        wait_for_right(playground, "revoked", users["joe"], "CONNECTION_ADMIN")
        try:
            with tidb_magic.connect(playground.url(0).replace("root", "revoked"), password=users["joe"]) as cluster:
                assert only(cluster.plan([stranger.id]))["OUTCOME"] == "planned"
                root.query("REVOKE CONNECTION_ADMIN ON *.* FROM revoked")
                with Client(playground, 1, "revoked", password=users["joe"]) as same:
                    eventually(lambda: "CONNECTION_ADMIN" not in str(same.query("SHOW GRANTS")))
                row = only(cluster.kill([stranger.id]))
                assert row["OUTCOME"] == "failed"
                assert "Access denied" in row["REASON"]
                assert stranger.alive()
        finally:
            root.query("DROP USER revoked")


@pytest.mark.parametrize("user", ["admin", "root"])
def test_in_security_enhanced_mode_a_protected_user_on_another_instance_is_refused_and_lives(
    sem: Playground, every_statement: list[str], user: str
) -> None:
    """TiDB checks that only on the session's own instance, to which there is no way here."""
    with (
        tidb_magic.connect(sem.url(0).replace("root", user)) as cluster,
        Client(sem, 1, "guarded") as guarded,
        Client(sem, 1, "plain") as plain,
    ):
        for victims in ([guarded.id], row_of(cluster, guarded)):
            row = only(cluster.kill(victims, force=True))
            assert row["OUTCOME"] == "refused"
            assert "security-enhanced mode may protect guarded" in row["REASON"]
        assert kills(every_statement) == []
        assert guarded.alive()
        assert only(cluster.kill(row_of(cluster, plain)))["OUTCOME"] == "killed"


def test_in_security_enhanced_mode_a_protected_user_on_the_own_instance_is_refused_by_us_or_by_tidb(
    sem: Playground,
) -> None:
    with Client(sem, 1, "guarded") as guarded:
        for user, outcome in (("admin", "refused"), ("blind", "failed")):
            with tidb_magic.connect(sem.url(1).replace("root", user)) as cluster:
                row = only(cluster.kill([guarded.id]))
                assert row["OUTCOME"] == outcome
                assert "RESTRICTED_CONNECTION_ADMIN" in row["REASON"]
                assert guarded.alive()


def test_who_may_end_protected_users_ends_them_on_another_instance_too(sem: Playground) -> None:
    with tidb_magic.connect(sem.url(0).replace("root", "chief")) as cluster, Client(sem, 1, "guarded") as guarded:
        assert only(cluster.kill([guarded.id]))["OUTCOME"] == "killed"
        assert not guarded.alive()


def test_where_it_is_not_to_see_who_is_protected_everybody_is(sem: Playground, every_statement: list[str]) -> None:
    with tidb_magic.connect(sem.url(0).replace("root", "blind")) as cluster, Client(sem, 1, "plain") as plain:
        row = only(cluster.kill([plain.id]))
        assert row["OUTCOME"] == "refused"
        assert "may protect plain" in row["REASON"]
        assert kills(every_statement) == []


def test_in_security_enhanced_mode_our_own_connections_are_known_before_any_list(sem: Playground) -> None:
    """Nothing but the cluster's list tells the name of an instance there."""
    with tidb_magic.connect(sem.url(0)) as cluster, Client(sem, 0) as client:
        main = cluster._pool.connection()
        assert main.instance is not None
        assert only(cluster.kill([int(main.id or 0)]))["REASON"] == "it is a connection of tidb_magic itself"
        row = only(cluster.kill([client.id]))
        assert (row["OUTCOME"], row["INSTANCE"]) == ("killed", main.instance)


def test_in_security_enhanced_mode_a_silent_instance_does_not_keep_us_from_connecting(sem: Playground) -> None:
    with Client(sem, 0) as client:
        sem.freeze(1)
        try:
            began = time.monotonic()
            with tidb_magic.connect(sem.url(0)) as cluster:
                assert only(cluster.kill([client.id], deadline=LONG))["OUTCOME"] == "killed"
                assert time.monotonic() - began < OTHER_WORK
        finally:
            sem.resume(1)
    with tidb_magic.connect(sem.url(0)) as cluster:
        eventually(lambda: cluster.processlist().complete)


# -- DDL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting_ddl(playground: Playground, running: Any) -> Iterator[Client]:
    """A session whose ADD INDEX waits for a metadata lock that another session holds."""
    with ExitStack() as stack:
        holds, ddl, root = (stack.enter_context(Client(playground, i)) for i in (0, 1, 0))
        root.query("CREATE TABLE IF NOT EXISTS test.altered (n INT PRIMARY KEY, v INT)")
        root.query("INSERT IGNORE INTO test.altered VALUES (1, 1)")
        holds.query("BEGIN")
        holds.query("SELECT * FROM test.altered")
        running(ddl.start("/* nightly */ ALTER TABLE test.altered ADD INDEX late (v)"))
        jobs = "SELECT JOB_ID FROM INFORMATION_SCHEMA.DDL_JOBS WHERE QUERY LIKE '%late%' AND STATE = 'running'"
        eventually(lambda: root.query(jobs))
        yield ddl
        holds.query("ROLLBACK")
        with suppress(pymysql.Error):
            ddl.result()
        eventually(lambda: not root.query(jobs))
        root.query("DROP TABLE test.altered")


@pytest.mark.parametrize("query", [True, False])
def test_ddl_that_waits_for_a_metadata_lock_is_refused_and_its_job_is_named(
    cluster: Cluster, waiting_ddl: Client, every_statement: list[str], query: bool
) -> None:
    row = only(cluster.kill([waiting_ddl.id], query=query))
    assert row["OUTCOME"] == "refused"
    assert "it runs DDL, whose job a KILL does not end: ADMIN CANCEL DDL JOBS " in row["REASON"]
    assert row["REASON"].endswith("; --force sends the KILL anyway")
    assert kills(every_statement) == []


def test_forced_on_ddl_the_report_tells_what_really_happened(cluster: Cluster, waiting_ddl: Client) -> None:
    """Both are answered with OK. The job goes on, and the session waits for it."""
    row = only(cluster.kill([waiting_ddl.id], query=True, force=True, timeout=1))
    assert row["OUTCOME"] == "still running"
    assert " is running" in row["REASON"].partition("its DDL job ")[2]
    row = only(cluster.kill([waiting_ddl.id], force=True, timeout=1))
    assert row["OUTCOME"] == "still running"
    assert "its DDL job " in row["REASON"]


def test_ddl_that_runs_is_refused(playground: Playground, cluster: Cluster, running: Any) -> None:
    with Client(playground, 1) as ddl, Client(playground, 0) as root:
        root.query("CREATE TABLE IF NOT EXISTS test.big (n INT PRIMARY KEY, v VARCHAR(200))")
        root.query(f"INSERT IGNORE INTO test.big VALUES {', '.join(f'({n}, REPEAT(1, 200))' for n in range(2000))}")
        for number in range(20):  # until one is slow enough to be met
            ddl.start(f"CREATE INDEX built_{number} ON test.big (v)")
            row = only(cluster.kill([ddl.id], query=True))
            ddl.result()
            if "ADMIN CANCEL DDL JOBS" in row["REASON"]:
                break
        assert row["OUTCOME"] == "refused"
        assert "ADMIN CANCEL DDL JOBS" in row["REASON"]
        root.query("DROP TABLE test.big")


# -- IMPORT INTO, internal work, committing --------------------------------------------------------------------


def test_import_into_is_refused_and_forced_it_tells_what_happened(
    playground: Playground, cluster: Cluster, running: Any, every_statement: list[str], tmp_path: Path
) -> None:
    """It waits for its source, a pipe that nobody writes into."""
    source = tmp_path / "source.csv"
    os.mkfifo(source)
    with Client(playground, 1) as importing, Client(playground, 0) as root:
        root.query("CREATE TABLE IF NOT EXISTS test.imported (a INT PRIMARY KEY, b INT)")
        running(importing.start(f"IMPORT INTO test.imported FROM '{source}'"))
        row = only(cluster.kill([importing.id]))
        assert row["OUTCOME"] == "refused"
        assert "SHOW IMPORT JOBS, then CANCEL IMPORT JOB" in row["REASON"]
        assert kills(every_statement) == []
        row = only(cluster.kill([importing.id], force=True, timeout=1))
        assert row["OUTCOME"] == "still running"
        with os.fdopen(os.open(source, os.O_WRONLY | os.O_NONBLOCK), "wb"):
            pass
        importing.result()


@pytest.fixture
def analyzing() -> Iterator[Playground]:
    """A playground whose auto analyze was met at work, and is held there by the frozen store."""
    soon = "SET GLOBAL tidb_enable_auto_analyze_priority_queue = OFF;"
    with Playground(instances=2, stats_lease="20ms", initialize=soon) as started, Client(started, 1) as root:
        root.query("CREATE TABLE test.analyzed (n INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(200))")
        at_work = "SELECT 1 FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE USER = '' AND INFO LIKE 'analyze table%'"

        def met() -> bool:
            if not root.query(at_work):
                return False
            started.freeze("store")
            if root.query(at_work):
                return True
            started.resume("store")
            return False

        def met_soon() -> bool:
            root.query("UPDATE test.analyzed SET v = CONCAT(v, 'x')")
            until = time.monotonic() + 8
            while time.monotonic() < until:
                if met():
                    return True
            return False

        for _ in range(10):  # many rows take long enough to be met
            root.query(f"INSERT INTO test.analyzed (v) VALUES {', '.join(['(REPEAT(1, 100))'] * 2000)}")
        eventually(met_soon, within=120)
        yield started
        started.resume("store")


@pytest.mark.slow  # waits until auto analyze is met at work
def test_auto_analyze_is_listed_and_refused_and_forced_it_tells_what_happened(
    analyzing: Playground, every_statement: list[str]
) -> None:
    with tidb_magic.connect(analyzing.url(1)) as cluster:
        listed = cluster.processlist(where="USER = ''", match="analyze")
        assert list(listed["COMMAND"]) == ["Sleep"]
        for victims in ([int(listed["ID"].iloc[0])], listed):
            row = only(cluster.kill(victims))
            assert row["OUTCOME"] == "refused"
            assert "it is internal work of TiDB itself, as auto analyze is" in row["REASON"]
        assert kills(every_statement) == []
        row = only(cluster.kill(listed, query=True, force=True, timeout=1))
        assert row["OUTCOME"] == "still running"
        assert kills(every_statement)


def test_a_statement_that_is_committing_is_refused_and_forced_it_ends(
    playground: Playground, cluster: Cluster, running: Any, every_statement: list[str]
) -> None:
    """A statement in autocommit mode that waits for a lock is Committing too."""
    with Client(playground, 1) as holds, Client(playground, 1) as commits:
        holds.query("BEGIN")
        holds.query("SELECT * FROM test.numbers WHERE n = 55 FOR UPDATE")
        # Else the first phase is the commit, and TiDB ends a session that a KILL meets there: its result is not known.
        commits.query("SET tidb_enable_1pc = OFF, tidb_enable_async_commit = OFF")
        running(commits.start("UPDATE test.numbers SET n = 100055 WHERE n = 55"), aged=True)
        row = only(cluster.kill([commits.id], query=True))
        assert row["OUTCOME"] == "refused"
        assert "is committing and may have committed" in row["REASON"]
        assert kills(every_statement) == []
        row = only(cluster.kill([commits.id], query=True, force=True))
        assert row["OUTCOME"] == "interrupted"
        holds.query("ROLLBACK")


def test_a_session_of_ours_whose_connection_was_dropped_is_our_own_while_its_statement_runs(cluster: Cluster) -> None:
    dropped = Connection(cluster._pool.settings)
    with pytest.raises(DeadlineError):
        dropped.query("DO SLEEP(100)", deadline=0.5, leave=True)
    listed = cluster.processlist(where=f"ID = {dropped.id}")
    assert {number for _, number in listed.own} == {dropped.id}
    assert only(cluster.kill(listed))["OUTCOME"] == "refused"
    assert end_statement(dropped) == ""
