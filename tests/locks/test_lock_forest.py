"""Who blocks whom, on a real cluster: the forest is the one that the test built."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Literal
from uuid import uuid4

import pymysql
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import tidb_magic
from tests.clients import LONG, OTHER_WORK, Client, Gate, eventually, wait_for_right
from tidb_magic import Cluster, KillReport
from tidb_magic.errors import Interrupted, OptionError
from tidb_magic.locks import followup
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.playground import Playground

DEADLOCK = 1213


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class Tangle:
    """Sessions by name that block each other: ``chain`` (0) < ``middle`` (1) < ``last`` (2), and ``auto`` (1).

    ``other`` (2) blocks ``short`` (0).
    """

    def __init__(self, stack: ExitStack, playground: Playground, table: str = "test.tangle") -> None:
        instances = {"chain": 0, "middle": 1, "last": 2, "auto": 1, "other": 2, "short": 0}
        self.of = {name: stack.enter_context(Client(playground, at)) for name, at in instances.items()}
        for client in self.of.values():
            client.query("SET innodb_lock_wait_timeout = 3600")  # by default a waiter gives up after 50 s
        for name in ("chain", "middle", "last", "other", "short"):
            self.of[name].query("BEGIN")
        self.of["chain"].query(f"UPDATE {table} SET v = v + 1 WHERE n = 1")
        self.of["middle"].query(f"UPDATE {table} SET v = v + 1 WHERE n = 2")
        self.of["other"].query(f"SELECT * FROM {table} WHERE name = 'three' FOR UPDATE")
        self.of["middle"].start(f"UPDATE {table} SET v = v + 1 WHERE n = 1")
        self.of["auto"].start(f"UPDATE {table} SET v = v + 1 WHERE n = 1")
        self.of["last"].start(f"UPDATE {table} SET v = v + 1 WHERE name = 'two'")
        self.of["short"].start(f"UPDATE {table} SET v = v + 1 WHERE name = 'three'")

    def seen(self, forest: LockForest) -> set[tuple[str, str | None]]:
        """Return who of them waits for whom, by their names; None for roots."""
        names = {(one.instance, one.id): name for name, one in self.of.items()}
        waits = forest.waits
        found: set[tuple[str, str | None]] = {
            (names.get(waiter, "?"), names.get(holder, "?"))
            for waiter, holder in zip(
                zip(waits["WAITER_INSTANCE"], waits["WAITER_ID"], strict=True),
                zip(waits["HOLDER_INSTANCE"], waits["HOLDER_ID"], strict=True),
                strict=True,
            )
        }
        roots = forest.roots
        return found | {(names.get(key, "?"), None) for key in zip(roots["INSTANCE"], roots["ID"], strict=True)}

    @property
    def built(self) -> set[tuple[str, str | None]]:
        return {
            ("chain", None),
            ("middle", "chain"),
            ("auto", "chain"),
            ("last", "middle"),
            ("other", None),
            ("short", "other"),
        }


def furnish(playground: Playground, table: str = "test.tangle") -> None:
    """Make the table anew: a row that a killed session has locked stays locked for about 20 s."""
    with Client(playground) as root:
        root.query(f"DROP TABLE IF EXISTS {table}")
        columns = "(n INT PRIMARY KEY, v INT, name VARCHAR(9), UNIQUE KEY by_name (name))"
        root.query(f"CREATE TABLE {table} {columns}")
        root.query(f"INSERT INTO {table} VALUES (1, 0, 'one'), (2, 0, 'two'), (3, 0, 'three')")


@pytest.fixture
def fresh_table(healed: Playground) -> str:
    """A table of this test's own: what a fault leaves locked stays locked until its TTL of 20 s has passed."""
    table = f"test.tangle_{uuid4().hex}"
    furnish(healed, table)
    return table


@pytest.fixture
def tangle(playground: Playground, cluster: Cluster) -> Iterator[Tangle]:
    furnish(playground)
    with ExitStack() as stack:
        made = Tangle(stack, playground)
        eventually(lambda: made.seen(cluster.locks()) == made.built)
        yield made


