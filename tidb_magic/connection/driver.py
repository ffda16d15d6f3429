"""PyMySQL as we need it: any bytes as text, a deadline for the whole, rows read fast, no password in a traceback."""

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

import pymysql
import pymysql.connections
from pymysql.constants import CR, ER, FIELD_TYPE
from pymysql.converters import encoders

from tidb_magic.connection.deadline import WATCHDOG, Watch
from tidb_magic.connection.error_map import UnsafeError, bare, connect_error
from tidb_magic.connection.settings import Secret, Settings
from tidb_magic.connection.tls import unverified_context, verifies
from tidb_magic.errors import ConnectTimeoutError, Interrupted

_INTEGERS = (
    FIELD_TYPE.TINY,
    FIELD_TYPE.SHORT,
    FIELD_TYPE.INT24,
    FIELD_TYPE.LONG,
    FIELD_TYPE.LONGLONG,
)
_FLOATS = (FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE)
_CLEAR = (b"mysql_clear_password", b"tidb_auth_token", b"dialog")  # these hand the password, or a token, over as it is
_CHALLENGED = b"mysql_native_password"  # the one way in that answers a challenge and never hands the password over
LEAST = 0.05  # seconds that anything gets, however late it is
_HEADER = struct.Struct("<I")  # of a packet: 3 bytes length, 1 byte number
_LARGEST = 0xFFFFFF  # a packet of this length goes on in the next one
_ERROR, _END, _END_SIZE = 0xFF, 0xFE, 9  # how these packets begin; a row that begins so is longer
_WIDTHS = {0xFC: 2, 0xFD: 3, 0xFE: 8}  # bytes of the length that follows


