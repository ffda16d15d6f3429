"""One session on one TiDB instance, by the driver."""

import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn, TypeVar

import pymysql

from tidb_magic.connection.cleanup import end_statement
from tidb_magic.connection.deadline import Deadline
from tidb_magic.connection.driver import Driver, Timeout, encrypted, force_close, lost, open_driver, peer, wake
from tidb_magic.connection.error_map import statement_error, strip_traceback
from tidb_magic.connection.own_sessions import HELD, HOLDING
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection.session_variables import TIDB_ONLY, assignments
from tidb_magic.connection.settings import Settings
from tidb_magic.connection.tls import verifies
from tidb_magic.connection_id import ConnectionId
from tidb_magic.display.render import first_line
from tidb_magic.errors import (
    AuthenticationError,
    BusyError,
    ClosedError,
    ConnectError,
    ConnectTimeoutError,
    DeadlineError,
    Interrupted,
    NotTidbError,
    ServerError,
)
from tidb_magic.queries import query

T = TypeVar("T")
CONNECT_TIMEOUT = 10.0  # seconds


class Connection:
    """An open session, used by one statement at a time.

    `id` is what ``SELECT CONNECTION_ID()`` said: the handshake has 32 bits only. `token` is in a comment of every
    statement, so that a statement of ours is known wherever it is seen, and in `alias`, its SESSION_ALIAS where there
    is one. `instance` is where it is, by INSTANCE of the process list, and `columns` what that list has there, both
    once they are known; `proven` is where the cluster's list was seen to have it. `proxied` is whether a proxy
    answered the handshake, with an id of its own. `version` is TiDB's, or ``unknown version`` of a server that was
    built without one. `tls` is ``TLS verified``, ``TLS not verified`` or ``no TLS``.

    Parameters
    ----------
    introduction
        Names of queries that are asked in the round trip that sets the session variables: see `introduced`.

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
        introduction: Sequence[str] = (),
    ) -> None:
        within = CONNECT_TIMEOUT if within is None else within
        due = Deadline(within)
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
            identity, *answers = self._begin(introduction, due)
            ((number, version),) = _answer(identity).rows
        except BaseException as error:
            self.close()
            server = first_line(self._driver.get_server_info())
            if isinstance(error, ServerError) and "TiDB" not in server:
                raise NotTidbError(
                    f"{settings.address} is not TiDB: it says version {server}. tidb_magic works on TiDB clusters only."
                ) from error
            raise
        self._introduction = dict(zip(introduction, answers, strict=True))
        self.id = ConnectionId(number)
        self.peer = peer(self._driver)
        release = first_line(version.removeprefix("Release Version: "))
        self.version = release if release not in ("", "None") else "unknown version"
        self.proxied: bool = self._driver.thread_id() != number % 2**32  # the first is of the handshake
        with HOLDING:
            HELD.add(self)

    def _begin(self, introduction: Sequence[str], due: Deadline) -> list[Result | ServerError]:
        """Set the session variables, ask for the identity, and ask the introduction, in one round trip.

        Return the answers to the questions. Variables that this server does not take are left out from then on.
        """
        server = (self._driver.get_server_info(), self.settings.user)
        while True:
            wanted = assignments(self.alias, without=_NOT_TAKEN.get(server, frozenset()))
            asked = [_assignment(wanted), *map(query, ("identify", *introduction))]
            done, *answers = self.query_all(asked, deadline=due.left)
            if not isinstance(done, ServerError):
                return answers
            refused = {name for name in wanted if f"'{name}'" in str(done)} or self._refused(wanted, due)
            if TIDB_ONLY in refused or not refused:
                raise done
            _NOT_TAKEN[server] = _NOT_TAKEN.get(server, frozenset()) | refused

    def _refused(self, wanted: Mapping[str, str], due: Deadline) -> set[str]:
        """Return which variables this server does not let us set, where its error does not name them."""
        done = self.query_all([_assignment({name: value}) for name, value in wanted.items()], deadline=due.left)
        return {name for name, one in zip(wanted, done, strict=True) if isinstance(one, ServerError)}

    def introduced(self, name: str) -> Result:
        """Return the answer to a query of the introduction, or raise the ServerError that was the answer."""
        return _answer(self._introduction[name])

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

        With `leave` a statement that misses its deadline is not waited for: call `cleanup.end_statement` then.
        `patience` is how long another thread's statement is waited for, if not for the whole deadline.

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
        return self._use(partial(self._run, self._marked(sql), args), deadline, leave=leave, patience=patience)

    def query_all(self, statements: Sequence[str], *, deadline: float) -> list[Result | ServerError]:
        """Run several statements in one round trip, also if one fails, and return their answers, without warnings.

        Raises what `query` raises, but for ServerError, which is returned.
        """
        answers = self._use(partial(self._run_all, [self._marked(sql) for sql in statements]), deadline)
        found: list[Result | ServerError] = []
        for one in answers:
            answer = statement_error(self.settings, one, lost=False) if isinstance(one, pymysql.Error) else one
            if not isinstance(answer, Result | ServerError):
                raise answer
            found.append(answer)
        return found

    def _marked(self, sql: str) -> str:
        return f"/* tidb_magic:{self.token} */ {sql}"

    def _use(self, act: Callable[[], T], deadline: float, *, leave: bool = False, patience: float | None = None) -> T:
        due = Deadline(deadline)
        patience = deadline if patience is None else max(patience, 0)
        if not self._lock.acquire(timeout=patience):
            raise BusyError(f"{self.settings.address} was busy with another thread's statement for {patience:.3g} s.")
        try:
            if not self._driver.open:
                raise ClosedError(
                    f"The connection to {self.settings.address} was closed. The next call opens a new one."
                )
            limit = Timeout(self._driver, due.left)
            try:
                with limit:
                    return act()
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

    def _run_all(self, statements: Sequence[str]) -> list[Result | pymysql.Error]:
        return list(self._driver.ask_all(statements))

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
        return end_statement(self) or "Our statement was ended on the server."

    @property
    def may_still_run(self) -> str:
        """What to say of a statement that was dropped and not ended."""
        return f"Our statement on connection {int(self.id or 0)} may still run on {self.settings.address}."


def _answer(one: Result | ServerError) -> Result:
    if isinstance(one, ServerError):
        raise one
    return one


def _assignment(values: Mapping[str, str]) -> str:
    return query("session_variables", assignments=", ".join(f"{name}={value}" for name, value in values.items()))


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


def with_reconnect(act: Callable[[], T]) -> T:
    """Do something on a connection of the pool, and once more if that connection was lost while it was not used."""
    try:
        return act()
    except (AuthenticationError, ConnectTimeoutError):
        raise  # each login counts: some accounts are locked after a few
    except ConnectError:
        return act()