def unless_changed(kill: Callable[[], KillReport]) -> KillReport:
    """Kill again if it was left alone: the playground's store forgets a wait for a moment on a busy machine."""
    while "changed" in set((report := kill())["OUTCOME"]):
        pass
    return report


def deadlock(playground: Playground) -> None:
    """Two sessions that wait for each other, until TiDB ends it."""
    with Client(playground, 1) as one, Client(playground, 2) as two:
        for client, row in ((one, 1), (two, 2)):
            client.query("BEGIN")
            client.query(f"UPDATE test.mutual SET v = v + 1 WHERE n = {row}")
        one.start("UPDATE test.mutual SET v = v + 1 WHERE n = 2")
        two.start("UPDATE test.mutual SET v = v + 1 WHERE n = 1")
        errors = [end.args[0] for end in (one.result(), two.result()) if isinstance(end, pymysql.Error)]
        assert errors == [DEADLOCK]


def test_a_chain_of_three_over_three_instances_two_roots_and_an_autocommit_waiter_are_the_forest_that_was_built(
    cluster: Cluster, tangle: Tangle
) -> None:
    forest = cluster.locks()
    of, rows = tangle.of, forest.frame.set_index("ID")
    assert tangle.seen(forest) == tangle.built
    assert forest.complete, forest
    assert sorted(forest.frame["ID"]) == sorted(client.id for client in of.values())
    assert [rows.loc[of[name].id, "DEPTH"] for name in ("chain", "middle", "last", "auto")] == [0, 1, 2, 1]
    drawn = list(forest.frame["ID"])
    assert drawn[0] == of["chain"].id
    assert drawn.index(of["last"].id) == drawn.index(of["middle"].id) + 1
    chain, middle = rows.loc[of["chain"].id], rows.loc[of["middle"].id]
    assert (chain["BEHIND"], chain["FREES"], middle["BEHIND"], middle["FREES"]) == (3, 3, 1, 1)
    assert (chain["HOLDS"], chain["WAITS_FOR"], chain["TXN_STATE"]) == ("test.tangle row 1", "", "Idle")
    assert (middle["WAITS_FOR"], middle["HOLDS"]) == ("test.tangle row 1", "test.tangle index by_name (two)")
    assert (chain["INSTANCE"], middle["INSTANCE"]) == (of["chain"].instance, of["middle"].instance)
    assert chain["KEYS"] > 0
    assert 0 < middle["WAITS"] <= middle["AGE"]
    assert middle["AGE"] < 60
    assert rows.loc[of["auto"].id, "TXN_STATE"] == "Committing"
    assert rows.loc[of["middle"].id, "TXN_STATE"] == "LockWaiting"
    text = repr(forest)
    assert "4 sessions wait behind 2 root blockers, taken " in text
    assert "Complete: every registered instance answered." in text
    assert f"\n│\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}└─\N{NO-BREAK SPACE}{of['last'].id}" in text
    assert "idle for " in text
    assert "for test.tangle row 1" in text
    assert "%tidb_kill --from VARIABLE" in text


