"""One session on one TiDB instance, by the driver."""

import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn, Self

import pymysql

from tidb_magic.connection.deadline import DEADLINE, time_left
from tidb_magic.connection.driver import (
    Deadline,
    Driver,
    encrypted,
    force_close,
    lost,
    open_driver,
    peer,
    wake,
)
from tidb_magic.connection.error_map import statement_error, strip_traceback
from tidb_magic.connection.own_sessions import HELD, HOLDING
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection.session_variables import TIDB_ONLY, assignments
from tidb_magic.connection.settings import Settings
from tidb_magic.connection.tls import verifies
from tidb_magic.connection_id import ConnectionId
from tidb_magic.display.render import first_line
from tidb_magic.errors import (
    BusyError,
    ClosedError,
    ConnectError,
    DeadlineError,
    Interrupted,
    NotTidbError,
    ServerError,
    TidbMagicError,
)
from tidb_magic.queries import query

CONNECT_TIMEOUT = 10.0  # seconds
_POLL = 0.02  # seconds between two looks at whether a statement has ended
_CLEANUP = 1.0  # seconds for each step of ending a statement that we do not wait for any more


class Connection:
    """An open session, used by one statement at a time.

    `id` is what ``SELECT CONNECTION_ID()`` said: the handshake has 32 bits only. `token` is in a comment of every
    statement, so that a statement of ours is known wherever it is seen, and in `alias`, its SESSION_ALIAS where there
    is one. `instance` is where it is, by INSTANCE of the process list, and `columns` what that list has there, both
    once they are known; `proven` is where the cluster's list was seen to have it. `proxied` is whether a proxy
    answered the handshake, with an id of its own. `version` is TiDB's, or ``unknown version`` of a server that was
    built without one. `tls` is ``TLS verified``, ``TLS not verified`` or ``no TLS``.

    Raises
    ------
    AuthenticationError, ConnectError, NotTidbError
        From the constructor, which calls `opening` before it connects.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        within: float | None = None,
        opening: Callable[[Driver], None] | None = None,
    ) -> None:
        within = CONNECT_TIMEOUT if within is None else within
        give_up = time.monotonic() + within
        self.settings = settings
        self.token = secrets.token_hex(8)
        self.alias = f"tidb_magic:{self.token}"
        self.id: ConnectionId | None = None
        self.instance: str | None = None
        self.proven: str | None = None
        self.columns: Mapping[str, str] = {}
        self._lock = threading.Lock()
        self._driver = open_driver(settings, within, opening)
        verified = "TLS verified" if verifies(settings.tls) else "TLS not verified"
        self.tls = verified if encrypted(self._driver) else "no TLS"
        try:
            self._set_variables(give_up)
            identity = self.query(query("identify"), deadline=time_left(give_up))
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
        self.peer = peer(self._driver)
        release = first_line(version.removeprefix("Release Version: "))
        self.version = release if release not in ("", "None") else "unknown version"
        self.proxied: bool = self._driver.thread_id() != number % 2**32  # the first is of the handshake
        with HOLDING:
            HELD.add(self)

    def _set_variables(self, give_up: float) -> None:
        """Set the session variables in one statement; what this server does not take is left out from then on."""
        server = (self._driver.get_server_info(), self.settings.user)
        while wanted := assignments(self.alias, without=_NOT_TAKEN.get(server, frozenset())):
            try:
                self._assign(wanted, give_up)
            except ServerError as error:
                refused = {name for name in wanted if f"'{name}'" in str(error)} or self._refused(wanted, give_up)
                if TIDB_ONLY in refused or not refused:
                    raise
                _NOT_TAKEN[server] = _NOT_TAKEN.get(server, frozenset()) | refused
            else:
                return

    def _assign(self, values: Mapping[str, str], give_up: float) -> None:
        texts = ", ".join(f"{name}={value}" for name, value in values.items())
        self.query(query("session_variables", assignments=texts), deadline=time_left(give_up))

    def _refused(self, wanted: Mapping[str, str], give_up: float) -> set[str]:
        """Return which variables this server does not let us set, where its error does not name them."""
        refused = set()
        for name, value in wanted.items():
            try:
                self._assign({name: value}, give_up)
            except ServerError:
                refused.add(name)
        return refused

    @property
    def open(self) -> bool:
        """Whether it can still be used, as far as that is known without asking the server."""
        if not self._driver.open or not self._lock.acquire(blocking=False):
            return self._driver.open
        try:
            return not lost(self._driver)
        finally:
            self._lock.release()

    @property
    def busy(self) -> bool:
        """Whether a statement of another thread runs on it."""
        return self._lock.locked()

    def close(self) -> None:
        """End the session, also under a thread that waits for an answer."""
        wake_up = not self._lock.acquire(blocking=False)
        try:
            if wake_up:
                wake(self._driver)
            elif self._driver.open:
                self._driver.close()
        finally:
            if not wake_up:
                self._lock.release()

    def query(
        self,
        sql: str,
        args: Mapping[str, object] | None = None,
        *,
        deadline: float,
        leave: bool = False,
        patience: float | None = None,
    ) -> Result:
        """Run one statement and read all of its answer within `deadline` seconds.

        With `leave` a statement that misses its deadline is not waited for: call `end_statement` then. `patience` is
        how long another thread's statement is waited for, if not for the whole deadline.

        Raises
        ------
        BusyError, ClosedError
            Nothing was sent: another thread's statement ran, or the connection was closed already.
        ServerError
            The server answered with an error; the connection is still good.
        DeadlineError
            No answer in time. Our statement was ended on the server, or the message says that it was not.
        ConnectError
            The connection was lost.
        Interrupted
            Ctrl-C. As for a deadline.
        """
        give_up = time.monotonic() + deadline
        patience = deadline if patience is None else max(patience, 0)
        if not self._lock.acquire(timeout=patience):
            raise BusyError(f"{self.settings.address} was busy with another thread's statement for {patience:.3g} s.")
        try:
            if not self._driver.open:
                raise ClosedError(
                    f"The connection to {self.settings.address} was closed. The next call opens a new one."
                )
            limit = Deadline(self._driver, time_left(give_up))
            try:
                with limit:
                    return self._run(f"/* tidb_magic:{self.token} */ {sql}", args)
            except pymysql.Error as error:
                self._fail(error, deadline if limit.passed else None, leave=leave)
            except KeyboardInterrupt:
                raise Interrupted(self._abandon()) from None
            except BaseException:
                self._abandon()  # part of the answer may still be under way: this connection must not be used again
                raise
        finally:
            self._lock.release()

    def moved(self, number: ConnectionId) -> None:
        """Note that a proxy moved it to another instance, where it has this id."""
        self.id, self.instance, self.proven = number, None, None

    def _run(self, sql: str, args: Mapping[str, object] | None) -> Result:
        return self._driver.ask(sql, args)

    def _fail(self, error: pymysql.Error, missed: float | None, *, leave: bool) -> NoReturn:
        cause = strip_traceback(error)
        if missed is not None:
            said = f"{self.settings.address} did not answer within {missed:.3g} s."
            force_close(self._driver)
            raise DeadlineError(said if leave else f"{said} {self._abandon()}") from cause
        problem = statement_error(self.settings, error, lost=not self._driver.open)
        if isinstance(problem, ConnectError):
            self.close()
        raise problem from cause

    def _abandon(self) -> str:
        """Drop the connection and end its statement on the server; say what was achieved."""
        force_close(self._driver)
        if self.id is None:
            return "No statement was running yet."
        return self.end_statement() or "Our statement was ended on the server."

    def end_statement(self, *, forward: bool = True, through: Self | None = None) -> str:
        """End what this dropped connection left running; say what may still run, nothing if nothing does.

        Without `forward` no KILL is sent to another instance: if that one is silent, the KILL waits for a minute.
        `through` is an open connection to the same instance; without it a new one is opened.
        """
        if self.id is None:
            return ""
        try:
            if through is not None:
                return self._end_through(through, self.id)
            return self._end_statement(self.id, forward=forward)
        except (pymysql.Error, TidbMagicError, KeyboardInterrupt):  # a second Ctrl-C, too
            return self.may_still_run

    def _end_through(self, through: Self, number: ConnectionId) -> str:
        ask = partial(through.query, deadline=DEADLINE)
        return self._kill(ask, number, DEADLINE) if ask(query("running"), self._running(number)).rows else ""

    def _kill(self, ask: Callable[..., Result], number: ConnectionId, seconds: float) -> str:
        """End the statement where it was seen to run, and wait for its end; say if it may still run."""
        give_up = time.monotonic() + seconds
        ask(f"KILL TIDB CONNECTION {int(number)}")
        while ask(query("running"), self._running(number)).rows:
            if time.monotonic() > give_up:
                return self.may_still_run
            time.sleep(_POLL)
        return ""

    def _running(self, number: ConnectionId) -> dict[str, object]:
        return {"connection_id": int(number), "token": f"%{self.token}%"}

    @property
    def may_still_run(self) -> str:
        """What to say of a statement that was dropped and not ended."""
        return f"Our statement on connection {int(self.id or 0)} may still run on {self.settings.address}."

    def _end_statement(self, number: ConnectionId, *, forward: bool) -> str:
        driver = open_driver(self.settings, _CLEANUP)
        with driver, Deadline(driver, 2 * _CLEANUP):
            ((other,),) = driver.ask("SELECT CONNECTION_ID()").rows
            if not driver.ask(query("running"), self._running(number)).rows:
                # Not here: ended, or on another instance. Without global kill this id may be somebody else's there.
                if not _global_kill(driver):
                    return f"Our statement on connection {int(number)} may still run, if it was on another instance."
                if ConnectionId(other).server_id == number.server_id:
                    return ""
                if not forward:
                    return self.may_still_run
                driver.ask(f"KILL TIDB CONNECTION {int(number)}")
                return f"Our statement on connection {int(number)} is on another instance: a KILL was sent there."
            return self._kill(driver.ask, number, 2 * _CLEANUP)


# By the server's version and the user: the session variables that could not be set.
_NOT_TAKEN: dict[tuple[str, str], frozenset[str]] = {}


def _start_over() -> None:
    """Forget the connections of the parent, in a forked child; their sockets were let go of."""
    global HOLDING  # noqa: PLW0603 (another thread of the parent can hold it)
    HOLDING = threading.Lock()
    for one in list(HELD):
        one._lock = threading.Lock()  # noqa: SLF001
    HELD.clear()


os.register_at_fork(after_in_child=_start_over)


def _global_kill(driver: Driver) -> bool:
    """Tell whether global kill is on for certain. An id does not say: with it off, ids are plain counters."""
    try:
        ((global_kill, *_),) = driver.ask(query("capabilities")).rows
    except pymysql.MySQLError:
        return False
    return bool(global_kill == "true")
