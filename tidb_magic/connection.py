"""One session on one TiDB instance. The only part of the library that knows the driver."""

import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self
from weakref import WeakSet

import pymysql
from pymysql.constants import CR, ER, FIELD_TYPE
from pymysql.converters import encoders

from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import (
    AuthenticationError,
    ConnectError,
    DeadlineError,
    Interrupted,
    NotTidbError,
    ServerError,
)
from tidb_magic.queries import query
from tidb_magic.render import first_line
from tidb_magic.settings import Secret, Settings

CONNECT_TIMEOUT = 10.0  # seconds
_CLEANUP = 1.0  # seconds for each step of ending a statement that we do not wait for any more

_INTEGERS = (
    FIELD_TYPE.TINY,
    FIELD_TYPE.SHORT,
    FIELD_TYPE.INT24,
    FIELD_TYPE.LONG,
    FIELD_TYPE.LONGLONG,
)
# Text stays bytes: one session's bytes that are no UTF-8 must not end the whole list (and the connection).
_CONVERSIONS: dict[Any, Any] = {**encoders, **dict.fromkeys(_INTEGERS, int)}

_PASSED_DEADLINE = (3024, ER.QUERY_INTERRUPTED)


@dataclass(frozen=True)
class Result:
    """What a statement answered: rows hold None, int in the columns named by `integers`, and bytes in all others."""

    columns: tuple[str, ...]
    integers: frozenset[str]
    rows: tuple[tuple[Any, ...], ...]
    warnings: tuple[str, ...]


class Connection:
    """An open session, used by one statement at a time.

    `id` is what ``SELECT CONNECTION_ID()`` said: the handshake has 32 bits only. `token` is in a comment of every
    statement, so that a statement of ours is known wherever it is seen.

    Raises
    ------
    AuthenticationError, ConnectError, NotTidbError
        From the constructor.
    """

    def __init__(self, settings: Settings, *, within: float | None = None) -> None:
        within = CONNECT_TIMEOUT if within is None else within
        self.settings = settings
        self.token = secrets.token_hex(8)
        self.id: ConnectionId | None = None
        self.instance: str | None = None  # its INSTANCE in the process list, once it was seen there
        self._lock = threading.Lock()
        self._driver = _open(settings, within)
        try:
            identity = self.query(query("identify"), deadline=within)
        except BaseException as error:
            self.close()
            server = first_line(self._driver.get_server_info())
            if isinstance(error, ServerError) and "TiDB" not in server:
                raise NotTidbError(
                    f"{settings.address} is not TiDB: it says version {server}. tidb_magic works on TiDB clusters only."
                ) from error
            raise
        number, version = identity.rows[0]
        self.id = ConnectionId(number)
        self.version = first_line(decoded(version).removeprefix("Release Version: "))
        _HELD.add(self)

    @property
    def open(self) -> bool:
        """Whether it can still be used."""
        return self._driver.open

    def close(self) -> None:
        """End the session."""
        if self._driver.open:
            self._driver.close()

    def query(self, sql: str, args: Mapping[str, object] | None = None, *, deadline: float) -> Result:
        """Run one statement and read all of its answer within `deadline` seconds.

        Raises
        ------
        ServerError
            The server answered with an error; the connection is still good.
        DeadlineError
            No answer in time. Our statement was ended on the server, or the message says that it was not.
        ConnectError
            The connection was lost.
        Interrupted
            Ctrl-C. As for a deadline.
        """
        with self._lock:
            limit = _Deadline(self._driver, deadline)
            try:
                with limit:
                    return self._run(f"/* tidb_magic:{self.token} */ {sql}", args)
            except pymysql.Error as error:
                self._fail(error, limit)
            except KeyboardInterrupt:
                raise Interrupted(self._abandon()) from None
            except BaseException:
                self._abandon()  # part of the answer may still be on its way: nobody may use this connection again
                raise

    def _run(self, sql: str, args: Mapping[str, object] | None) -> Result:
        if not self._driver.open:
            raise pymysql.err.InterfaceError(0, "it is closed")
        with self._driver.cursor() as cursor:
            cursor.execute(sql, args)
            described = cursor.description or ()
            columns = tuple(column[0] for column in described)
            integers = frozenset(column[0] for column in described if column[1] in _INTEGERS)
            rows = tuple(cursor.fetchall())
            warnings: tuple[str, ...] = ()
            if cursor.warning_count:
                cursor.execute("SHOW WARNINGS")
                warnings = tuple(decoded(message) for _, _, message in cursor.fetchall())
        return Result(columns, integers, rows, warnings)

    def _fail(self, error: pymysql.Error, limit: "_Deadline") -> NoReturn:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        message = first_line(error.args[-1] if error.args else error)
        cause = _bare(error)
        address = self.settings.address
        if limit.passed:
            raise DeadlineError(f"{address} did not answer within {limit.seconds:g} s. {self._abandon()}") from cause
        if not self._driver.open or code in (0, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST):
            self.close()
            raise ConnectError(f"{address} ended the connection ({message}). Run it again to reconnect.") from cause
        if code in _PASSED_DEADLINE or "context canceled" in message:
            raise DeadlineError(f"{address} gave up by its deadline ({message}). Nothing is left running.") from cause
        raise ServerError(f"{message} (error {code})", code) from cause

    def _abandon(self) -> str:
        """Drop the connection and end its statement on the server; say what was achieved."""
        _force_close(self._driver)
        if self.id is None:
            return "Nothing was running yet."
        try:
            return self._end_statement(self.id)
        except (pymysql.Error, ConnectError, KeyboardInterrupt):  # a second Ctrl-C, too
            return f"Our statement on connection {int(self.id)} may still run on {self.settings.address}."

    def _end_statement(self, number: ConnectionId) -> str:
        driver = _open(self.settings, _CLEANUP)
        running = {"connection_id": int(number), "token": f"%{self.token}%"}
        with driver, _Deadline(driver, 2 * _CLEANUP), driver.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID()")
            ((other,),) = cursor.fetchall()
            cursor.execute(query("running"), running)
            if not cursor.fetchall():
                # Not here: ended, or on another instance. Without global kill this id may be somebody else's there.
                if not _global_kill(cursor):
                    return f"Our statement on connection {int(number)} may still run, if it was on another instance."
                if ConnectionId(other).server_id == number.server_id:
                    return "Our statement was ended on the server."
                cursor.execute(f"KILL TIDB CONNECTION {int(number)}")
                return f"Our statement on connection {int(number)} is on another instance: a KILL was sent there."
            cursor.execute(f"KILL TIDB CONNECTION {int(number)}")
            while cursor.execute(query("running"), running):
                time.sleep(0.02)
            return "Our statement was ended on the server."


