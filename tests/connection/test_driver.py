"""The driver made to measure: rows exactly as PyMySQL reads them, and a password that strangers do not get."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymysql.constants import ER

from tests.clients import Client, noted_calls
from tidb_magic import Cluster
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.driver import Driver, open_driver
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection.settings import Secret, Settings, parse_url
from tidb_magic.errors import ConnectError, DeadlineError
from tidb_magic.playground import Playground

PLANTED = "planted-s3cret"
VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=400) | st.just("x" * 70_000)


@pytest.fixture(scope="module")
def pair(playground: Playground) -> Iterator[tuple[Any, Any]]:
    """A connection of PyMySQL's own and one of ours."""
    theirs = pymysql.connect(host="127.0.0.1", port=playground.port(0), user="root", charset="utf8mb4")
    ours = open_driver(parse_url(playground.url(0)), 10)
    yield theirs, ours
    theirs.close()
    ours.close()


@given(rows=st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_what_pymysql_reads(pair: tuple[Any, Any], rows: list[tuple[object, ...]]) -> None:
    theirs, ours = pair
    sql = " UNION ALL ".join(["SELECT %s, %s, %s"] * len(rows))
    args = [value for row in rows for value in row]
    with theirs.cursor() as cursor:
        cursor.execute(sql, args)
        expected = cursor.fetchall()
    assert sorted(map(repr, ours.ask(sql, args).rows)) == sorted(map(repr, expected))


def test_the_internals_of_pymysql_that_are_used_are_there(pair: tuple[Any, Any]) -> None:
    """They are no public interface: pyproject.toml has an upper bound, which rises with this test."""
    theirs, _ = pair
    overridden = {
        "_create_ssl_ctx",
        "_get_server_information",
        "_process_auth",
        "_read_query_result",
        "set_character_set",
    }
    assert {
        name for name in vars(Driver) if name[1] != "_" and name in dir(pymysql.connections.Connection)
    } == overridden
    assert "_read_rowdata_packet" in vars(pymysql.connections.MySQLResult)
    used = {"_auth_plugin_name", "_next_seq_id", "_read_timeout", "_result", "_rfile", "_sock", "_write_timeout"}
    assert used <= vars(theirs).keys()
    assert callable(theirs._execute_command)
    assert callable(theirs._force_close)


@pytest.mark.parametrize("length", [0, 250, 251, 65_535, 65_536, 2**24 - 6, 2**24 - 5, 2**24 - 4, 17_000_000])
def test_a_text_of_any_length_arrives_whole(pair: tuple[Any, Any], length: int) -> None:
    """2^24 - 1 bytes is the largest packet: a longer row goes on in the next one."""
    _, ours = pair
    ((text, after),) = ours.ask(f"SELECT REPEAT('x', {length}), 5").rows
    assert (len(text), set(text) <= {"x"}, after) == (length, True, 5)
    assert ours.ask("SELECT 1").rows == ((1,),)


def test_statements_that_are_asked_together_are_sent_before_an_answer_is_read_and_one_may_fail(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = open_driver(parse_url(playground.url(0)), 10)
    done = noted_calls(monkeypatch, Driver, "_execute_command", "_read_query_result")
    first, second, third = driver.ask_all(["SELECT 1", "SELECT nothing", f"SELECT REPEAT('x', {2**24})"])
    assert done == ["_execute_command"] * 3 + ["_read_query_result"] * 3
    assert isinstance(first, Result)
    assert first.rows == ((1,),)
    assert isinstance(second, pymysql.Error)
    assert second.args[0] == ER.BAD_FIELD_ERROR
    assert isinstance(third, Result)
    assert len(third.rows[0][0]) == 2**24
    assert driver.ask("SELECT 2").rows == ((2,),)
    driver.close()


def test_an_error_after_the_first_rows_is_an_error_and_the_connection_stays(playground: Playground) -> None:
    connection = Connection(parse_url(playground.url(0)))
    with Client(playground) as root:
        root.query("CREATE TABLE IF NOT EXISTS test.numbers (n INT PRIMARY KEY)")
    sql = "SELECT /*+ MAX_EXECUTION_TIME(1000) */ n, SLEEP(0.01) FROM test.numbers"
    with pytest.raises(DeadlineError, match="ended our statement by its deadline"):
        connection.query(sql, deadline=30)
    assert connection.query("SELECT 1", deadline=5).rows == ((1,),)
    connection.close()


def test_a_connection_that_ends_between_two_rows_is_lost(playground: Playground) -> None:
    """A server that promises a row and goes away."""
    ours: Any = open_driver(parse_url(playground.url(0)), 10)
    here, there = socket.socketpair()
    ours._sock.close()
    ours._rfile, ours._sock = here.makefile("rb"), here
    ours._next_seq_id = 0
    column = b"\x03def\x00\x00\x00\x01a\x00\x0c\x2d\x00\xff\x00\x00\x00\xfd\x00\x00\x00\x00\x00"
    packets = [b"\x01", column, b"\xfe\x00\x00\x00\x00", b"\x01x"]
    there.sendall(b"".join(struct.pack("<I", len(one) | at << 24) + one for at, one in enumerate(packets)))
    there.sendall(b"\x05\x00")
    there.close()
    with pytest.raises(pymysql.OperationalError, match="Lost connection"):
        ours._read_query_result()
    assert not ours.open


def stranger(first: str, then: bytes, heard: list[bytes]) -> int:
    """Start a server that greets with one way to log in and then asks for another; return its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    salt = b"12345678", b"901234567890"
    capabilities = 0x0008_8200 | 0x0000_0008  # PLUGIN_AUTH, SECURE_CONNECTION, PROTOCOL_41, CONNECT_WITH_DB
    greeting = b"\x0a8.0.11-TiDB-v8.5.6\0" + struct.pack("<I", 7) + salt[0] + b"\0"
    greeting += struct.pack("<HBHHB", capabilities & 0xFFFF, 45, 2, capabilities >> 16, 21) + bytes(10)
    greeting += salt[1] + b"\0" + first.encode() + b"\0"

    def serve() -> None:
        client, _ = listener.accept()
        with suppress(OSError):
            client.sendall(struct.pack("<I", len(greeting)) + greeting)
            heard.append(client.recv(65536))
            client.sendall(struct.pack("<I", len(then) | 2 << 24) + then)
            while data := client.recv(65536):
                heard.append(data)
        client.close()
        listener.close()

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


SWITCH = b"\xfe%s\0" + b"12345678901234567890\0"


@pytest.mark.parametrize("first", ["mysql_native_password", "caching_sha2_password", "sha256_password", "odd"])
@pytest.mark.parametrize(
    "then",
    [
        SWITCH.replace(b"%s", b"mysql_clear_password"),
        SWITCH.replace(b"%s", b"caching_sha2_password"),
        SWITCH.replace(b"%s", b"sha256_password"),
        SWITCH.replace(b"%s", b"dialog"),
        b"\x01\x04",  # caching_sha2_password: no, the whole password please
    ],
)
def test_a_server_that_nobody_named_never_gets_the_password(first: str, then: bytes) -> None:
    heard: list[bytes] = []
    port = stranger(first, then, heard)
    with pytest.raises(ConnectError) as failed:
        Connection(Settings("127.0.0.1", port, "joe", Secret(PLANTED), trusted=False), within=5)
    assert PLANTED.encode() not in b"".join(heard)
    assert b"mysql_native_password\0" in heard[0]  # what we answer first, whatever the server prefers
    assert PLANTED not in str(failed.value)
    if then[:1] == b"\xfe":
        assert "would send the password to an unverified server" in str(failed.value)


def test_a_server_that_nobody_named_may_challenge_us(playground: Playground, users: dict[str, str]) -> None:
    named = replace(parse_url(playground.url(1)), user="joe", password=Secret(users["joe"]))
    connection = Connection(replace(named, trusted=False))
    assert connection.query("SELECT 1", deadline=5).rows == ((1,),)
    connection.close()


def test_the_warnings_of_an_answer_with_rows_are_read_and_those_of_values_left_out(cluster: Cluster) -> None:
    """By them a list knows who did not answer: TiDB leaves a silent instance out with a warning of code 1105 only."""
    connection = cluster._pool.connection()
    connection.query("SET SESSION tidb_enforce_mpp = ON", deadline=3)
    answer = connection.query("EXPLAIN SELECT COUNT(*) FROM mysql.user", deadline=3)
    assert answer.rows
    assert any("MPP mode" in warning for warning in answer.warnings)
    assert connection.query("SELECT 1 / 0", deadline=3).warnings == ()
    assert connection.query("SELECT 1", deadline=3).warnings == ()
