"""Kills while an instance or PD is silent, and Ctrl-C: never stuck, and what was sent is said."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pymysql
import pytest

import tidb_magic
from tests.clients import LONG, LONG_SELECT, OTHER_WORK, Client, eventually
from tests.kill.test_identity import kills, row_of
from tests.kill.test_kill import INTERRUPTED, only
from tidb_magic import Cluster
from tidb_magic.errors import DeadlineError, Interrupted
from tidb_magic.kill import instance_worker
from tidb_magic.kill.routing import Route
from tidb_magic.playground import Playground
from tidb_magic.sessions.reader import read


@pytest.fixture
def cluster(healed: Playground) -> Iterator[Cluster]:
    with tidb_magic.connect(healed.url(0)) as connected:
        yield connected


@pytest.fixture
def forwarding(healed: Playground) -> Iterator[Cluster]:
    """A cluster whose other instances are reached by TiDB's forwarding only."""
    with tidb_magic.connect(healed.url(0), direct="never") as connected:
        yield connected


def timed(kill: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    report = kill()
    return time.monotonic() - began, report


@contextmanager
def frozen_for(playground: Playground, seconds: float) -> Iterator[None]:
    """Freeze every instance for that time, as if the cluster were overloaded; the last one goes on first."""
    instances = range(playground.options.instances)
    for instance in instances:
        playground.freeze(instance)

    def resume() -> None:
        for instance in reversed(instances):
            playground.resume(instance)

    wake = threading.Timer(seconds, resume)
    wake.start()
    yield
    wake.join()


def still_runs(playground: Playground, client: Client, instance: int) -> bool:
    with Client(playground, instance) as root:
        sql = f"SELECT 1 FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {client.id} AND INFO IS NOT NULL"
        return root.query(sql) == ((1,),)


# -- the way: by a connection there, or by forwarding ----------------------------------------------------------


@pytest.mark.parametrize("query", [True, False])
def test_a_forwarded_kill_ends_what_was_meant_and_is_proven(
    fragile: Playground, forwarding: Cluster, running: Any, query: bool
) -> None:
    with Client(fragile, 1) as client:
        running(client.start(LONG_SELECT.format("forwarded")), aged=True)
        (reason,) = forwarding.plan([client.id], query=query)["REASON"]
        assert f"TiDB forwards it to {client.instance}" in reason
        row = only(forwarding.kill(row_of(forwarding, client), query=query))
        assert (row["OUTCOME"], row["INSTANCE"]) == ("interrupted" if query else "killed", client.instance)
        assert isinstance(client.result(), pymysql.Error)


def test_forwarded_kills_of_idle_sessions_and_transactions(fragile: Playground, forwarding: Cluster) -> None:
    with Client(fragile, 1) as idle, Client(fragile, 2) as transaction:
        transaction.query("BEGIN")
        transaction.query("UPDATE test.numbers SET n = 100033 WHERE n = 33")
        assert list(forwarding.kill([idle.id, transaction.id], query=True)["OUTCOME"]) == ["refused"] * 2
        report = forwarding.kill([idle.id, transaction.id])
        assert list(report["OUTCOME"]) == ["killed"] * 2
        assert "rolled back 2 keys" in report["REASON"][1]
        assert not idle.alive()
        assert not transaction.alive()
        assert list(forwarding.kill([idle.id])["OUTCOME"]) == ["already gone"]


def test_through_a_balancer_the_owner_is_reached_and_nothing_is_forwarded(
    fragile: Playground, healed: Playground, every_statement: list[str]
) -> None:
    from tests.balancer import Balancer

    with (
        Balancer([fragile.port(i) for i in range(3)]) as balancer,
        tidb_magic.connect(balancer.url(), direct="never") as cluster,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(fragile, i)) for i in range(3)]
        plan = cluster.plan([client.id for client in clients])
        assert {reason.rpartition("; ")[2] for reason in plan["REASON"]} == {"by a connection to its instance"}
        del every_statement[:]
        assert list(cluster.kill([client.id for client in clients])["OUTCOME"]) == ["killed"] * 3
        assert not [sql for sql in every_statement if "FROM INFORMATION_SCHEMA.CLUSTER_" in sql]


