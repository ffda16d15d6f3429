"""PyMySQL as we need it: any bytes as text, a deadline for the whole, rows read fast, no password in a traceback."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

import pymysql
import pymysql.connections
from pymysql.constants import COMMAND, ER
from pymysql.converters import encoders

from tidb_magic.connection.deadline import WATCHDOG
from tidb_magic.connection.error_map import UnsafeError, connect_error, strip_traceback
from tidb_magic.connection.row_reader import Answer, Result
from tidb_magic.connection.settings import Secret, Settings
from tidb_magic.connection.tls import unverified_context, verifies
from tidb_magic.errors import ConnectTimeoutError, Interrupted

_CLEAR = (b"mysql_clear_password", b"tidb_auth_token", b"dialog")  # these hand the password, or a token, over as it is
_CHALLENGED = b"mysql_native_password"  # the one way in that answers a challenge and never hands the password over


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
        answer: Answer = self._result
        warnings: tuple[str, ...] = ()
        if answer.warning_count:
            self.query("SHOW WARNINGS")
            _, codes, messages = self._result.data
            warnings = tuple(text for code, text in zip(codes, messages, strict=True) if code == ER.UNKNOWN_ERROR)
        return answer.result(warnings)

    def ask_all(self, statements: Sequence[str]) -> Iterator[Result | pymysql.Error]:
        """Send several statements at once, and yield the answer or the error of each, without warnings: one round trip.

        Servers read one statement after the other, and proxies of TiDB forward them so.
        """
        for sql in statements:
            self._execute_command(COMMAND.COM_QUERY, sql)  # type: ignore[attr-defined]
        for _ in statements:
            self._next_seq_id = 1
            try:
                self._read_query_result()
            except pymysql.Error as error:
                if not self.open:
                    raise
                yield error
            else:
                yield self._result.result()

    def let_go(self) -> None:
        """Close the socket without a word to the server: it is that of the parent of this forked process."""
        sock, self._sock, self._rfile = self._sock, None, None
        if sock is not None:
            os.close(sock.detach())

    def _create_ssl_ctx(self, given: Any) -> ssl.SSLContext:
        """Return how TLS is used. PyMySQL loads all CAs of the system (20 ms) also where nothing is verified."""
        return given if isinstance(given, ssl.SSLContext) else unverified_context()

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Do nothing: `session_variables` sets it, and a separate statement would be one more round trip."""

    @property
    def stage(self) -> str:
        """How far a connection got that is being opened, in words."""
        if self.greeted:
            return "sent a greeting and then no answer"
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
            raise UnsafeError(0, f"{how} would send the password to an unverified server")
        if plugin_name in _CLEAR:
            if not self.asked_tls:
                how = plugin_name.decode()
                raise UnsafeError(0, f"{how} sends the password as clear text: require TLS with --ssl-ca PATH")
            if plugin_name == b"tidb_auth_token":  # a token in the place of a password
                plugin_name = b"mysql_clear_password"
        return super()._process_auth(plugin_name, *args)  # type: ignore[misc]

    def _read_query_result(self, unbuffered: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 (PyMySQL's signature)
        self._result = None
        answer = Answer(self)
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


class Timeout:
    """Ends a driver's work when the time is over, whatever it is doing. Its read_timeout is for each packet."""

    def __init__(self, driver: Driver, seconds: float) -> None:
        self.passed = False
        self._driver = driver
        self._watch = WATCHDOG.watch(seconds, self._shut)

    def __enter__(self) -> Self:
        self._watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__(None, None, None)

    def _shut(self) -> None:
        self.passed = True
        wake(self._driver)


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
            autocommit=None,  # session_variables sets it
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
        limit = Timeout(driver, timeout)
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
        problem.__cause__ = strip_traceback(error)
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
    why = "It is frozen or overloaded." if driver.accepted else "Is it running, and are host and port right?"
    problem = ConnectTimeoutError(f"{settings.named} {driver.stage} within {timeout:.3g} s. {why}")
    problem.stage, problem.accepted, problem.greeted = driver.stage, driver.accepted, driver.greeted
    return problem


def force_close(driver: Driver) -> None:
    """Drop the connection without a goodbye, which could wait."""
    driver._force_close()  # type: ignore[attr-defined]  # noqa: SLF001