@dataclass(frozen=True)
class Result:
    r"""What a statement answered, by columns.

    The columns that `integers` names hold int, those of floats float, all others text, where bytes that are no UTF-8
    stand as ``\xNN``: one session's bytes must not end the whole list. None is NULL. `warnings` are those of code 1105,
    by which TiDB says what a KILL did not do and who did not answer; others are of values, as of a division by 0.
    """

    columns: tuple[str, ...]
    integers: frozenset[str]
    data: tuple[Sequence[Any], ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """The same by rows."""
        return tuple(zip(*self.data, strict=True))

    @cached_property
    def by_name(self) -> dict[str, Sequence[Any]]:
        """The columns by their names."""
        return dict(zip(self.columns, self.data, strict=True))

    def take(self, rows: Sequence[int]) -> "Result":
        """Return the rows with these numbers, in this order."""
        return replace(self, data=tuple([column[row] for row in rows] for column in self.data))

    @classmethod
    def joined(cls, results: Sequence["Result"]) -> "Result":
        """Return the rows of all of them, by names: instances of several versions have other columns.

        >>> one, two = Result(("a", "b"), frozenset("a"), ([1], ["x"])), Result(("a",), frozenset("a"), ([2],))
        >>> Result.joined([one, two]).rows
        ((1, 'x'), (2, None))
        """
        if len(results) == 1:
            return results[0]
        names = tuple(dict.fromkeys(name for result in results for name in result.columns))
        integers = frozenset[str]().union(*(result.integers for result in results))
        nothing = [[None] * len(result.data[0]) for result in results]
        parts = [[one.by_name.get(name, none) for one, none in zip(results, nothing, strict=True)] for name in names]
        return cls(names, integers, tuple([value for part in column for value in part] for column in parts))


if TYPE_CHECKING:
    _Connection = pymysql.connections.Connection[Any]
else:
    _Connection = pymysql.connections.Connection


class Driver(_Connection):
    """A connection of PyMySQL that is asked by `ask`. If `guarded`, no server gets its password that could read it.

    As clear text it goes only through TLS that was asked for: what a server merely offers can be anybody's.
    """

    guarded = False
    asked_tls = False
    accepted = False
    greeted = False
    _result: Any
    _sock: Any
    _rfile: Any

    def ask(self, sql: str, args: Mapping[str, object] | None = None) -> Result:
        """Run one statement and read all of its answer and its warnings."""
        with self.cursor() as cursor:
            self.query(cursor.mogrify(sql, args))
        answer: _Answer = self._result
        warnings: tuple[str, ...] = ()
        if answer.warning_count:
            self.query("SHOW WARNINGS")
            _, codes, messages = self._result.data
            warnings = tuple(text for code, text in zip(codes, messages, strict=True) if code == ER.UNKNOWN_ERROR)
        fields = answer.fields or ()
        integers = frozenset(field.name for field in fields if field.type_code in _INTEGERS)
        return Result(tuple(field.name for field in fields), integers, tuple(answer.data), warnings)

    def let_go(self) -> None:
        """Close the socket without a word to the server: it is that of the parent of this forked process."""
        sock, self._sock, self._rfile = self._sock, None, None
        if sock is not None:
            os.close(sock.detach())

    def _create_ssl_ctx(self, given: Any) -> ssl.SSLContext:
        """Return how TLS is used. PyMySQL loads all CAs of the system (20 ms) also where nothing is verified."""
        return given if isinstance(given, ssl.SSLContext) else unverified_context()

    @property
    def stage(self) -> str:
        """How far a connection got that is being opened, in words."""
        if self.greeted:
            return "greeted us and then did not answer"
        return "accepted the connection and sent no greeting" if self.accepted else "did not accept the connection"

    def _get_server_information(self) -> None:
        self.accepted = True
        super()._get_server_information()  # type: ignore[misc]
        self.greeted = True
        if self.guarded:
            self._auth_plugin_name = _CHALLENGED.decode()

    def _process_auth(self, plugin_name: bytes, *args: Any) -> Any:
        if self.guarded and plugin_name != _CHALLENGED:
            how = plugin_name.decode(errors="backslashreplace")
            raise UnsafeError(0, f"{how} would hand the password to an unverified server")
        if plugin_name in _CLEAR:
            if not self.asked_tls:
                how = plugin_name.decode()
                raise UnsafeError(0, f"{how} hands the password over as clear text: ask for TLS with --ssl-ca PATH")
            if plugin_name == b"tidb_auth_token":  # a token in the place of a password
                plugin_name = b"mysql_clear_password"
        return super()._process_auth(plugin_name, *args)  # type: ignore[misc]

    def _read_query_result(self, unbuffered: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 (PyMySQL's signature)
        self._result = None
        answer = _Answer(self)
        answer.read()
        self._result = answer
        if answer.server_status is not None:
            self.server_status = answer.server_status
        return answer.affected_rows


_DRIVERS: "WeakSet[Driver]" = WeakSet()
_OPENING = threading.Lock()


def _let_go() -> None:
    """Let go of the connections of the parent, in a forked child."""
    global _OPENING  # noqa: PLW0603 (another thread of the parent can hold it)
    _OPENING = threading.Lock()
    for driver in list(_DRIVERS):
        driver.let_go()
    _DRIVERS.clear()


os.register_at_fork(after_in_child=_let_go)


class _Answer(pymysql.connections.MySQLResult):
    """Rows taken apart in one loop: 2,000 sessions are 38,000 fields, for each of which PyMySQL makes three calls.

    Each text and number is converted once an answer: most of a list's values are there many times. `python -m
    benchmarks` shows the list beside PyMySQL's own reading of the same rows.
    """

    data: Sequence[list[Any]] = ()
    fields: Any = None

    def _read_rowdata_packet(self) -> None:
        driver: Any = self.connection
        read, number = driver._rfile.read, driver._next_seq_id  # noqa: SLF001
        texts, integers, floats = _Converted(_text), _Converted(int), _Converted(float)
        kinds = {**dict.fromkeys(_INTEGERS, integers), **dict.fromkeys(_FLOATS, floats)}
        self.data = [[] for _ in self.fields]
        columns = [
            (column.append, kinds.get(field.type_code, texts))
            for column, field in zip(self.data, self.fields, strict=True)
        ]
        try:
            while True:
                (header,) = _HEADER.unpack(read(4))
                length = header & _LARGEST
                row = read(length)
                if header >> 24 != number or len(row) < length:
                    raise ConnectionResetError("it was cut off")
                number = (number + 1) % 256
                if length == _LARGEST:
                    row, number = _continued(read, row, number)
                elif row[0] == _ERROR or (row[0] == _END and length < _END_SIZE):
                    break
                at = 0
                for append, converted in columns:
                    size = row[at]
                    at += 1
                    if size > 0xFA:  # numbers of the protocol, as literals: this runs for every field
                        if size == 0xFB:
                            append(None)
                            continue
                        width = _WIDTHS[size]
                        size = int.from_bytes(row[at : at + width], "little")
                        at += width
                    end = at + size
                    append(converted[row[at:end]])
                    at = end
        except (OSError, struct.error) as error:
            driver._force_close()  # noqa: SLF001
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, f"Lost connection to MySQL server ({error})") from error
        driver._next_seq_id = number  # noqa: SLF001
        self.connection = None  # its own way of letting go of a cycle
        if row[0] == _ERROR:
            pymysql.connections.MysqlPacket(row, driver.encoding).raise_for_error()  # type: ignore[attr-defined]
        self.warning_count = int.from_bytes(row[1:3], "little")
        self.affected_rows = len(self.data[0])


class _Converted(dict[bytes, Any]):
    def __init__(self, convert: Callable[[bytes], Any]) -> None:
        self._convert = convert

    def __missing__(self, value: bytes) -> Any:
        self[value] = converted = self._convert(value)
        return converted


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _continued(read: Callable[[int], bytes], data: bytes, number: int) -> tuple[bytes, int]:
    """Read on in a packet that did not fit into one."""
    parts, length = [data], _LARGEST
    while length == _LARGEST:
        (header,) = _HEADER.unpack(read(4))
        length = header & _LARGEST
        parts.append(read(length))
        number = (number + 1) % 256
    return b"".join(parts), number


class Deadline:
    """Ends a driver's work when the time is over, whatever it is doing. Its read_timeout is for each packet."""

    def __init__(self, driver: Driver, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._driver = driver
        self._watch: Watch | None = None

    def __enter__(self) -> Self:
        self._watch = WATCHDOG.watch(self.seconds, self._shut)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watch is not None:
            WATCHDOG.forget(self._watch)

    def _shut(self) -> None:
        self.passed = True
        wake(self._driver)


def time_left(give_up: float) -> float:
    """Return the seconds until that moment of the monotonic clock, and a few hundredths if it has passed."""
    return max(give_up - time.monotonic(), LEAST)


def hint(deadline: float) -> int:
    """Return a deadline as the hint takes it. 0 would be none."""
    return max(1, round(deadline * 1000))


def peer(driver: Driver) -> str | None:
    """Return the IP address that a connection leads to."""
    with suppress(OSError):
        address: tuple[Any, ...] = driver._sock.getpeername()  # noqa: SLF001
        return str(address[0])
    return None


def addresses(*, besides: Collection[Driver]) -> set[tuple[str, tuple[str, int]]]:
    """Return the addresses of the other connections of this process, those being opened included.

    The first is the HOST that servers list (behind a proxy or an address translation they list another one), the second
    the IP address and port that the connection leads to.
    """
    with _OPENING:
        drivers = [driver for driver in _DRIVERS if driver not in besides]
    found = set()
    for driver in drivers:
        with suppress(OSError, AttributeError):  # not connected yet, or any more
            here, there = driver._sock.getsockname(), driver._sock.getpeername()  # noqa: SLF001
            found.add((f"{here[0]}:{here[1]}", (str(there[0]), int(there[1]))))
    return found


def encrypted(driver: Driver) -> bool:
    """Tell whether a connection uses TLS."""
    return isinstance(driver._sock, ssl.SSLSocket)  # noqa: SLF001


def lost(driver: Driver) -> bool:
    """Tell whether the other side has ended an idle connection. Sends nothing."""
    sock = driver._sock  # noqa: SLF001 (the driver would ask the server)
    if sock is None:
        return True
    try:  # below TLS, where a goodbye is data, too; between two statements there is none
        socket.socket.recv(sock, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _keep_alive(driver: Driver) -> None:
    """Have the system find out within two minutes that the other side is gone, and balancers see that we are here."""
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # macOS has the second in the place of the first
            driver._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)  # noqa: SLF001


def wake(driver: Driver) -> None:
    """End the connection under a thread that waits for an answer: it gets an error at once."""
    sock = driver._sock  # noqa: SLF001 (the driver offers no deadline for the whole)
    if sock is not None:
        # Below TLS, whose own shutdown would wait for the other side.
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def open_driver(settings: Settings, timeout: float, opening: Callable[[Driver], None] | None = None) -> Driver:
    """Connect within `timeout` seconds; `opening` is called before.

    Raises
    ------
    AuthenticationError, ConnectError, Interrupted
        None of them, nor its causes, holds a frame that knows the password.
    """
    problem: BaseException
    driver = limit = None
    try:
        driver = Driver(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=(settings.password or Secret("")).reveal(),
            database=settings.database,
            ssl=settings.tls or None,  # as it is; without it TLS is used if the server offers it
            ssl_disabled=settings.tls is False,
            charset="utf8mb4",
            use_unicode=False,
            conv=encoders,  # type: ignore[arg-type]  # what is read is converted by _Answer
            autocommit=True,  # else we hold a snapshot and show up as a blocker
            connect_timeout=timeout,
            read_timeout=timeout,  # a frozen instance accepts the connection and never greets
            write_timeout=timeout,
            program_name="tidb_magic",
            defer_connect=True,
        )
        with _OPENING:
            _DRIVERS.add(driver)
        if opening is not None:
            opening(driver)
        limit = Deadline(driver, timeout)
        driver.guarded = bool(settings.password) and not (settings.trusted or verifies(settings.tls))
        driver.asked_tls = bool(settings.tls)
        with limit:
            driver.connect()
    except KeyboardInterrupt:
        problem = Interrupted("No connection was opened.")
    except Exception as error:  # noqa: BLE001 (whatever it is, its traceback holds the password)
        causes = (error, error.__context__, getattr(error, "original_exception", None))
        late = (limit and limit.passed) or any(isinstance(cause, TimeoutError) for cause in causes)
        problem = _timeout_error(settings, driver, timeout) if driver and late else connect_error(settings, error)
        problem.__cause__ = bare(error)
    else:
        if not limit.passed:
            # From here on each statement has a deadline of its own, and may take longer than that.
            driver._read_timeout = driver._write_timeout = None  # type: ignore[attr-defined]  # noqa: SLF001
            driver.password = b""
            _keep_alive(driver)
            return driver
        problem = _timeout_error(settings, driver, timeout)
    raise problem


def _timeout_error(settings: Settings, driver: Driver, timeout: float) -> ConnectTimeoutError:
    why = "It is frozen or overloaded." if driver.accepted else "Is it up, and are host and port right?"
    problem = ConnectTimeoutError(f"{settings.named} {driver.stage} within {timeout:.3g} s. {why}")
    problem.stage, problem.accepted, problem.greeted = driver.stage, driver.accepted, driver.greeted
    return problem


def force_close(driver: Driver) -> None:
    """Drop the connection without a goodbye, which could wait."""
    driver._force_close()  # type: ignore[attr-defined]  # noqa: SLF001