# -- an instance or PD does not respond ------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [2, "pd"])
def test_a_healthy_instance_is_killed_on_as_fast_as_ever_while_another_or_pd_is_frozen(
    fragile: Playground, cluster: Cluster, running: Any, silent: Any, every_statement: list[str]
) -> None:
    with Client(fragile, 1) as client, Client(fragile, 1) as idle, Client(fragile, 1) as third:
        running(client.start(LONG_SELECT.format("healthy")), aged=True)
        listed = row_of(cluster, client)
        fragile.freeze(silent)
        del every_statement[:]
        spent, report = timed(lambda: cluster.kill([client.id, idle.id], deadline=LONG))
        assert list(report["OUTCOME"]) == ["killed"] * 2
        assert spent < OTHER_WORK  # nothing waited for a deadline
        assert not [sql for sql in every_statement if "FROM INFORMATION_SCHEMA.CLUSTER_" in sql]
        spent, report = timed(lambda: cluster.kill(listed, deadline=LONG))
        assert list(report["OUTCOME"]) == ["already gone"]
        assert spent < OTHER_WORK
        # By filter the list comes first, which has its deadline; after that the same.
        report = cluster.kill(user="root", where=f"ID = {third.id}", idle=True)
        assert list(report["OUTCOME"]) == ["killed"]
        assert any(remark.startswith("NOT COMPLETE") for remark in report.remarks)


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_session_on_a_frozen_instance_is_unreachable_and_nothing_happens_when_it_wakes(
    fragile: Playground,
    cluster: Cluster,
    deadline: float,
    running: Any,
    every_statement: list[str],
    known: bool,
    query: bool,
) -> None:
    """Whether a connection to it is kept or not, and also by filter and by row."""
    with Client(fragile, 2) as client:
        running(client.start(LONG_SELECT.format("frozen")), aged=True)
        listed = row_of(cluster, client)
        if known:
            assert only(cluster.plan([client.id]))["OUTCOME"] == "planned"
        fragile.freeze(2)
        spent, report = timed(lambda: cluster.kill([client.id], query=query))
        assert only(report)["OUTCOME"] == "unreachable"
        assert only(report)["INSTANCE"] == fragile.status_address(2)
        assert spent < deadline + OTHER_WORK
        no_greeting = f"{fragile.status_address(2)} did not respond."
        no_answer = f"{fragile.status_address(2)} did not answer on an open connection: it is frozen or overloaded."
        assert only(report)["REASON"].startswith(no_answer if known else no_greeting)
        spent, report = timed(lambda: cluster.kill(listed, query=query))
        assert only(report)["OUTCOME"] == "unreachable"
        assert "accepted the connection and sent no greeting within" in only(report)["REASON"]
        assert spent < deadline + OTHER_WORK
        assert kills(every_statement) == []
        fragile.resume(2)
        assert still_runs(fragile, client, 2)
        assert only(cluster.kill([client.id], query=query))["OUTCOME"] == ("interrupted" if query else "killed")


def test_a_second_idle_connection_to_a_frozen_instance_does_not_count_as_its_response(
    fragile: Playground, cluster: Cluster
) -> None:
    """Otherwise the kill would wait ten deadlines for the instance."""
    pool, name = cluster._pool, fragile.status_address(2)
    first = pool.connect_to(pool.topology.registered()[name], LONG)
    with Client(fragile, 2) as client, first._lock:  # busy, so that another one is opened
        assert pool.connect_to(pool.topology.registered()[name], LONG) is not first
    fragile.freeze(2)
    spent, report = timed(lambda: cluster.kill([client.id], deadline=4))
    assert only(report)["OUTCOME"] == "unreachable"
    assert spent < 4 + OTHER_WORK


@pytest.mark.parametrize("known", [True, False])
def test_a_kill_waits_for_an_instance_that_responds_late(
    fragile: Playground, cluster: Cluster, running: Any, known: bool
) -> None:
    """As on a cluster whose CPUs are saturated."""
    with Client(fragile, 2) as client:
        running(client.start(LONG_SELECT.format("late")))
        if known:
            assert only(cluster.plan([client.id]))["OUTCOME"] == "planned"
        fragile.freeze(2)
        wake = threading.Timer(2.5, fragile.resume, [2])
        wake.start()
        assert only(cluster.kill([client.id], query=True, deadline=LONG))["OUTCOME"] == "interrupted"
        wake.join()
        assert client.error_code() == INTERRUPTED


@pytest.mark.parametrize("known", [True, False])
def test_a_kill_waits_longer_than_the_deadline_while_no_instance_responds(
    fragile: Playground, cluster: Cluster, running: Any, deadline: float, known: bool
) -> None:
    """The whole cluster is overloaded then, so that its owner need not be frozen."""
    with Client(fragile, 2) as client:
        running(client.start(LONG_SELECT.format("late")))
        if known:
            assert only(cluster.plan([client.id]))["OUTCOME"] == "planned"
        with frozen_for(fragile, 2 * deadline):
            spent, report = timed(lambda: cluster.kill([client.id], query=True, timeout=LONG))
        assert only(report)["OUTCOME"] == "interrupted"
        assert spent > deadline
        assert client.error_code() == INTERRUPTED


