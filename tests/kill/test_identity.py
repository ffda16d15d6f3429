"""What was seen must hold still: rows of a list, filters, and sessions that became something else meanwhile."""

import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import pandas as pd
import pymysql
import pytest

import tidb_magic
from tests.balancer import Balancer
from tests.clients import LONG_SELECT, Client, Gate, eventually
from tests.kill.test_kill import INTERRUPTED, LOST, only
from tidb_magic import Cluster, ProcessList
from tidb_magic.connection.connection import Connection
from tidb_magic.errors import ConnectionIdError, OptionError
from tidb_magic.playground import Playground

RESET = 0x1F  # COM_RESET_CONNECTION


def kills(asked: list[str]) -> list[str]:
    return [sql for sql in asked if "KILL TIDB" in sql]


def row_of(cluster: Cluster, client: Client, **filters: Any) -> ProcessList:
    """Return the list's row of a client; of an idle one, when the server shows it as idle."""

    found = ProcessList()

    def listed() -> bool:
        nonlocal found
        sessions = cluster.processlist(idle=True, limit=5000, **filters)
        found = sessions[sessions["ID"] == client.id]
        assert len(found) == 1
        return not client.idle or bool(found["INFO"].isna().all())

    eventually(listed)
    return found


@pytest.mark.parametrize("instance", [0, 1])
@pytest.mark.parametrize("query", [True, False])
def test_a_statement_that_is_still_the_one_in_the_list_is_killed_by_its_row(
    playground: Playground, cluster: Cluster, running: Any, instance: int, query: bool
) -> None:
    """Also one that the list saw at TIME 0: within a second the clock proves it."""
    with Client(playground, instance) as client:
        running(client.start(LONG_SELECT.format("by its row")))
        listed = row_of(cluster, client)
        while listed["TIME"].iloc[0] > 0:  # the machine is busy
            cluster.kill([client.id], query=True)
            client.result()
            running(client.start(LONG_SELECT.format("by its row")))
            listed = row_of(cluster, client)
        assert only(cluster.kill(listed, query=query))["OUTCOME"] == ("interrupted" if query else "killed")
        assert client.error_code() == (INTERRUPTED if query else LOST)


class Busy:
    """A session that runs the same statement again and again, and counts."""

    def __init__(self, playground: Playground, number: int) -> None:
        self.client = Client(playground, number % 3)
        self.begun = 0
        self.hit: object = None
        self._over = threading.Event()
        self._sql = f"SELECT /* the same */ SLEEP({(0.2, 1.1)[number % 2]})"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self.begun += 1
            try:
                if self.client.query(self._sql) != ((0,),):
                    self.hit = "its statement was interrupted"
            except pymysql.Error as error:
                self.hit = error
                return

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self.client.__exit__(None, None, None)


@pytest.fixture
def busy(playground: Playground) -> Iterator[list[Busy]]:
    sessions = [Busy(playground, number) for number in range(16)]
    yield sessions
    for one in sessions:
        one.stop()


@pytest.mark.parametrize("query", [True, False])
def test_none_of_hundreds_of_replaced_statements_of_the_same_text_is_sent_a_kill(
    cluster: Cluster, busy: list[Busy], every_statement: list[str], query: bool
) -> None:
    replaced = 0
    ids = {one.client.id for one in busy}
    while replaced < 200:
        listed = cluster.processlist(match="the same")
        rows = listed[listed["ID"].isin(ids)]
        began = {one.client.id: one.begun for one in busy}
        eventually(lambda: all(one.begun > began[one.client.id] for one in busy))  # noqa: B023 (called at once)
        report = cluster.kill(rows, query=query)
        # At its end a statement is listed as idle for a moment: of who was seen so it is said that he runs none.
        assert set(report["OUTCOME"]) <= {"changed", "refused"}
        replaced += len(report)
    assert kills(every_statement) == []
    assert [one.hit for one in busy if one.hit] == []


def test_the_same_id_of_another_user_is_changed(
    playground: Playground, cluster: Cluster, users: dict[str, str]
) -> None:
    """COM_CHANGE_USER keeps the id: a pool hands the session to somebody else."""
    with Client(playground, 1) as client:
        listed = row_of(cluster, client)
        client.become("joe", users["joe"])
        row = only(cluster.kill(listed))
        assert (row["OUTCOME"], row["REASON"]) == ("changed", "its USER was 'root' and is 'joe'")
        assert client.alive()