def test_the_html_shows_the_same_and_interprets_nothing(playground: Playground, cluster: Cluster) -> None:
    furnish(playground)
    hostile = "/* <img src=x onerror=alert(1)> \x1b[2J */"
    with Client(playground, 0) as holder, Client(playground, 1) as waiter:
        holder.query("BEGIN")
        holder.query("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        waiter.start(f"{hostile} UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        forest = eventually(lambda: (now := cluster.locks()) and len(now.waits) and now)
        html = forest._repr_html_()
        assert "&lt;img src=x" in html
        assert "<img" not in html
        assert "\x1b" not in html + repr(forest)
        assert f"└─\N{NO-BREAK SPACE}{waiter.id}" in html


@pytest.mark.slow  # waits for the end of a lock's TTL of 20 s
def test_killing_a_root_from_the_forest_frees_its_waiters_and_the_report_says_when(
    connected: InteractiveShell, playground: Playground, tangle: Tangle
) -> None:
    connected.user_ns["blocked"] = blocked = connected.run_line_magic("tidb_ps", "--locks")
    plan = connected.run_line_magic("tidb_kill", "--from blocked")
    of = tangle.of
    assert sorted(plan["ID"]) == sorted([of["chain"].id, of["other"].id])
    assert set(plan["OUTCOME"]) == {"planned"}
    assert "3 sessions wait for them: tidb_magic watches them for up to 30 s when they go on." in plan.remarks
    assert plan.remarks[-1] == "Nothing was sent. To send it: %tidb_kill --from blocked --yes"
    connected.user_ns["root"] = blocked.frame[blocked.frame["ID"] == of["chain"].id]
    began = time.monotonic()
    report = connected.run_line_magic("tidb_kill", "--from root --yes --reason 'it blocks three'")
    took = time.monotonic() - began
    assert report[["ID", "OUTCOME"]].to_numpy().tolist() == [[of["chain"].id, "killed"]]
    assert "its row locks can stay for about 20 s" in report["REASON"].iloc[0]
    assert report.waiters is not None
    waiters = report.waiters.set_index("WAITER_ID")
    assert set(waiters.index) == {of["middle"].id, of["auto"].id}
    assert set(waiters["WAITED_FOR"]) == {of["chain"].id}
    gone_on = waiters[waiters["NOW"] == "no longer waiting"]
    assert len(gone_on) >= 1  # one of them can wait for the other now
    assert (waiters["NOW"].str.startswith("waiting for ") | (waiters["NOW"] == "no longer waiting")).all()
    assert (waiters["SECONDS"] <= took).all()
    assert "2 sessions waited; " in report.remarks[0]
    assert "no longer waiting: " in report.remarks[0]
    assert report.remarks[-1].endswith(" now: %tidb_ps --locks.")  # last, and who waits for other, which lives
    assert of["other"].alive()


def forest_of(cluster: Cluster, waiter: Client) -> LockForest:
    """Return the forest once this session alone waits: the store lists the waits of ended ones for a moment."""

    def alone() -> LockForest | None:
        forest = cluster.locks()
        return forest if forest.waits["WAITER_ID"].fillna(0).tolist() == [waiter.id] else None

    found: LockForest = eventually(alone)
    return found


@pytest.fixture
def blocked(playground: Playground, cluster: Cluster) -> Iterator[tuple[Client, LockForest]]:
    """A session that waits in autocommit mode for a row that another one holds, and the forest of both."""
    furnish(playground)
    with Client(playground, 0) as holder, Client(playground, 2) as waiter:
        holder.query("BEGIN")
        holder.query("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        waiter.start("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        yield waiter, forest_of(cluster, waiter)


@pytest.mark.slow  # waits for the end of a lock's TTL of 20 s
def test_who_waits_for_a_root_that_is_killed_really_goes_on(
    cluster: Cluster, blocked: tuple[Client, LockForest]
) -> None:
    waiter, forest = blocked
    report = unless_changed(lambda: cluster.kill(forest))
    assert list(report["OUTCOME"]) == ["killed"]
    assert report.waiters is not None
    assert list(report.waiters["NOW"]) == ["no longer waiting"]
    assert waiter.result() == ()
    assert report.waiters["SECONDS"].iloc[0] > 0


def test_a_root_that_nobody_waits_for_any_more_is_left_alone(
    connected: InteractiveShell, cluster: Cluster, blocked: tuple[Client, LockForest], every_statement: list[str]
) -> None:
    """Its session and its transaction are those that were seen; the reason to end them is gone."""
    _, forest = blocked
    cluster.kill(forest.waits["WAITER_ID"], force=True)
    eventually(lambda: not len(cluster.locks().waits))
    every_statement.clear()
    plan = connected.run_line_magic("tidb_kill", "--from forest")
    assert list(plan["OUTCOME"]) == ["changed"]
    assert plan["REASON"].iloc[0] == "no session waits for it any more: list again"
    assert not plan.remarks
    report = connected.run_line_magic("tidb_kill", "--from forest --yes")
    assert list(report["OUTCOME"]) == ["changed"]
    assert not [sql for sql in every_statement if "KILL" in sql.partition("*/")[2]]


def test_a_session_that_holds_nobody_up_may_be_taken_from_the_forest(
    cluster: Cluster, blocked: tuple[Client, LockForest]
) -> None:
    waiter, forest = blocked
    rows = forest.frame[forest.frame["ID"] == waiter.id]
    assert list(cluster.plan(rows, force=True)["OUTCOME"]) == ["planned"]


def test_ending_the_statement_of_a_root_is_said_to_keep_its_locks(playground: Playground, cluster: Cluster) -> None:
    furnish(playground)
    with Client(playground, 0) as holder, Client(playground, 2) as waiter:
        holder.query("BEGIN")
        holder.query("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        holder.start("SELECT SLEEP(60)")
        waiter.start("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        forest = forest_of(cluster, waiter)
        plan = cluster.plan(forest, query=True)
        assert list(plan["OUTCOME"]) == ["planned"]
        assert "KILL QUERY cannot free its locks" in plan["REASON"].iloc[0]
        (remark,) = plan.remarks
        assert remark.startswith("1 session waits for them and may continue to wait: QUERY ends the statement")
        report = unless_changed(lambda: cluster.kill(forest, query=True))
        assert list(report["OUTCOME"]) == ["interrupted"]
        assert report.remarks == plan.remarks


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--from waits", "exactly one column ID"),
        ("--from forest.roots", r"assign it first: x = forest\.roots"),
        ("{forest}", "a lock forest needs --from VARIABLE, which plans first"),
    ],
)
def test_what_would_kill_the_waiters_or_all_at_once_is_refused(
    connected: InteractiveShell, blocked: tuple[Client, LockForest], line: str, said: str
) -> None:
    connected.user_ns |= {"forest": blocked[1], "waits": blocked[1].waits}
    with pytest.raises(UsageError, match=said):
        connected.run_line_magic("tidb_kill", line)


def test_ctrl_c_while_the_waiters_are_watched_keeps_the_report(
    cluster: Cluster, blocked: tuple[Client, LockForest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followup, "_note", lambda *_: interrupt())
    report = unless_changed(lambda: cluster.kill(blocked[1]))
    assert list(report["OUTCOME"]) == ["killed"]
    assert report.waiters is not None
    assert list(report.waiters["NOW"]) == ["still waiting"]
    assert report.remarks[-1] == "Interrupted: the waiting sessions were not watched to the end."


def test_a_deadlock_that_tidb_resolved_is_told_and_there_is_nothing_to_kill(
    playground: Playground, cluster: Cluster
) -> None:
    with Client(playground) as root:
        root.query("CREATE TABLE IF NOT EXISTS test.mutual (n INT PRIMARY KEY, v INT)")
        root.query("INSERT IGNORE INTO test.mutual VALUES (1, 0), (2, 0)")
        began = time.time()
        deadlock(playground)
        forest = cluster.locks()
        mine = forest.deadlocks[forest.deadlocks["LOCK"].str.startswith("test.mutual")]
        assert sorted(mine["LOCK"]) == ["test.mutual row 1", "test.mutual row 2"]
        assert str(mine["OCCUR_TIME"].dtype) == "datetime64[ms, UTC]"
        assert abs(mine["OCCUR_TIME"].iloc[-1].timestamp() - began) < 60
        assert re.search(r"\d+ deadlocks? remembered, which TiDB resolved: nothing to kill\.", repr(forest))
        assert "test.mutual row 1" in repr(forest)


def test_who_waits_for_a_user_level_lock_stands_behind_it(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    with Gate(playground) as gate, Client(playground, 1) as first, Client(playground, 2) as second:
        asks = gate.statement("waits")
        for client in (first, second):
            running(client.start(asks))
        lock = f"user-level lock gate {gate.id} 0"

        def both() -> LockForest | None:
            forest = cluster.locks()
            waits = forest.waits[forest.waits["HOLDER"] == lock]
            return forest if set(waits["WAITER_ID"]) == {first.id, second.id} else None

        forest = eventually(both)
        assert list(forest.waits["LOCK"].unique()) == [lock]
        assert len(forest.roots) == 0
        assert len(forest.waits) == 2
        assert "1 user-level lock of sessions that TiDB does not name" in repr(forest)
        assert "such locks end within 20 s" not in repr(forest)
        assert lock in forest._repr_html_()


def test_times_are_right_in_another_time_zone(playground: Playground) -> None:
    """TiDB shows the beginning of a wait and of a deadlock in the time zone of its machine."""
    furnish(playground)
    with Client(playground) as root, Client(playground, 0) as holder, Client(playground, 1) as waiter:
        root.query("CREATE TABLE IF NOT EXISTS test.mutual (n INT PRIMARY KEY, v INT)")
        root.query("INSERT IGNORE INTO test.mutual VALUES (1, 0), (2, 0)")
        zone = root.query("SELECT @@GLOBAL.time_zone")[0][0]
        root.query("SET GLOBAL time_zone = '+05:00'")
        try:
            with tidb_magic.connect(playground.url(0)) as cluster:
                deadlock(playground)
                holder.query("BEGIN")
                holder.query("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
                waiter.query("BEGIN")
                waiter.start("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
                forest = forest_of(cluster, waiter)
                assert 0 < forest.waits["SECONDS"].iloc[0] < 60
                assert forest.frame["AGE"].max() < 60
                assert abs(forest.deadlocks["OCCUR_TIME"].iloc[-1].timestamp() - time.time()) < 60
        finally:
            root.query(f"SET GLOBAL time_zone = '{zone}'")


# -- DDL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def held_up(playground: Playground, cluster: Cluster) -> Iterator[dict[str, Client]]:
    """ALTER TABLE (1) that waits for an idle transaction (2), another (0) behind it, and a later reader (1)."""
    with ExitStack() as stack:
        of = {
            name: stack.enter_context(Client(playground, at))
            for name, at in {"root": 0, "holder": 2, "alter": 1, "queued": 0, "later": 1}.items()
        }
        of["root"].query("CREATE TABLE IF NOT EXISTS test.held (n INT PRIMARY KEY, v INT)")
        of["root"].query("INSERT IGNORE INTO test.held VALUES (1, 1)")
        of["holder"].query("BEGIN")
        of["holder"].query("SELECT * FROM test.held")
        age = f"SELECT MAX(TIME) FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE ID = {of['holder'].id}"
        eventually(lambda: of["root"].query(age) >= ((2,),))  # which was first is told by whole seconds
        of["alter"].start("ALTER TABLE test.held ADD INDEX late (v)")
        eventually(lambda: of["alter"].id in set(cluster.locks().waits["WAITER_ID"]))
        of["queued"].start("ALTER TABLE test.held ADD COLUMN w INT")
        eventually(lambda: "DDL queue" in set(cluster.locks().waits["KIND"]))
        of["later"].query("BEGIN")
        of["later"].query("SELECT * FROM test.held")
        yield of
        for name in ("holder", "later"):
            if of[name].alive():
                of[name].query("ROLLBACK")
        for name in ("alter", "queued"):
            of[name].result()
        of["root"].query("DROP TABLE test.held")


def test_alter_table_that_waits_for_an_idle_transaction_on_another_instance_is_shown_and_killing_that_lets_it_finish(
    cluster: Cluster, held_up: dict[str, Client]
) -> None:
    forest = cluster.locks()
    assert list(forest.roots["ID"]) == [held_up["holder"].id]
    listed = forest.waits.dropna(subset="WAITER_ID")  # the store remembers for a moment who waited in another test
    kinds = dict(zip(listed["WAITER_ID"], listed["KIND"], strict=True))
    assert kinds == {held_up["alter"].id: "metadata lock", held_up["queued"].id: "DDL queue"}
    assert list(forest.frame["DEPTH"]) == [0, 1, 2]
    assert held_up["later"].id not in set(forest.frame["ID"])
    assert "Or cancel the waiting DDL: ADMIN CANCEL DDL JOBS " in repr(forest)
    held_up["later"].query("ROLLBACK")
    report = cluster.kill(forest)
    assert list(report["OUTCOME"]) == ["killed"]
    assert report.waiters is not None
    assert list(report.waiters["WAITER_ID"]) == [held_up["alter"].id]
    assert report.waiters is not None
    assert list(report.waiters["NOW"]) == ["no longer waiting"]
    assert held_up["alter"].result() == ()
    assert held_up["queued"].result() == ()


def test_ddl_is_never_a_root_to_kill(cluster: Cluster, held_up: dict[str, Client]) -> None:
    forest = cluster.locks()
    assert held_up["alter"].id not in set(forest.roots["ID"])
    assert held_up["alter"].id in set(forest.frame["ID"])


# -- rights and trouble ----------------------------------------------------------------------------------------


def test_without_process_own_waiting_sessions_are_shown_and_it_says_so(
    playground: Playground, users: dict[str, str]
) -> None:
    furnish(playground)
    with Client(playground) as root:
        root.query("GRANT UPDATE ON test.* TO joe")
    password = users["joe"]
    wait_for_right(playground, "joe", password, "UPDATE ON `test`")
    with (
        tidb_magic.connect(playground.url(0).replace("root", "joe"), password=password) as cluster,
        Client(playground, 0) as holder,
        Client(playground, 1, user="joe", password=password) as waiter,
    ):
        holder.query("BEGIN")
        holder.query("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        waiter.query("BEGIN")
        waiter.start("UPDATE test.tangle SET v = v + 1 WHERE n = 3")
        forest = eventually(lambda: (now := cluster.locks()) and len(now.frame) and now)
        assert list(forest.frame["ID"]) == [waiter.id]
        assert not len(forest.roots)
        text = repr(forest)
        assert "its blocker is not known" in text
        assert "not visible without PROCESS" in text
        assert not forest.complete


def test_without_select_on_mysql_ddl_that_runs_is_taken_to_wait_and_it_says_so(
    playground: Playground, users: dict[str, str], held_up: dict[str, Client]
) -> None:
    url = playground.url(0).replace("root", "monitor")
    with tidb_magic.connect(url, password=users["monitor"]) as cluster:
        forest = cluster.locks()
        assert held_up["holder"].id in set(forest.roots["ID"])
        assert "Cannot read mysql.tidb_mdl_info" in repr(forest)


def test_an_instance_restarted_within_a_minute_does_not_make_it_incomplete(healed: Playground) -> None:
    """It is registered twice for that time."""
    healed.crash(1)
    healed.restart(1)
    with tidb_magic.connect(healed.url(0)) as cluster:
        assert list(cluster.instances()["INSTANCE"]).count(healed.status_address(1)) > 1
        assert cluster.locks().complete
        assert ", 3 instances, " in repr(cluster)


@pytest.mark.parametrize("silent", ["store", "pd"])
def test_with_the_store_or_pd_frozen_it_ends_within_the_deadline_and_says_so(
    healed: Playground, fresh_table: str, deadline: float, silent: Literal["store", "pd"]
) -> None:
    with tidb_magic.connect(healed.url(0)) as cluster, ExitStack() as stack:
        made = Tangle(stack, healed, fresh_table)
        eventually(lambda: made.seen(cluster.locks()) == made.built)
        healed.freeze(silent)
        try:
            for _ in range(2):
                began = time.monotonic()
                forest = cluster.locks(deadline=2 * deadline)
                assert time.monotonic() - began < 2 * deadline + OTHER_WORK
                assert not forest.complete
                why = ": PD does not respond." if silent == "pd" else ". "  # the jobs are in the store
                assert f"Waiting DDL is not known{why}" in repr(forest)
                listed = set(forest.frame["ID"])
                assert {made.of["middle"].id, made.of["last"].id} <= listed
        finally:
            healed.resume(silent)
        eventually(lambda: (now := cluster.locks()).complete and made.seen(now) == made.built)


def test_an_instance_that_is_frozen_is_named_and_its_transactions_are_shown_as_such(
    healed: Playground, fresh_table: str, deadline: float
) -> None:
    with tidb_magic.connect(healed.url(0)) as cluster, ExitStack() as stack:
        made = Tangle(stack, healed, fresh_table)
        eventually(lambda: made.seen(cluster.locks()) == made.built)
        healed.freeze(1)
        try:
            began = time.monotonic()
            forest = cluster.locks(deadline=2 * deadline)
            assert time.monotonic() - began < 2 * deadline + OTHER_WORK
            assert healed.status_address(1) in forest.missing
            assert "no responding instance has it" in repr(forest)
            assert ("short", "other") in made.seen(forest)
        finally:
            healed.resume(1)


def test_ctrl_c_ends_it_in_one_line(healed: Playground) -> None:
    with tidb_magic.connect(healed.url(0)) as cluster:
        cluster.locks()
        healed.freeze("store")
        pressed = threading.Timer(0.5, interrupt)
        pressed.start()
        try:
            began = time.monotonic()
            with pytest.raises(Interrupted, match=r"Nothing was returned\."):
                cluster.locks(deadline=LONG)
            assert time.monotonic() - began < OTHER_WORK
        finally:
            healed.resume("store")


def test_when_trouble_ends_nobody_stays_silent(
    healed: Playground, deadline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would look any more whether he answers, and he would be left out for good."""
    with tidb_magic.connect(healed.url(0)) as cluster:
        pool = cluster._pool
        probe = pool.probe

        def with_a_late_note(unresponsive: Mapping[str, str]) -> bool:
            pool.monitor.note_unresponsive({"a:1": "a list noted it just now"})
            return probe(unresponsive)

        monkeypatch.setattr(pool, "probe", with_a_late_note)
        healed.freeze(2)
        try:
            assert not cluster.locks(deadline=2 * deadline).complete
        finally:
            healed.resume(2)
        eventually(lambda: not pool.monitor.degraded)
        assert pool.monitor.unresponsive == {}
        pool.monitor.note_unresponsive({"a:1": "a list noted it just now"})
        assert pool.monitor.unresponsive == {}
        eventually(lambda: cluster.locks().complete)


@pytest.mark.slow  # waits for the end of a lock's TTL of 20 s
def test_a_waiter_on_an_instance_that_answers_is_known_about_while_another_is_silent(
    healed: Playground, fresh_table: str, deadline: float
) -> None:
    with tidb_magic.connect(healed.url(0)) as cluster, Client(healed, 0) as holder, Client(healed, 1) as waiter:
        holder.query("BEGIN")
        holder.query(f"UPDATE {fresh_table} SET v = v + 1 WHERE n = 3")
        waiter.query("BEGIN")
        waiter.start(f"UPDATE {fresh_table} SET v = v + 1 WHERE n = 3")
        forest = forest_of(cluster, waiter)
        healed.freeze(2)
        try:
            report = cluster.kill(forest, deadline=2 * deadline)
        finally:
            healed.resume(2)
        assert list(report["OUTCOME"]) == ["killed"]
        assert report.waiters is not None
        assert list(report.waiters["NOW"]) == ["no longer waiting"]


# -- what is typed ---------------------------------------------------------------------------------------------


def test_nobody_waits(connected: InteractiveShell, every_statement: list[str]) -> None:
    forest = eventually(lambda: (now := connected.run_line_magic("tidb_ps", "--locks")) and not len(now.waits) and now)
    assert repr(forest).startswith("No session waits, taken ")
    assert not len(forest.roots)
    connected.user_ns["blocked"] = forest
    report = connected.run_line_magic("tidb_kill", "--from blocked --yes")
    assert not len(report)
    assert "No session matches (" in repr(report)
    assert "There is no root blocker to kill." in report.remarks
    assert not [sql for sql in every_statement if "KILL" in sql.partition("*/")[2]]


@pytest.mark.parametrize("line", ["--locks --user app", "--locks --by USER", "--locks --history", "--locks --limit 3"])
def test_the_view_takes_no_filters(connected: InteractiveShell, line: str) -> None:
    with pytest.raises(UsageError, match=r"does not go with"):
        connected.run_line_magic("tidb_ps", line)


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), "3"])
def test_a_deadline_that_is_no_time_is_refused(cluster: Cluster, deadline: Any) -> None:
    with pytest.raises(OptionError):
        cluster.locks(deadline=deadline)


def test_statements_are_counted(cluster: Cluster, every_statement: list[str]) -> None:
    """One for who is registered, one an instance for the waits, one for DDL; for sessions, transactions, deadlocks."""
    cluster.locks()  # connects to the other instances
    every_statement.clear()
    cluster.locks()
    asked = [sql for sql in every_statement if "SELECT" in sql]
    assert sum("DATA_LOCK_WAITS" in sql for sql in asked) == 3
    assert len(asked) <= 1 + 3 + 1 + 3 + 1  # and one to count idle sessions where none is active