def test_a_kill_that_was_sent_is_waited_for_on_its_connection_while_no_instance_responds(
    fragile: Playground, cluster: Cluster, running: Any, deadline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(fragile, 2) as client, ExitStack() as stack:
        running(client.start(LONG_SELECT.format("late")))
        assert only(cluster.plan([client.id]))["OUTCOME"] == "planned"
        given_up: list[Any] = []
        monkeypatch.setattr(instance_worker, "end_statement", given_up.append)
        hold_between_check_and_send(monkeypatch, lambda: stack.enter_context(frozen_for(fragile, 2 * deadline)))
        assert only(cluster.kill([client.id], query=True))["OUTCOME"] == "interrupted"
        assert not given_up
        assert client.error_code() == INTERRUPTED


def test_a_look_that_takes_longer_than_the_deadline_is_waited_for_while_the_owner_responds(
    fragile: Playground, cluster: Cluster, running: Any, deadline: float
) -> None:
    with Client(fragile, 2) as client:
        running(client.start(LONG_SELECT.format("slowly")))
        slowly = f"IF(ID = {client.id}, SLEEP({1.2 * deadline}), 0) = 0"
        began = time.monotonic()
        report = cluster.kill(user="root", match="/. slowly", where=slowly, query=True)
        assert only(report)["OUTCOME"] == "interrupted"
        assert time.monotonic() - began > 2 * 1.2 * deadline
        assert client.error_code() == INTERRUPTED


@pytest.mark.product_deadlines
def test_a_session_on_a_frozen_instance_is_unreachable_by_forwarding_too(
    fragile: Playground, forwarding: Cluster, deadline: float, running: Any, every_statement: list[str]
) -> None:
    with Client(fragile, 2) as client:
        running(client.start(LONG_SELECT.format("frozen")))
        fragile.freeze(2)
        spent, report = timed(lambda: forwarding.kill([client.id]))
        assert only(report)["OUTCOME"] == "unreachable"
        assert only(report)["INSTANCE"] == fragile.status_address(2)
        assert f"{fragile.status_address(2)} did not answer through" in only(report)["REASON"]
        assert spent < deadline + OTHER_WORK
        assert kills(every_statement) == []
        fragile.resume(2)
        assert still_runs(fragile, client, 2)


def hold_between_check_and_send(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    send = Route.send

    def held(self: Route, sql: str, **kwargs: Any) -> Any:
        act()
        return send(self, sql, **kwargs)

    monkeypatch.setattr(Route, "send", held)


@pytest.mark.parametrize("query", [True, False])
def test_an_owner_that_freezes_between_check_and_send_leaves_it_unconfirmed(
    fragile: Playground,
    cluster: Cluster,
    deadline: float,
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
    query: bool,
) -> None:
    within = 2 * deadline
    with Client(fragile, 2) as client:
        running(client.start(LONG_SELECT.format("held")))
        hold_between_check_and_send(monkeypatch, lambda: fragile.freeze(2))
        spent, report = timed(lambda: cluster.kill([client.id], query=query, timeout=within, deadline=within))
        row = only(report)
        assert row["OUTCOME"] == "unconfirmed"
        assert "it may still take effect" in row["REASON"]
        assert spent < 2 * within + OTHER_WORK
        fragile.resume(2)
        eventually(lambda: not listed_kills(fragile, client))


def test_a_forwarded_kill_to_an_owner_that_freezes_is_unconfirmed_and_our_kill_is_no_longer_listed(
    fragile: Playground, forwarding: Cluster, deadline: float, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = 2 * deadline
    with Client(fragile, 2) as client, Client(fragile, 2) as second:
        running(client.start(LONG_SELECT.format("held")))
        assert only(forwarding.plan([client.id]))["OUTCOME"] == "planned"

        def freeze_until_the_connection_is_stale() -> None:
            if fragile.status()["tidb-2"] != "frozen":
                fragile.freeze(2)

        hold_between_check_and_send(monkeypatch, freeze_until_the_connection_is_stale)
        spent, report = timed(lambda: forwarding.kill([client.id, second.id], timeout=within, deadline=within))
        outcomes = dict(zip(report["ID"], report["OUTCOME"], strict=True))
        assert outcomes[client.id] == "unconfirmed"
        assert "it may still take effect" in report["REASON"][0]
        assert outcomes[second.id] == "unreachable"
        assert spent < 3 * within + OTHER_WORK
        assert not listed_kills(fragile, client)


def listed_kills(playground: Playground, client: Client) -> tuple[Any, ...]:
    """Return our KILLs of this client that the first instance lists."""
    with Client(playground, 0) as root:
        return root.query(
            "SELECT INFO FROM INFORMATION_SCHEMA.PROCESSLIST"
            f" WHERE INFO LIKE '%KILL TIDB%{client.id}%' AND ID <> CONNECTION_ID()"
        )


def test_a_kept_connection_that_was_lost_is_opened_again(fragile: Playground, cluster: Cluster) -> None:
    with Client(fragile, 1) as client, Client(fragile, 1) as root:
        cluster.plan([client.id])
        (owner,) = cluster._pool._owners
        root.query(f"KILL TIDB CONNECTION {owner.id}")
        assert only(cluster.kill([client.id]))["OUTCOME"] == "killed"
        assert not owner.open


def test_the_instance_of_our_own_connection_may_be_the_frozen_one(
    fragile: Playground, cluster: Cluster, running: Any
) -> None:
    with Client(fragile, 1) as client:
        running(client.start(LONG_SELECT.format("main is frozen")), aged=True)
        listed = row_of(cluster, client)
        fragile.freeze(0)
        spent, report = timed(lambda: cluster.kill(listed, query=True, deadline=LONG))
        assert only(report)["OUTCOME"] == "interrupted"
        assert spent < OTHER_WORK


def test_an_id_that_nobody_has_does_not_hold_up_the_others(
    fragile: Playground, cluster: Cluster, deadline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While our own instance is frozen it takes a list by the other instances to know that nobody has it."""
    sent = threading.Event()
    hold_between_check_and_send(monkeypatch, sent.set)

    def read_after_the_kill(*args: Any, **kwargs: Any) -> Any:
        assert sent.wait(30), "the KILL waits for the search"
        return read(*args, **kwargs)

    monkeypatch.setattr("tidb_magic.kill.locate.read", read_after_the_kill)
    with Client(fragile, 1) as client:
        cluster.plan([client.id])
        fragile.freeze(0)
        began = time.monotonic()
        report = cluster.kill([7, client.id])
        assert list(report["OUTCOME"]) == ["unreachable", "killed"]
        assert time.monotonic() - began < deadline + OTHER_WORK


# -- Ctrl-C ----------------------------------------------------------------------------------------------------


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def press_ctrl_c_after_send(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Route.send

    def sent(self: Route, *args: Any, **kwargs: Any) -> Any:
        warnings = send(self, *args, **kwargs)
        press_ctrl_c()
        threading.Event().wait(1)  # longer than a thread gets to end by itself
        return warnings

    monkeypatch.setattr(Route, "send", sent)


def no_statement_of_ours_runs(playground: Playground) -> bool:
    with Client(playground, 0) as root:
        sql = (
            "SELECT INFO FROM INFORMATION_SCHEMA.PROCESSLIST"
            " WHERE INFO LIKE '/* tidb_magic:%' AND ID <> CONNECTION_ID()"
        )
        return root.query(sql) == ()


def no_thread_of_ours_is_left() -> bool:
    return not [one for one in threading.enumerate() if one.name.startswith("tidb_magic-kill") and one.is_alive()]


@pytest.mark.parametrize("step", ["look", "send", "verify"])
def test_ctrl_c_in_each_step_is_one_line_that_says_what_was_sent(
    fragile: Playground,
    cluster: Cluster,
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
    every_statement: list[str],
    step: str,
) -> None:
    observe = Route.observe

    def interrupted(self: Route, *args: Any, **kwargs: Any) -> Any:
        if bool(kills(every_statement)) == (step == "verify"):
            press_ctrl_c()
            threading.Event().wait(1)  # longer than a thread gets to end by itself
        return observe(self, *args, **kwargs)

    with Client(fragile, 1) as client:
        running(client.start(LONG_SELECT.format("ctrl-c")))
        if step == "send":
            press_ctrl_c_after_send(monkeypatch)
        else:
            monkeypatch.setattr(Route, "observe", interrupted)
        with pytest.raises(Interrupted) as stopped:
            cluster.kill([client.id])
        monkeypatch.undo()
        said = str(stopped.value)
        assert "\n" not in said
        if step == "look":
            assert f"Nothing was sent for {client.id}." in said
            assert still_runs(fragile, client, 1)
        else:
            assert f"KILL TIDB CONNECTION {client.id} was sent; its effect was not observed" in said
        eventually(no_thread_of_ours_is_left)
        eventually(lambda: no_statement_of_ours_runs(fragile))
        if step != "look":
            assert tuple(cluster.history()[["ID", "OUTCOME"]].iloc[-1]) == (client.id, "unconfirmed")


@pytest.mark.parametrize("route", ["owner", "forward"])
def test_ctrl_c_while_a_kill_is_stuck_on_a_frozen_instance_ends_or_names_it(
    fragile: Playground, healed: Playground, running: Any, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    direct = "auto" if route == "owner" else "never"
    with tidb_magic.connect(healed.url(0), direct=direct) as cluster, Client(fragile, 2) as client:
        running(client.start(LONG_SELECT.format("stuck")))
        threads: list[threading.Timer] = []

        def freeze_and_press() -> None:
            fragile.freeze(2)
            threads.append(threading.Timer(1.0, press_ctrl_c))
            threads[0].start()

        hold_between_check_and_send(monkeypatch, freeze_and_press)
        began = time.monotonic()
        with pytest.raises(Interrupted) as stopped:
            cluster.kill([client.id], timeout=60, deadline=60)
        assert time.monotonic() - began < 1 + OTHER_WORK
        threads[0].join()
        said = str(stopped.value)
        assert f"KILL TIDB CONNECTION {client.id} was sent" in said
        assert "\n" not in said
        if route == "forward":
            assert not listed_kills(fragile, client)
        eventually(no_thread_of_ours_is_left)


def test_what_is_known_of_the_others_is_said_after_ctrl_c(
    fragile: Playground, cluster: Cluster, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = Route.observe

    def interrupted(self: Route, *args: Any, **kwargs: Any) -> Any:
        if self.name == fragile.status_address(2):
            assert proven.wait(60)
            press_ctrl_c()
            threading.Event().wait(0.3)
        seen = observe(self, *args, **kwargs)
        if self.name == fragile.status_address(1) and done.id not in seen.sessions:
            proven.set()
        return seen

    proven = threading.Event()
    with Client(fragile, 1) as done, Client(fragile, 2) as spared:
        monkeypatch.setattr(Route, "observe", interrupted)
        with pytest.raises(Interrupted) as stopped:
            cluster.kill([done.id, spared.id])
        assert f"{done.id}: killed." in str(stopped.value)
        assert f"Nothing was sent for {spared.id}." in str(stopped.value)
        monkeypatch.undo()
        assert spared.alive()


def test_a_list_that_cannot_be_had_sends_nothing(
    fragile: Playground, cluster: Cluster, every_statement: list[str]
) -> None:
    with Client(fragile, 1) as client:
        for instance in (0, 1, 2):
            fragile.freeze(instance)
        with pytest.raises(DeadlineError):
            cluster.kill(user="root", min_time=3)
        for instance in (0, 1, 2):
            fragile.resume(instance)
        assert kills(every_statement) == []
        assert client.alive()


# -- crashes, last: an instance stays registered for a minute --------------------------------------------------


@pytest.mark.slow
def test_a_session_of_a_crashed_instance_is_unreachable_and_later_already_gone(
    fragile: Playground, cluster: Cluster, deadline: float, every_statement: list[str]
) -> None:
    with Client(fragile, 2) as client, Client(fragile, 2) as second:
        listed = row_of(cluster, client)
        cluster.plan([second.id])
        fragile.crash(2)
        for victims in ([client.id], listed, [second.id]):
            spent, report = timed(lambda: cluster.kill(victims))  # noqa: B023 (called at once)
            assert only(report)["OUTCOME"] == "unreachable"
            assert spent < deadline + OTHER_WORK
        eventually(lambda: len(cluster.instances()) == 2, within=120)
        for victims in ([client.id], listed):
            spent, report = timed(lambda: cluster.kill(victims))  # noqa: B023 (called at once)
            assert only(report)["OUTCOME"] == "already gone"
            assert spent < deadline + OTHER_WORK
        assert kills(every_statement) == []


def test_the_session_of_a_restarted_instance_is_already_gone_and_new_ones_are_killed(
    fragile: Playground, cluster: Cluster
) -> None:
    """Within the life of its registration it is there twice, with one address and two server ids."""
    with Client(fragile, 2) as before:
        listed = row_of(cluster, before)
        cluster.plan([before.id])
        fragile.crash(2)
        fragile.restart(2)
        with Client(fragile, 2) as after:
            assert only(cluster.kill([after.id]))["OUTCOME"] == "killed"
            assert not after.alive()
        for victims in ([before.id], listed):
            row = only(cluster.kill(victims))
            assert row["OUTCOME"] == "already gone"