def test_a_session_that_was_reset_is_changed(playground: Playground, cluster: Cluster) -> None:
    """COM_RESET_CONNECTION takes the port from its HOST."""
    with Client(playground, 1) as client:
        listed = row_of(cluster, client)
        client._driver._execute_command(RESET, "")
        client._driver._read_ok_packet()
        row = only(cluster.kill(listed))
        assert row["OUTCOME"] == "changed"
        assert row["REASON"].startswith("its HOST was '127.0.0.1:")
        assert client.alive()


def test_another_statement_another_transaction_and_work_after_idling_are_changed(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    with ExitStack() as stack:
        other, ended, transaction, idle = (stack.enter_context(Client(playground, i)) for i in (0, 1, 1, 2))
        gate = stack.enter_context(Gate(playground))
        running(other.start(gate.statement("first", 1)), aged=True)
        running(ended.start(gate.statement("only", 2)), aged=True)
        transaction.query("BEGIN")
        transaction.query("SELECT COUNT(*) FROM test.numbers")
        at_rest = f"ID = {transaction.id} AND INFO IS NULL"  # the server shows a statement a moment longer
        eventually(lambda: cluster.processlist(where=at_rest, idle=True).matched)
        listed = cluster.processlist(idle=True, limit=5000)
        rows = listed[listed["ID"].isin([one.id for one in (other, ended, transaction, idle)])]
        assert len(rows) == 4
        gate.open()
        other.result()
        ended.result()
        running(other.start(LONG_SELECT.format("second")), aged=True)
        transaction.query("COMMIT")
        transaction.query("BEGIN")
        transaction.query("SELECT COUNT(*) FROM test.numbers")
        running(idle.start(LONG_SELECT.format("work")), aged=True)
        report = cluster.kill(rows).set_index("ID")
        assert set(report["OUTCOME"]) == {"changed"}
        assert {number: report["REASON"][number] for number in report.index} == {
            other.id: "it runs another statement",
            ended.id: "the statement that was seen has ended",
            transaction.id: "the transaction that was seen has ended",
            idle.id: "it was idle and is active now",
        }
        assert transaction.alive()
        assert ended.alive()
        cluster.kill([other.id, idle.id])


def test_idle_and_idle_in_the_same_transaction_are_killed_by_their_rows(
    playground: Playground, cluster: Cluster
) -> None:
    with Client(playground, 1) as transaction, Client(playground, 2) as idle:
        transaction.query("BEGIN")
        transaction.query("SELECT * FROM test.numbers WHERE n = 77 FOR UPDATE")
        transaction.query("UPDATE test.numbers SET n = 100077 WHERE n = 77")
        listed = cluster.processlist(idle=True, limit=5000)
        report = cluster.kill(listed[listed["ID"].isin([transaction.id, idle.id])]).set_index("ID")
        assert set(report["OUTCOME"]) == {"killed"}
        assert report["REASON"][transaction.id] == "rolled back 2 keys; its row locks can stay for about 20 s"
        assert report["REASON"][idle.id] == ""


def test_an_old_list_is_read_once_more_before_anything_is_sent(
    playground: Playground, cluster: Cluster, running: Any, every_statement: list[str]
) -> None:
    """A pickled list has no clock of this process: what runs now must have its text, and stay."""
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("old")), aged=True)
        old = pickle.loads(pickle.dumps(row_of(cluster, client)))
        assert old.origin.requested is None
        del every_statement[:]
        assert only(cluster.kill(old, query=True))["OUTCOME"] == "interrupted"
        assert [sql for sql in every_statement if "PROCESSLIST" in sql and "KILL" not in sql][1:]
        client.result()
        del every_statement[:]
        running(client.start(LONG_SELECT.format("new")), aged=True)
        assert only(cluster.kill(old, query=True))["OUTCOME"] == "changed"
        assert kills(every_statement) == []
        cluster.kill([client.id])


