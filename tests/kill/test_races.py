"""Between the look and the KILL: nothing may come between them, and what was not sent is not called sent."""

import threading
import time
from typing import Any

import pytest

import tidb_magic
from tests.clients import LONG, LONG_SELECT, OTHER_WORK, Client, Gate, eventually
from tests.kill.test_identity import kills, row_of
from tests.kill.test_kill import INTERRUPTED, only
from tidb_magic import Cluster
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.driver import Driver
from tidb_magic.connection.own_sessions import Own
from tidb_magic.kill import instance_worker
from tidb_magic.kill.context import ContextReader
from tidb_magic.kill.routing import Route
from tidb_magic.playground import Playground


def looks_and_kills(asked: list[str]) -> list[str]:
    return ["KILL" if "KILL TIDB" in sql else "look" for sql in asked if "KILL TIDB" in sql or "tidb_magic_own" in sql]


def delayed(seconds: float) -> None:
    threading.Event().wait(seconds)


@pytest.mark.parametrize("what", ["rights and transactions", "audit"])
def test_whatever_takes_time_comes_before_the_look_that_decides(
    playground: Playground,
    cluster: Cluster,
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
    every_statement: list[str],
    tmp_path: Any,
    what: str,
) -> None:
    """A statement that begins while they are asked is met by the look, and is not the one that was meant."""
    innocent: list[Client] = []

    def begin_another() -> None:
        if not innocent:
            gate.open()
            client.result()
            innocent.append(client.start(LONG_SELECT.format("innocent")))
            running(client)

    ask, append = ContextReader.read, tidb_magic.api.Audit._append  # type: ignore[attr-defined]

    def slow_ask(self: ContextReader, *args: Any, **kwargs: Any) -> bool:
        begin_another()
        ask(self, *args, **kwargs)
        asked.append(1)
        return len(asked) == 1  # it took time

    def slow_append(self: Any, lines: Any) -> None:
        if (written := list(lines)) and written[0]["event"] == "sending":
            begin_another()
        append(self, written)

    asked: list[int] = []
    with Client(playground, 1) as client, Gate(playground) as gate:
        running(client.start(gate.statement("meant")), aged=True)
        listed = row_of(cluster, client)
        if what == "audit":
            cluster.audit_file = str(tmp_path / "audit.jsonl")
            monkeypatch.setattr("tidb_magic.kill.audit.Audit._append", slow_append)
            report = cluster.kill(match="/. meant", user="root", query=True)
        else:
            monkeypatch.setattr(ContextReader, "read", slow_ask)
            report = cluster.kill(listed, query=True)
        assert only(report)["OUTCOME"] == "changed"
        assert kills(every_statement) == []
        monkeypatch.undo()
        cluster.kill([client.id])


def test_a_kill_that_waits_for_another_threads_statement_looks_again(
    playground: Playground, cluster: Cluster, running: Any, monkeypatch: pytest.MonkeyPatch, every_statement: list[str]
) -> None:
    """The connection was free for the look, and is busy when the KILL is due."""
    send = Route.send
    busy: list[threading.Thread] = []

    def beside(self: Route, *args: Any, **kwargs: Any) -> Any:
        if not busy:
            query = {"sql": "SELECT SLEEP(1)", "deadline": 5}
            busy.append(threading.Thread(target=self.connection.query, kwargs=query))
            busy[0].start()
            eventually(lambda: self.connection.busy)
            every_statement.clear()
        return send(self, *args, **kwargs)

    monkeypatch.setattr(Route, "send", beside)
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("beside")))
        assert only(cluster.kill([client.id], query=True))["OUTCOME"] == "interrupted"
        assert client.error_code() == INTERRUPTED
        kinds = looks_and_kills(every_statement)
        assert (kinds[0], kinds.count("KILL")) == ("look", 1)
        busy[0].join()


def test_a_kill_that_could_not_be_sent_is_not_called_sent(
    playground: Playground, cluster: Cluster, running: Any, monkeypatch: pytest.MonkeyPatch, every_statement: list[str]
) -> None:
    """Another thread holds the connection until after the deadline; the statement ends by itself meanwhile."""
    from tidb_magic.errors import BusyError

    def never(*_: Any, **__: Any) -> Any:
        gate.open()
        raise BusyError("busy")

    monkeypatch.setattr(Route, "send", never)
    with Client(playground, 1) as client, Gate(playground) as gate:
        running(client.start(gate.statement("short")))
        row = only(cluster.kill([client.id], query=True))
        assert row["OUTCOME"] == "refused"
        assert row["REASON"].startswith("it runs no statement now")
        assert kills(every_statement) == []


def test_an_old_look_is_not_acted_on(
    playground: Playground, cluster: Cluster, running: Any, monkeypatch: pytest.MonkeyPatch, every_statement: list[str]
) -> None:
    check = vars(instance_worker)["check"]
    slow = [True]

    def thinking(*args: Any) -> Any:
        if slow:
            slow.clear()
            delayed(0.1)
            every_statement.clear()
        return check(*args)

    monkeypatch.setattr(instance_worker, "check", thinking)
    with Client(playground, 1) as client:
        assert only(cluster.kill([client.id]))["OUTCOME"] == "killed"
        kinds = looks_and_kills(every_statement)
        assert (kinds[0], kinds.count("KILL")) == ("look", 1)


