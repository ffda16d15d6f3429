"""Connections: what goes wrong with them is said in one line, and nothing is left running."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from mysql_mimic import MysqlServer

import tidb_magic
from tests.clients import Client, eventually, noted_calls
from tidb_magic import ConnectionId
from tidb_magic.cluster import pool
from tidb_magic.connection import cleanup
from tidb_magic.connection.connection import CONNECT_TIMEOUT, Connection
from tidb_magic.connection.deadline import WATCHDOG
from tidb_magic.connection.driver import Driver
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection.settings import parse_url
from tidb_magic.errors import (
    AuthenticationError,
    ConnectError,
    DeadlineError,
    Interrupted,
    NotTidbError,
    ServerError,
    TidbMagicError,
)
from tidb_magic.playground import Playground

FOREVER = "SELECT SUM(SLEEP(0.05)) FROM test.numbers"


@pytest.fixture
def connection(playground: Playground) -> Iterator[Connection]:
    opened = Connection(parse_url(playground.url(0)))
    yield opened
    opened.close()


@pytest.fixture
def other_server() -> Iterator[int]:
    """A server that speaks MySQL's protocol and is not TiDB; its port."""
    loop = asyncio.new_event_loop()
    server = MysqlServer(port=0)
    loop.run_until_complete(server.start_server(host="127.0.0.1", port=0))
    port = server.sockets()[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield port

    async def end() -> None:
        server.close()
        await server.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def left_running(playground: Playground, connection: Connection) -> object:
    with Client(playground, 0) as root:
        return root.query(
            "SELECT ID, INFO FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST"
            f" WHERE INFO LIKE '%{connection.token}%' AND ID <> {root.id}"
        )


def test_a_server_that_was_built_without_a_version_has_an_unknown_one(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, release = Connection._run_all, "'Release Version: None\nEdition: Community'"

    def without(self: Connection, statements: list[str]) -> Any:
        return run(self, [sql.replace("TIDB_VERSION()", release) for sql in statements])

    monkeypatch.setattr(Connection, "_run_all", without)
    with tidb_magic.connect(playground.url(0)) as cluster:
        assert ": TiDB unknown version, 3 instances" in repr(cluster)


def test_after_the_login_a_cluster_is_known_in_two_round_trips(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session variables with what the server says of itself and of this user; the instances, which PD knows."""
    send, read = "_execute_command", "_read_query_result"
    done = noted_calls(monkeypatch, Driver, send, read)
    with tidb_magic.connect(playground.url(0)):
        assert done == [*[send] * 5, *[read] * 5, send, read]


def test_its_id_is_what_the_server_says(ids64: Playground) -> None:
    connections = [Connection(parse_url(ids64.url(i))) for i in range(3)]
    handshakes = {connection._driver.thread_id() for connection in connections}
    for i, connection in enumerate(connections):
        with Client(ids64, i) as root:
            listed = root.query(f"SELECT INFO FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {connection.id}")
        assert len(listed) == 1
        assert connection.id is not None
        assert connection.id.bits == 64
        assert connection.id not in handshakes  # it has 32 bits only
        connection.close()


def test_a_server_that_is_not_tidb_is_named(other_server: int) -> None:
    with pytest.raises(NotTidbError, match="is not TiDB: it says version"):
        tidb_magic.connect(f"mysql://levon@127.0.0.1:{other_server}")


def test_nobody_listening_is_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectError, match=r"Cannot reach root@127\.0\.0\.1:") as error:
            tidb_magic.connect(f"mysql://root@127.0.0.1:{port}")
    assert "\n" not in str(error.value)


def test_a_server_that_accepts_and_never_greets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT", 0.3)
    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ConnectError, match="sent no greeting"),
    ):
        tidb_magic.connect(f"mysql://root@127.0.0.1:{silent.getsockname()[1]}")
    assert 0.3 <= time.monotonic() - began < CONNECT_TIMEOUT


def test_where_the_drivers_own_limit_comes_first_the_words_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WATCHDOG, "watch", lambda *_: nullcontext())
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectError, match="sent no greeting"):
        tidb_magic.connect(f"mysql://root@127.0.0.1:{silent.getsockname()[1]}")


def test_a_server_that_freezes_in_the_tls_handshake_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT", 0.5)
    greeting = b"\x0a8.0.11-TiDB-v8.5.6\0" + b"\x01\0\0\0" + b"12345678\0" + b"\xff\xff" + b"\x2e\x02\0\xff\xff\x15"
    greeting += bytes(10) + b"123456789012\0" + b"mysql_native_password\0"  # with the flag for TLS
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            client, _ = server.accept()
            client.sendall(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
            client.recv(4096)
            done.wait(60)
            client.close()

        done = threading.Event()
        thread = threading.Thread(target=greet)
        thread.start()
        try:
            began = time.monotonic()
            with pytest.raises(ConnectError, match="sent a greeting and then no answer"):
                tidb_magic.connect(f"mysql://root@127.0.0.1:{server.getsockname()[1]}")
            assert 0.5 <= time.monotonic() - began < CONNECT_TIMEOUT
        finally:
            done.set()
            thread.join()


def test_no_such_database_is_said(playground: Playground) -> None:
    with pytest.raises(ConnectError, match="The database does not exist"):
        tidb_magic.connect(playground.url(0) + "/nowhere")


def test_an_error_of_the_server_leaves_the_connection_good(connection: Connection) -> None:
    with pytest.raises(ServerError) as error:
        connection.query("SELECT nothing FROM test.numbers", deadline=10)
    assert error.value.code == 1054
    assert connection.query("SELECT 1", deadline=10).rows == ((1,),)


def test_a_missed_deadline_leaves_no_statement_running(playground: Playground, connection: Connection) -> None:
    with pytest.raises(DeadlineError, match=r"did not answer within 0.3 s. Our statement was ended"):
        connection.query(FOREVER, deadline=0.3)
    assert not connection.open
    assert left_running(playground, connection) == ()


def test_ctrl_c_leaves_no_statement_running(playground: Playground, connection: Connection) -> None:
    def interrupt() -> None:
        eventually(lambda: left_running(playground, connection))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match=r"^Our statement was ended on the server\.$"):
        connection.query(FOREVER, deadline=60)
    thread.join()
    assert left_running(playground, connection) == ()
    assert not issubclass(Interrupted, TidbMagicError)  # `except Exception` in a loop must not swallow it


def test_a_second_ctrl_c_does_not_say_that_all_is_ended(
    playground: Playground, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, "_run", interrupt)
    monkeypatch.setattr(cleanup, "_end_through_new", interrupt)
    with pytest.raises(Interrupted, match=rf"^Our statement on connection {connection.id} may still run"):
        connection.query(FOREVER, deadline=60)


def test_what_could_not_be_ended_is_named(playground: Playground) -> None:
    connection = Connection(parse_url(playground.url(1)))
    playground.freeze(1)
    try:
        with pytest.raises(DeadlineError, match=rf"Our statement on connection {connection.id} may still run"):
            connection.query("SELECT 1", deadline=0.3)
    finally:
        playground.resume(1)


def test_without_global_kill_a_strangers_session_with_the_same_id_is_left_alone(no_global_kill: Playground) -> None:
    """Behind a balancer the second connection, which ends the first one's statement, can be on another instance."""
    connection = Connection(parse_url(no_global_kill.url(0)))
    with Client(no_global_kill, 1) as stranger:
        while stranger.id != int(connection.id or 0):
            if stranger.id < int(connection.id or 0):
                stranger.__exit__(None, None, None)
                stranger.__init__(no_global_kill, 1)  # type: ignore[misc]
            else:
                connection.close()
                connection = Connection(parse_url(no_global_kill.url(0)))
        connection.settings = parse_url(no_global_kill.url(1))  # as the balancer would
        with pytest.raises(DeadlineError, match="may still run, if it was on another instance"):
            connection.query(FOREVER, deadline=0.3)
        assert stranger.alive()
    with Client(no_global_kill, 0) as root:
        root.query(f"KILL TIDB {connection.id}")


def test_without_global_kill_an_id_that_looks_like_another_servers_is_never_killed(no_global_kill: Playground) -> None:
    """Ids are plain counters there: from 2^21 connections on they look as if they held a server id."""
    connection = Connection(parse_url(no_global_kill.url(0)))
    assert connection.query("SELECT 1", deadline=5).rows == ((1,),)
    connection.id = ConnectionId(2_100_000)
    sent = []
    with pytest.MonkeyPatch.context() as patch:
        ask = Driver.ask

        def noted(driver: Driver, sql: str, args: Any = None) -> Result:
            sent.append(sql)
            return ask(driver, "SELECT 4300000" if "SELECT CONNECTION_ID()" in sql else sql, args)

        patch.setattr(Driver, "ask", noted)
        assert "may still run" in connection._abandon()
    assert len(sent) == 3  # its own id, what runs, and whether global kill is on
    assert not any("KILL" in sql for sql in sent)


def test_a_connection_that_was_lost_meanwhile_is_opened_again_for_the_list(playground: Playground) -> None:
    with tidb_magic.connect(playground.url(0)) as cluster, Client(playground, 0) as root:
        before = cluster._pool.connection().id
        root.query(f"KILL TIDB CONNECTION {before}")
        listed = cluster.processlist()
        assert listed.complete
        assert listed.remarks == ()
        assert cluster._pool.connection().id != before


def test_wrong_password_is_said_and_none_is_asked_for(playground: Playground, users: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError, match=r"joe@127\.0\.0\.1:.* refused the user or the password"):
        tidb_magic.connect(playground.url(0).replace("root", "joe"), password="wrong")