@pytest.mark.parametrize(
    "columns", [["ID", "INSTANCE", "USER", "HOST", "INFO"], ["ID", "COMMAND"], ["ID", "COMMAND", "TxnStart"]]
)
def test_what_was_seen_counts_also_where_columns_are_left_out(
    playground: Playground, cluster: Cluster, running: Any, every_statement: list[str], columns: list[str]
) -> None:
    with Client(playground, 1) as ran, Client(playground, 2) as idle, Gate(playground) as gate:
        running(ran.start(gate.statement("seen")), aged=True)
        rows = pd.concat([row_of(cluster, ran), row_of(cluster, idle)])[columns]
        gate.open()
        ran.result()
        if "INFO" in columns:
            running(ran.start(LONG_SELECT.format("another")), aged=True)
        running(idle.start(LONG_SELECT.format("at work")), aged=True)
        assert list(cluster.kill(rows)["OUTCOME"]) == ["changed"] * 2
        assert kills(every_statement) == []
        cluster.kill([ran.id, idle.id])


def test_a_statement_is_killed_by_its_row_though_every_other_look_is_slow(
    playground: Playground, cluster: Cluster, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine: a look that follows a fast one must not be taken to be as fast."""
    run, delays = Connection._run, cycle([0.0, 0.3])

    def delayed(self: Connection, sql: str, args: Any) -> Any:
        answer = run(self, sql, args)
        if "tidb_magic_own" in sql:
            time.sleep(next(delays))
        return answer

    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("slow looks")), aged=True)
        time.sleep(0.5)  # its age
        listed = row_of(cluster, client)
        monkeypatch.setattr(Connection, "_run", delayed)
        assert only(cluster.kill(listed, query=True, deadline=3))["OUTCOME"] == "interrupted"


def test_the_rows_of_a_plan_are_killed_as_they_were_planned(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("planned")), aged=True)
        planned = cluster.plan([client.id], query=True)
        row = only(cluster.kill(planned))
        assert (row["ACTION"], row["OUTCOME"]) == ("QUERY", "interrupted")
        assert client.alive()


def test_a_frame_with_ids_only_is_as_good_as_typed_ids(playground: Playground, cluster: Cluster) -> None:
    with Client(playground, 1) as one, Client(playground, 2) as two:
        frame = pd.DataFrame({"ID": pd.array([one.id, two.id], dtype="Int64"), "note": ["a", "b"]})
        assert list(cluster.plan(frame)["OUTCOME"]) == ["planned"] * 2
        assert list(cluster.kill(frame["ID"])["OUTCOME"]) == ["killed"] * 2


@pytest.mark.parametrize(
    ("ids", "error", "says"),
    [
        ([57.0, 59.0], ConnectionIdError, "floats, which have lost digits"),
        ([57, None], ConnectionIdError, "floats, which have lost digits"),
        (pd.array([57, None], dtype="Int64"), ConnectionIdError, "An id is missing"),
        (["57", "x"], ConnectionIdError, "whole number, not 'x'"),
    ],
)
def test_a_frame_whose_ids_are_not_exact_is_refused_with_the_reason(
    cluster: Cluster, every_statement: list[str], ids: Any, error: type[Exception], says: str
) -> None:
    frame = pd.DataFrame({"ID": ids, "INSTANCE": ["a:1", "b:2"]})
    for victims in (frame, frame["ID"]):
        with pytest.raises(error, match=says):
            cluster.kill(victims)
    assert every_statement == []


def test_ids_from_2_to_the_63_on_belong_to_nobody_in_a_frame_too(cluster: Cluster) -> None:
    frame = pd.DataFrame({"ID": pd.array([2**63 + 1], dtype="UInt64"), "INSTANCE": ["127.0.0.1:1"]})
    row = only(cluster.kill(frame))
    assert row["OUTCOME"] == "already gone"
    assert f"{2**63 + 1}: no session has this id: ids end below 2^63" in row["REASON"]


def test_the_history_is_no_list_of_whom_to_kill(cluster: Cluster) -> None:
    cluster.plan([12345678])
    with pytest.raises(OptionError, match="The history is of the past and of any cluster: list again"):
        cluster.kill(cluster.history())


def test_rows_without_an_id_or_with_two_versions_of_one_session_are_refused(
    playground: Playground, cluster: Cluster
) -> None:
    with Client(playground, 1) as client:
        listed = row_of(cluster, client)
        with pytest.raises(OptionError, match="exactly one column ID"):
            cluster.kill(listed.drop(columns="ID"))
        with pytest.raises(OptionError, match=f"has {client.id} twice"):
            cluster.kill(pd.concat([listed, listed.assign(USER="somebody")]))
        assert list(cluster.plan(pd.concat([listed, listed]))["OUTCOME"]) == ["planned"]
        assert client.alive()


def test_a_list_of_another_cluster_is_refused(playground: Playground, ids64: Playground, cluster: Cluster) -> None:
    with tidb_magic.connect(ids64.url(0)) as other, Client(ids64, 1) as client:
        listed = other.processlist(idle=True)
        with pytest.raises(OptionError, match="The frame is a list of 127"):
            cluster.kill(listed[listed["ID"] == client.id])
        assert client.alive()


# -- filters ---------------------------------------------------------------------------------------------------


def test_a_kill_by_filter_ends_what_matches_and_nothing_else(
    playground: Playground, cluster: Cluster, running: Any, users: dict[str, str]
) -> None:
    with ExitStack() as stack:
        theirs = [stack.enter_context(Client(playground, i, "joe", password=users["joe"])) for i in range(3)]
        idle = stack.enter_context(Client(playground, 1, "joe", password=users["joe"]))
        others = [stack.enter_context(Client(playground, i)) for i in range(3)]
        for client in (*theirs, *others):
            running(client.start(LONG_SELECT.format("filtered")), aged=True)
        planned = cluster.plan(user="joe", match="filtered")
        assert list(planned["OUTCOME"]) == ["planned"] * 3
        assert "1 idle session would match" not in " ".join(planned.remarks)  # it runs nothing that could match
        assert any("would match with --idle" in one for one in cluster.plan(user="joe").remarks)
        report = cluster.kill(user="joe", match="filtered", query=True)
        assert (sorted(report["ID"]), set(report["OUTCOME"])) == (sorted(one.id for one in theirs), {"interrupted"})
        assert [one.error_code() for one in theirs] == [INTERRUPTED] * 3
        assert set(cluster.plan(user="joe", idle=True)["OUTCOME"]) == {"planned"}
        report = cluster.kill(user="joe", idle=True)
        assert len(report) == 4
        assert set(report["OUTCOME"]) == {"killed"}
        assert not idle.alive()
        assert cluster.processlist(match="filtered", user="root").matched >= 3
        cluster.kill([one.id for one in others])


def test_sessions_that_moved_on_since_the_list_are_not_sent_a_kill_by_filter(
    playground: Playground, cluster: Cluster, running: Any, monkeypatch: pytest.MonkeyPatch, every_statement: list[str]
) -> None:
    from tidb_magic.kill import instance_worker

    with ExitStack() as stack:
        moving = [stack.enter_context(Client(playground, i)) for i in range(3)]
        staying = [stack.enter_context(Client(playground, i)) for i in range(3)]
        gate = stack.enter_context(Gate(playground))
        for at, client in enumerate(moving):
            running(client.start(gate.statement("a batch", at)), aged=True)
        for client in staying:
            running(client.start(LONG_SELECT.format("a batch")), aged=True)
        find_route = vars(instance_worker)["find_route"]

        def move_on(*args: Any, **kwargs: Any) -> Any:
            with moving_on:
                if not begun:
                    gate.open()
                    for client in moving:
                        client.result()
                    begun.append(moving[0].start(LONG_SELECT.format("other work")))
                    running(moving[0], aged=True)
            return find_route(*args, **kwargs)

        begun: list[Client] = []
        moving_on = threading.Lock()
        monkeypatch.setattr(instance_worker, "find_route", move_on)
        report = cluster.kill(match="a batch").set_index("ID")
        assert {int(number): report["OUTCOME"][number] for number in report.index} == {
            **{client.id: "changed" for client in moving},
            **{client.id: "killed" for client in staying},
        }
        assert report["REASON"][moving[0].id] == "it does not match the filters any more"
        assert not [sql for sql in kills(every_statement) for client in moving if str(client.id) in sql]
        assert all(client.alive() for client in moving[1:])
        monkeypatch.undo()
        cluster.kill([moving[0].id])


@pytest.mark.parametrize(
    "filters",
    [
        {"idle": True},
        {"min_time": 0},
        {"match": ".*"},
        {"match": "."},
        {"where": "1"},
        {"where": "TRUE -- all"},
        {"where": "ID > 0", "idle": True},
        {"where": "USER LIKE '%'", "min_time": 0},
    ],
)
def test_a_filter_that_narrows_nothing_kills_nobody(
    cluster: Cluster, every_statement: list[str], filters: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match="These filters match every session"):
        cluster.kill(**filters)
    assert kills(every_statement) == []


@pytest.mark.parametrize("where", ["1) OR (1", "TRUE) OR (TRUE) -- ", "no_such_column = 1", "1 +"])
def test_a_condition_that_is_none_by_itself_kills_nobody(
    cluster: Cluster, every_statement: list[str], where: str
) -> None:
    """Parentheses that close those around it would undo the other filters."""
    with pytest.raises(OptionError, match=r"where: TiDB does not accept the condition"):
        cluster.kill(where=where, user="nobody", idle=True)
    assert kills(every_statement) == []


def test_a_filter_that_matches_nobody_says_so(cluster: Cluster) -> None:
    report = cluster.kill(user="nobody-of-that-name")
    assert len(report) == 0
    assert "No session matches (" in repr(report)


def test_a_filter_with_an_instance_that_is_not_there_names_those_that_are(
    playground: Playground, cluster: Cluster
) -> None:
    (remark,) = cluster.plan(instance="nowhere:1", idle=True).remarks
    assert remark.startswith("There is no instance nowhere:1 in the list; there are: ")
    assert all(playground.status_address(at) in remark for at in range(3))


def test_rows_of_an_instance_that_this_cluster_has_not_are_refused_not_called_gone(
    cluster: Cluster, every_statement: list[str]
) -> None:
    """Such are rows of another cluster, in a frame that does not tell any more where it comes from."""
    frame = pd.DataFrame({"ID": [12345678, 2**40 + 1], "INSTANCE": "10.9.9.9:10080"})
    report = cluster.kill(frame)
    assert list(report["OUTCOME"]) == ["refused"] * 2
    assert set(report["REASON"]) == {
        "no instance 10.9.9.9:10080 is registered in this cluster: it has stopped, or the row is from another cluster"
    }
    assert kills(every_statement) == []


def test_what_thousands_of_doubtful_ids_may_be_is_asked_for_within_the_deadline_only(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def slow(connection: Connection, number: int, *, deadline: float) -> list[int]:
        asked.append(number)
        time.sleep(min(deadline, 0.5))  # the slow answer of a server: the deadline must pass after a few of them
        return []

    monkeypatch.setattr("tidb_magic.kill.locate.resembling", slow)
    report = cluster.plan([2 * number + 2**40 for number in range(3000)], deadline=4)
    assert set(report["OUTCOME"]) == {"already gone"}
    assert 1 <= len(asked) <= 4 / 0.5 + 1


def test_a_column_that_is_not_id_and_a_row_by_itself_are_no_ids(cluster: Cluster) -> None:
    listed = cluster.processlist(idle=True)
    with pytest.raises(OptionError, match="This is the column TIME, not ID"):
        cluster.plan(listed["TIME"])
    with pytest.raises(OptionError, match=r"df\.iloc\[\[0\]\]"):
        cluster.plan(listed.iloc[0])


def test_an_option_that_there_is_not_is_named(cluster: Cluster) -> None:
    with pytest.raises(TypeError, match=r"There is no option dry_run\. cluster\.plan\(\.\.\.\) sends nothing"):
        cluster.kill([5], dry_run=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="There is no option usr"):
        cluster.plan(usr="batch")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="idle is True or False"):
        cluster.plan(user="app", idle="no")  # type: ignore[arg-type]


def test_the_report_names_the_cluster(cluster: Cluster) -> None:
    report = cluster.plan([12345678])
    assert report.cluster == cluster.address
    assert f"1 already gone ({cluster.address})." in repr(report)


@pytest.mark.parametrize("victims", [{}, {"victims": [5], "user": "app"}, {"victims": [], "user": "app"}])
def test_a_kill_has_one_source(cluster: Cluster, victims: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="exactly one of these"):
        cluster.kill(**victims)


def test_more_than_max_victims_are_planned_and_none_is_sent(playground: Playground, cluster: Cluster) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(playground, i)) for i in range(3)]
        ids = [client.id for client in clients]
        for report in (
            cluster.kill(ids, max_victims=2),
            cluster.kill(where=f"ID IN ({', '.join(map(str, ids))})", idle=True, max_victims=2),
        ):
            assert list(report["OUTCOME"]) == ["planned"] * 3
            assert "3 are more than max_victims (2). --max-victims 3 allows them." in repr(report)
        assert all(client.alive() for client in clients)
        with pytest.raises(OptionError, match="max_victims must be a whole number"):
            cluster.kill(ids, max_victims=0)
        assert list(cluster.kill(ids, max_victims=3)["OUTCOME"]) == ["killed"] * 3


def test_own_sessions_are_never_killed_by_a_filter_that_matches_them(playground: Playground) -> None:
    """The connection that lists, those to the other instances, and those of another Cluster of this process."""
    with (
        tidb_magic.connect(playground.url(0)) as cluster,
        tidb_magic.connect(playground.url(1)) as other,
        Client(playground, 1) as victim,
        Client(playground, 2) as second,
    ):
        cluster.plan([victim.id, second.id])
        held = [one.id for one in (cluster._pool.connection(), other._pool.connection(), *cluster._pool._owners)]
        assert len(held) == 4
        ids = ", ".join(str(int(number or 0)) for number in (*held, victim.id, second.id))
        report = cluster.kill(user="root", where=f"ID IN ({ids})", idle=True)
        assert (sorted(report["ID"]), set(report["OUTCOME"])) == (sorted([victim.id, second.id]), {"killed"})
        assert "4 sessions of tidb_magic itself match too." in report.remarks
        refused = cluster.kill([int(number or 0) for number in held])
        assert set(refused["REASON"]) == {"it is a connection of tidb_magic itself"}
        assert all(one.open for one in (cluster._pool.connection(), *cluster._pool._owners))
        assert other.processlist().complete


@pytest.mark.parametrize("direct", ["auto", "never"])
def test_own_sessions_are_never_killed_through_a_balancer_and_after_a_reconnect(
    playground: Playground, every_statement: list[str], direct: str
) -> None:
    with (
        Balancer([playground.port(i) for i in range(3)]) as balancer,
        tidb_magic.connect(balancer.url(), direct=direct) as cluster,
        ExitStack() as stack,
    ):
        victims = [stack.enter_context(Client(playground, i)) for i in range(3)]
        cluster.plan([one.id for one in victims])
        lost = cluster._pool.connection()
        with Client(playground, 0) as root:
            root.query(f"KILL TIDB CONNECTION {lost.id}")
        eventually(lambda: cluster.processlist(where=f"ID = {lost.id}", idle=True).matched == 0)
        held = [one for one in (cluster._pool.connection(), *cluster._pool._owners) if one.open]
        assert lost not in held
        for number in [int(one.id or 0) for one in held]:
            assert only(cluster.kill([number]))["REASON"] == "it is a connection of tidb_magic itself"
        ids = ", ".join(str(int(number)) for number in [*(one.id or 0 for one in held), *(one.id for one in victims)])
        report = cluster.kill(user="root", where=f"ID IN ({ids})", idle=True)
        assert sorted(report["ID"]) == sorted(one.id for one in victims)
        assert set(report["OUTCOME"]) == {"killed"}
        assert all(one.open for one in held)
        assert len(kills(every_statement)) == 3


MINUTE = pytest.param(60, id="for a minute", marks=pytest.mark.slow)


@pytest.mark.parametrize("seconds", [pytest.param(0, id="until twenty were hit"), MINUTE])
def test_nobody_else_is_hit_while_sessions_come_work_and_go(
    playground: Playground, cluster: Cluster, users: dict[str, str], seconds: float
) -> None:
    """Filter kills of one user's sessions among those of others, all of which live for a moment."""
    over = threading.Event()
    hit: list[tuple[str, object]] = []
    ended, moment = 0, 0.05  # seconds that a statement takes

    def live(user: str, number: int) -> None:
        while not over.is_set():
            try:
                with Client(playground, number % 3, user, password=users[user]) as client:
                    answers = [client.query(f"SELECT /* {user} */ SLEEP({moment})") for _ in range(number % 4)]
                    hit.extend((user, answer) for answer in answers if answer != ((0,),))
            except pymysql.Error as error:
                hit.append((user, error))

    crowd = [("joe", n) for n in range(3)] + [("monitor", n) for n in range(3)] + [("oncall", n) for n in range(3)]
    threads = [threading.Thread(target=live, args=one, daemon=True) for one in crowd]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    try:
        while ended <= 20 or time.monotonic() < until:
            for query in (True, False):
                began = time.monotonic()
                report = cluster.kill(user="joe", idle=not query, query=query, timeout=5)
                moment = max(0.05, (time.monotonic() - began) / 2)  # else a slow kill finds no session
                assert set(report["USER"].dropna()) <= {"joe"}
                ended += int(report["OUTCOME"].isin(["killed", "interrupted"]).sum())
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert [one for one in hit if one[0] != "joe"] == []