def test_a_mistake_of_our_own_loses_no_outcome(
    playground: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = Route.observe

    def broken(self: Route, *args: Any, **kwargs: Any) -> Any:
        if self.name == playground.status_address(2):
            raise TypeError("broken")
        return observe(self, *args, **kwargs)

    monkeypatch.setattr(Route, "observe", broken)
    with Client(playground, 1) as one, Client(playground, 2) as two:
        report = cluster.kill([one.id, two.id]).set_index("ID")
        assert dict(report["OUTCOME"]) == {one.id: "killed", two.id: "failed"}
        assert "an internal error of tidb_magic: TypeError: broken" in report["REASON"][two.id]
        assert two.alive()
        assert list(cluster.history()["OUTCOME"][-2:]) == ["killed", "failed"]


def test_a_session_that_hides_while_it_changes_its_user_is_not_called_gone(
    playground: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, users: dict[str, str]
) -> None:
    """COM_CHANGE_USER takes as long as the client wants it to, here 0.2 s."""
    send_packet = "write_packet"
    with Client(playground, 1) as client:
        driver = client._driver
        write = getattr(driver, send_packet)

        def late(payload: bytes) -> None:
            hidden.set()
            delayed(0.2)
            write(payload)

        hidden = threading.Event()
        driver.write_packet = late
        thread = threading.Thread(target=client.become, args=("joe", users["joe"]))
        thread.start()
        hidden.wait(10)
        row = only(cluster.plan([client.id]))
        thread.join()
        assert row["OUTCOME"] == "planned"
        assert row["USER"] == "joe"


# -- our own connections ---------------------------------------------------------------------------------------


def test_a_connection_of_ours_is_known_by_its_address_before_it_knows_its_id(
    playground: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is being opened, by the thread that looks after silent instances for example."""
    opened, go_on = threading.Event(), threading.Event()
    ask = Driver.ask

    def waiting(self: Driver, sql: str, args: Any = None) -> Any:
        if "TIDB_VERSION()" in sql:
            opened.set()
            go_on.wait(30)
        return ask(self, sql, args)

    monkeypatch.setattr(Driver, "ask", waiting)
    made: list[Connection] = []
    thread = threading.Thread(target=lambda: made.append(Connection(cluster._pool.settings)))
    thread.start()
    opened.wait(10)
    report = cluster.kill(user="root", where="SESSION_ALIAS NOT LIKE 'tidb_magic:%'", idle=True, timeout=2)
    go_on.set()
    thread.join()
    assert made[0].id not in set(report.loc[report["OUTCOME"] == "killed", "ID"])
    assert made[0].query("SELECT 1", deadline=5).rows == ((1,),)
    made[0].close()


def test_a_connection_of_ours_that_a_proxy_moved_is_known_by_its_alias(
    playground: Playground, cluster: Cluster
) -> None:
    """It has another id and another instance then; the alias is part of the session's state, which moves along."""
    main = cluster._pool.connection()
    with tidb_magic.connect(playground.url(1)) as other:
        moved = other._pool.connection()
        moved.query("SET SESSION tidb_session_alias = %(alias)s", {"alias": main.alias}, deadline=5)
        own = cluster._pool.own()
        assert own.has("elsewhere", 12345, "10.0.0.1:1", main.alias)
        assert not own.has("elsewhere", 12345, "10.0.0.1:1", "tidb_magic:0000000000000000")


def test_a_session_with_the_address_of_our_connection_on_another_instance_is_not_ours(
    playground: Playground, cluster: Cluster
) -> None:
    """The system gives a port again to a connection that leads elsewhere. Ours is known by its alias."""
    main = cluster._pool.connection()
    address, port = main._driver._sock.getsockname()
    own = cluster._pool.own()
    assert not own.has(playground.status_address(1), 12345, f"{address}:{port}")
    assert own.has(playground.status_address(1), 12345, f"{address}:{port}", main.alias)


def test_a_connection_that_is_being_opened_is_ours_on_the_instance_it_leads_to_alone(
    playground: Playground, cluster: Cluster
) -> None:
    here = "127.0.0.1:50000"
    pool = cluster._pool
    registered = pool.topology.registered()
    advertised = {**{name: (one.host, one.port) for name, one in registered.items()}, "by name": ("db-1", None)}
    opening = frozenset({(here, ("127.0.0.1", playground.port(1)))})
    own = Own(frozenset(), frozenset(), frozenset(), opening, unique=True, advertised=advertised)
    assert own.has(playground.status_address(1), 12345, here)
    assert not own.has(playground.status_address(0), 12345, here)
    assert own.has("by name", 12345, here)
    assert own.has("not known", 12345, here)
    far = Own(
        frozenset(),
        frozenset(),
        frozenset(),
        opening,
        unique=True,
        advertised={"far": ("10.0.0.7", playground.port(1))},
    )
    assert not far.has("far", 12345, here)


def test_ids_of_our_connections_are_ours_on_their_instances_only_where_ids_are_not_unique(cluster: Cluster) -> None:
    main = cluster._pool.connection()
    assert main.id is not None
    assert main.instance is not None
    assert Own.now(unique=True, advertised={}).has("elsewhere", main.id, "10.0.0.1:1")
    assert not Own.now(unique=False, advertised={}).has("elsewhere", main.id, "10.0.0.1:1")
    assert Own.now(unique=False, advertised={}).has(main.instance, main.id, "10.0.0.1:1")


def test_a_restarted_instance_is_reached_by_a_connection_again(healed: Playground, every_statement: list[str]) -> None:
    """The connection to the process that ran there before is lost, and nobody has noticed yet."""
    with tidb_magic.connect(healed.url(0)) as cluster:
        with Client(healed, 2) as before:
            assert only(cluster.plan([before.id]))["OUTCOME"] == "planned"
        healed.crash(2)
        healed.restart(2)
        with Client(healed, 2) as after:
            began = time.monotonic()
            reason = only(cluster.plan([after.id], deadline=LONG))["REASON"]
            assert reason.endswith("; by a connection to its instance")
            assert time.monotonic() - began < OTHER_WORK
