"""PyMySQL as we need it: text as bytes, a deadline for the whole, rows read fast, and no password in a traceback."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pymysql
import pymysql.connections
from pymysql.constants import CR, ER, FIELD_TYPE
from pymysql.converters import encoders

from tidb_magic.errors import AuthenticationError, ConnectError, Interrupted
from tidb_magic.render import first_line
from tidb_magic.settings import Secret, Settings

INTEGERS = (
    FIELD_TYPE.TINY,
    FIELD_TYPE.SHORT,
    FIELD_TYPE.INT24,
    FIELD_TYPE.LONG,
    FIELD_TYPE.LONGLONG,
)
_FLOATS = (FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE)
# Text stays bytes: one session's bytes that are no UTF-8 must not end the whole list (and the connection).
_CONVERSIONS: dict[Any, Any] = {**encoders, **dict.fromkeys(INTEGERS, int), **dict.fromkeys(_FLOATS, float)}
_CHALLENGED = b"mysql_native_password"  # the one way in that answers a challenge and never hands the password over
_HEADER = struct.Struct("<I")  # of a packet: 3 bytes length, 1 byte number
_LARGEST = 0xFFFFFF  # a packet of this length goes on in the next one
_ERROR, _END, _END_SIZE = 0xFF, 0xFE, 9  # how these packets begin; a row that begins so is longer
_WIDTHS = {0xFC: 2, 0xFD: 3, 0xFE: 8}  # bytes of the length that follows


if TYPE_CHECKING:
    _Connection = pymysql.connections.Connection[Any]
else:
    _Connection = pymysql.connections.Connection


class Driver(_Connection):
    """A connection of PyMySQL. With `guarded` it gives its password to no server that could read it."""

    guarded = False

    def _get_server_information(self) -> None:
        super()._get_server_information()  # type: ignore[misc]
        if self.guarded:
            self._auth_plugin_name = _CHALLENGED.decode()

    def _process_auth(self, plugin_name: bytes, *args: Any) -> Any:
        if self.guarded and plugin_name != _CHALLENGED:
            message = f"{plugin_name.decode(errors='backslashreplace')} would hand the password to an unverified server"
            raise pymysql.OperationalError(0, message)
        return super()._process_auth(plugin_name, *args)  # type: ignore[misc]

    def _read_query_result(self, unbuffered: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 (PyMySQL's signature)
        self._result = None
        result = _Rows(self)
        result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return result.affected_rows


class _Rows(pymysql.connections.MySQLResult):
    """Rows taken apart in one loop: 2,000 sessions are 38,000 fields, for each of which PyMySQL makes three calls.

    With them the list of 2,000 sessions takes 1.4 times as long as PyMySQL's own SELECT (benchmarks/list.py), with this
    one 1.05 times.
    """

    def _read_rowdata_packet(self) -> None:
        driver: Any = self.connection
        read, number = driver._rfile.read, driver._next_seq_id  # noqa: SLF001
        converts = [convert for _, convert in self.converters]  # type: ignore[attr-defined]
        rows = []
        try:
            while True:
                (header,) = _HEADER.unpack(read(4))
                length = header & _LARGEST
                data = read(length)
                if header >> 24 != number or len(data) < length:
                    raise ConnectionResetError("it was cut off")
                number = (number + 1) % 256
                if length == _LARGEST:
                    data, number = _continued(read, data, number)
                elif data[0] == _ERROR or (data[0] == _END and length < _END_SIZE):
                    break
                row: list[Any] = []
                append, at = row.append, 0
                for convert in converts:
                    size = data[at]
                    at += 1
                    if size > 0xFA:  # numbers of the protocol, as literals: this runs for every field
                        if size == 0xFB:
                            append(None)
                            continue
                        width = _WIDTHS[size]
                        size = int.from_bytes(data[at : at + width], "little")
                        at += width
                    end = at + size
                    append(data[at:end] if convert is None else convert(data[at:end]))
                    at = end
                rows.append(tuple(row))
        except (OSError, struct.error) as error:
            driver._force_close()  # noqa: SLF001
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, f"Lost connection to MySQL server ({error})") from error
        driver._next_seq_id = number  # noqa: SLF001
        self.connection = None  # its own way of letting go of a cycle
        if data[0] == _ERROR:
            pymysql.connections.MysqlPacket(data, driver.encoding).raise_for_error()  # type: ignore[attr-defined]
        self.affected_rows = len(rows)
        self.rows = tuple(rows)


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
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def _shut(self) -> None:
        self.passed = True
        wake(self._driver)


def wake(driver: Driver) -> None:
    """End the connection under a thread that waits for an answer: it gets an error at once."""
    sock = driver._sock  # type: ignore[attr-defined]  # noqa: SLF001 (the driver offers no deadline for the whole)
    if sock is not None:
        # Below TLS, whose own shutdown would wait for the other side.
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def open_driver(settings: Settings, timeout: float) -> Driver:
    """Connect within `timeout` seconds.

    Raises
    ------
    AuthenticationError, ConnectError, Interrupted
        None of them, nor its causes, holds a frame that knows the password.
    """
    problem: BaseException
    try:
        driver = Driver(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=(settings.password or Secret("")).reveal(),
            database=settings.database,
            charset="utf8mb4",
            use_unicode=False,
            conv=_CONVERSIONS,
            autocommit=True,  # else we hold a snapshot and show up as a blocker
            connect_timeout=timeout,
            read_timeout=timeout,  # a frozen instance accepts the connection and never greets
            write_timeout=timeout,
            program_name="tidb_magic",
            defer_connect=True,
        )
        driver.guarded = bool(settings.password) and not settings.trusted
        with Deadline(driver, timeout) as limit:
            driver.connect()
    except KeyboardInterrupt:
        problem = Interrupted("Not connected.")
    except Exception as error:  # noqa: BLE001 (whatever it is, its traceback holds the password)
        problem = _connect_error(settings, error)
        problem.__cause__ = bare(error)
    else:
        if not limit.passed:
            # From here on each statement has a deadline of its own, and may take longer than that.
            driver._read_timeout = driver._write_timeout = None  # type: ignore[attr-defined]  # noqa: SLF001
            driver.password = b""
            return driver
        problem = _connect_error(settings, TimeoutError("timed out"))
    raise problem


def force_close(driver: Driver) -> None:
    """Drop the connection without a goodbye, which could wait."""
    driver._force_close()  # type: ignore[attr-defined]  # noqa: SLF001


def bare(error: BaseException) -> BaseException:
    """Cut the traceback off: the driver's frames hold the password."""
    error.__context__ = None
    return error.with_traceback(None)


def _connect_error(settings: Settings, error: Exception) -> ConnectError:
    code = error.args[0] if error.args else None
    message = first_line(error.args[-1] if error.args else error)
    if code in (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR):
        return AuthenticationError(f"{settings.address} refused the user or the password ({message}).")
    if code == ER.BAD_DB_ERROR:
        return ConnectError(f"There is no such database at {settings.address} ({message}).")
    return ConnectError(f"Cannot reach {settings.address} ({message}). Is it up, and are host and port right?")
