"""Reads the whole cluster in one statement or, when an instance or PD does not respond, each instance separately."""

import threading
import time

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.cleanup import end_statement
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import CHECK, PATIENCE
from tidb_magic.connection.row_reader import Result
from tidb_magic.errors import AuthenticationError, ConnectError, DeadlineError, NotTidbError
from tidb_magic.sessions.fanout import POLL, Ask, FanOut, Gathered
from tidb_magic.sessions.lookup import unresponsive_instances

_SLOW = 2  # deadlines after which the cluster's own list is given up though every instance responds


def gather(pool: Pool, ask: Ask, deadline: float) -> Gathered:
    """Ask the whole cluster in one statement; when an instance or PD does not respond, every instance separately.

    After `deadline` seconds an incomplete answer is accepted: an instance that has not responded is not waited for once
    all others have answered. While no instance has answered, the first answer is waited for up to `PATIENCE` times as
    long. An instance that was unresponsive before is asked in each reading and not waited for.

    Raises
    ------
    DeadlineError, ConnectError
        No instance answered.
    NotConnectedError
        The cluster was closed.
    ServerError, Interrupted
    """
    fanout = FanOut(pool, ask, deadline)
    reading = _ClusterReading(pool, ask, deadline, fanout)
    try:
        whole = None if pool.monitor.degraded else reading.read()
        if whole is None and not reading.dropped.is_set():  # else they are asked once our statement has ended
            fanout.ask_separately()
        return whole or fanout.read()
    finally:
        fanout.end()


def ask_cluster(pool: Pool, ask: Ask, deadline: float) -> list[Result]:
    """Ask the whole cluster in one statement, or not at all.

    As `gather`: where every instance responds it is waited for, and an instance that does not costs the deadline.

    Raises
    ------
    DeadlineError
        It did not answer.
    ConnectError
        Not every instance answered, or the connection was lost.
    NotConnectedError, ServerError, Interrupted
    """
    fanout = FanOut(pool, ask, deadline, 1 if pool.monitor.unresponsive else PATIENCE)
    try:
        whole = _ClusterReading(pool, ask, deadline, fanout, alone=True).read()
    finally:
        fanout.end()
    if whole is None:
        raise DeadlineError(fanout.problem)
    if not whole.complete:
        raise ConnectError("Not every instance answered.")
    return whole.parts[0]


class _ClusterReading:
    """The reading of the cluster's own list. `fanout` finds out meanwhile which instances respond.

    A thread drops the list when an instance or PD keeps it from answering: it ends our statement, and then has `fanout`
    ask each instance, if it is not `alone`.
    """

    def __init__(self, pool: Pool, ask: Ask, deadline: float, fanout: FanOut, *, alone: bool = False) -> None:
        self._pool, self._ask, self._deadline, self._fanout, self._alone = pool, ask, deadline, fanout, alone
        self._in_trouble = pool.monitor.degraded
        self.dropped = threading.Event()

    def read(self) -> Gathered | None:
        """Return what the cluster's own list answers; None if each instance has to be asked separately."""
        pool = self._pool
        for last in (False, True):
            was_open = pool.main.open
            try:
                connection = pool.connection(within=self._deadline)
                if pool.monitor.degraded and not self._in_trouble:  # found when the connection was opened again
                    return None
                return self._whole(connection)
            except (AuthenticationError, NotTidbError):
                raise
            except ConnectError as error:
                if self.dropped.is_set():
                    return None
                if last or not was_open:
                    self._fanout.problem = str(error)
                    break  # else it was lost while it was not used
            except DeadlineError as error:  # the server's own, or that of another thread's statement
                self._fanout.problem = str(error)
                break
        pool.monitor.note_degraded()
        return None

    def _whole(self, connection: Connection) -> Gathered:
        pool = self._pool
        pool.start(self._supervise, connection)
        results = self._ask(connection, None, self._fanout.due)
        self._fanout.end()
        warnings = [warning for result in results for warning in result.warnings]
        missing = unresponsive_instances(warnings)
        if warnings:
            pool.monitor.note_degraded()
            pool.monitor.note_unresponsive(dict.fromkeys(missing, "TiDB reported that it did not answer"))
        return Gathered((results,), complete=not warnings, missing=missing)

    def _supervise(self, connection: Connection) -> None:
        """Give up the cluster's own list when an instance or PD keeps it from answering."""
        pool, fanout = self._pool, self._fanout
        if fanout.over.wait(CHECK * self._deadline):
            return
        while not self._held_up():
            fanout.watch()
            if fanout.over.wait(POLL):
                return
        self.dropped.set()
        fanout.unresponsive = {name for name in fanout.asked.keys() - fanout.responding() if fanout.known(name)}
        fanout.problem = f"The cluster's own list did not answer within {fanout.spent():.3g} s."
        pool.monitor.note_degraded()
        connection.close()
        here = pool.topology.instance_of(connection)
        if here in fanout.unresponsive:
            fanout.left = connection.may_still_run
        else:
            through = pool.idle_connection(here) if here else None
            fanout.left = end_statement(connection, forward=False, through=through)
        if not self._alone:
            fanout.ask_separately()

    def _held_up(self) -> bool:
        """Tell whether the cluster's own list waits for an instance or PD that does not respond, or takes too long.

        Where each instance cannot be asked separately, it is waited for as long as `fanout` is.
        """
        now, fanout = time.monotonic(), self._fanout
        responding = fanout.responding()
        if now < fanout.accept or not responding:
            return False
        too_long = not self._alone and now > fanout.began + _SLOW * self._deadline
        if self._pool.topology.registered().keys() - responding or too_long:
            return True
        return not fanout.members.answered and fanout.members.late
