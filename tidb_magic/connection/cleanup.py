"""Ending a statement of ours whose connection was dropped: TiDB does not notice that a client has left (8.5.6)."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pymysql

from tidb_magic.connection.deadline import DEADLINE, Deadline
from tidb_magic.connection.driver import Driver, Timeout, open_driver
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import TidbMagicError
from tidb_magic.queries import query

if TYPE_CHECKING:
    from tidb_magic.connection.connection import Connection

_POLL = 0.02  # seconds between two looks at whether a statement has ended
_STEP = 1.0  # seconds for each step


def end_statement(dropped: "Connection", *, forward: bool = True, through: "Connection | None" = None) -> str:
    """End what a dropped connection left running. Return a sentence on what may still run, else an empty text.

    Without `forward` no KILL is sent to another instance: if that one does not respond, the KILL waits for a minute.
    `through` is an open connection to the same instance; without it a new one is opened.
    """
    if dropped.id is None:
        return ""
    try:
        if through is None:
            return _end_through_new(dropped, dropped.id, forward=forward)
        ask = partial(through.query, deadline=DEADLINE)
        return _kill(ask, dropped, DEADLINE) if _rows(ask, dropped) else ""
    except (pymysql.Error, TidbMagicError, KeyboardInterrupt):  # a second Ctrl-C, too
        return dropped.may_still_run


def _end_through_new(dropped: "Connection", number: ConnectionId, *, forward: bool) -> str:
    driver = open_driver(dropped.settings, _STEP)
    with driver, Timeout(driver, 2 * _STEP):
        ((other,),) = driver.ask("SELECT CONNECTION_ID()").rows
        if _rows(driver.ask, dropped):
            return _kill(driver.ask, dropped, 2 * _STEP)
        # Not here: ended, or on another instance. Without global kill another user's session can have this ID there.
        if not _global_kill(driver):
            return f"Our statement on connection {int(number)} may still run, if it was on another instance."
        if ConnectionId(other).server_id == number.server_id:
            return ""
        if not forward:
            return dropped.may_still_run
        driver.ask(f"KILL TIDB CONNECTION {int(number)}")
        return f"Our statement on connection {int(number)} is on another instance: a KILL was sent there."


def _kill(ask: Callable[..., Result], dropped: "Connection", seconds: float) -> str:
    """End the statement where it was seen to run, and wait for its end."""
    due = Deadline(seconds)
    ask(f"KILL TIDB CONNECTION {int(dropped.id or 0)}")
    while _rows(ask, dropped):
        if due.passed:
            return dropped.may_still_run
        time.sleep(_POLL)
    return ""


def _rows(ask: Callable[..., Result], dropped: "Connection") -> tuple[tuple[object, ...], ...]:
    """Return the session of the dropped connection, if its statement still runs here."""
    return ask(query("running"), {"connection_id": int(dropped.id or 0), "token": f"%{dropped.token}%"}).rows


def _global_kill(driver: Driver) -> bool:
    """Tell whether global kill is on for certain. An id does not say: with it off, ids are plain counters."""
    try:
        ((global_kill, *_),) = driver.ask(query("capabilities")).rows
    except pymysql.MySQLError:
        return False
    return bool(global_kill == "true")


@dataclass
class Endings:
    """The statements of dropped connections that are being ended, in threads."""

    running: dict[Future[str], "Connection"] = field(default_factory=dict)

    def end(self, executor: ThreadPoolExecutor, connection: "Connection") -> None:
        """End the statement of a dropped connection."""
        self.running[executor.submit(end_statement, connection, forward=False)] = connection

    def remarks(self) -> list[str]:
        """Return sentences on what of ours may still run."""
        said = [future.result() if future.done() else one.may_still_run for future, one in self.running.items()]
        return [one for one in said if one]