_HELD: "WeakSet[Connection]" = WeakSet()


def own_ids() -> set[int]:
    """Return the ids of all connections that this process holds, in whatever role."""
    return {one.id for one in list(_HELD) if one.open and one.id is not None}


def is_own(instance: str, number: int) -> bool:
    """Tell whether this session is a connection that this process holds, in whatever role.

    With global kill off other instances have sessions with the same id, hence the instance, where it is known.
    """
    return any(one.open and one.id == number and one.instance in (None, instance) for one in list(_HELD))


def _global_kill(cursor: Any) -> bool:
    """Tell whether global kill is on for certain. An id does not say: with it off, ids are plain counters."""
    try:
        cursor.execute(query("capabilities"))
        return bool(cursor.fetchall()[0][0] == b"true")
    except pymysql.MySQLError:
        return False


class _Deadline:
    """Ends a driver's work when the time is over, whatever it is doing. Its read_timeout is for each packet."""

    def __init__(self, driver: "pymysql.Connection[Any]", seconds: float) -> None:
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
        sock = self._driver._sock  # type: ignore[attr-defined]  # noqa: SLF001 (the driver offers no deadline for the whole)
        if sock is not None:
            # Below TLS, whose own shutdown would wait for the other side. It wakes the reader at once.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _open(settings: Settings, timeout: float) -> "pymysql.Connection[Any]":
    problem: BaseException
    try:
        driver = pymysql.connect(
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
        with _Deadline(driver, timeout) as limit:
            driver.connect()
    except KeyboardInterrupt:
        problem = Interrupted("Not connected.")
    except Exception as error:  # noqa: BLE001 (whatever it is, its traceback holds the password)
        problem = _connect_error(settings, error)
        problem.__cause__ = _bare(error)
    else:
        if not limit.passed:
            # From here on each statement has a deadline of its own, and may take longer than that.
            driver._read_timeout = driver._write_timeout = None  # type: ignore[attr-defined]  # noqa: SLF001
            driver.password = b""
            return driver
        problem = _connect_error(settings, TimeoutError("timed out"))
    raise problem


def _connect_error(settings: Settings, error: Exception) -> ConnectError:
    code = error.args[0] if error.args else None
    message = first_line(error.args[-1] if error.args else error)
    if code in (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR):
        return AuthenticationError(f"{settings.address} refused the user or the password ({message}).")
    if code == ER.BAD_DB_ERROR:
        return ConnectError(f"There is no such database at {settings.address} ({message}).")
    return ConnectError(f"Cannot reach {settings.address} ({message}). Is it up, and are host and port right?")


def _bare(error: BaseException) -> BaseException:
    """Cut the traceback off: the driver's frames hold the password."""
    error.__context__ = None
    return error.with_traceback(None)


def _force_close(driver: "pymysql.Connection[Any]") -> None:
    driver._force_close()  # type: ignore[attr-defined]  # noqa: SLF001 (close() would first wait to say goodbye)


def decoded(value: Any) -> Any:
    r"""Return bytes as text, what is no UTF-8 as ``\xNN``; anything else as it is."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
