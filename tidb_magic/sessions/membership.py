"""Asks PD, while the cluster is read, which instances are registered now."""

import math
import threading
import time
from collections.abc import Iterable

from tidb_magic.cluster import topology
from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import Deadline
from tidb_magic.errors import DeadlineError, TidbMagicError


class MembersQuestion:
    """The question of one reading. `answered` is whether PD has answered; `changed` is notified then.

    `deadline` is that of the reading in seconds, `due` is when it gives up, and `over` is set when it has ended.
    """

    def __init__(
        self, pool: Pool, deadline: float, due: Deadline, changed: threading.Condition, over: threading.Event
    ) -> None:
        self._pool, self._deadline, self._due, self._changed, self._over = pool, deadline, due, changed, over
        self._asked: float | None = None
        self.answered = False

    def ask(self, responding: Iterable[str]) -> None:
        """Ask through one of the instances that respond, unless that was done."""
        pool = self._pool
        if self._asked is not None or self.answered or pool.topology.membership.pd_unresponsive:
            return
        for name in responding:
            if connection := pool.idle_connection(name):
                self._asked = time.monotonic()
                pool.start(self._update_members, connection)
                return

    @property
    def late(self) -> bool:
        """Whether PD was asked and is not waited for any more."""
        asked = math.inf if self._asked is None else self._asked
        return time.monotonic() > min(asked + self._limit, self._due.moment)

    @property
    def _limit(self) -> float:
        return self._pool.monitor.grace(self._deadline)

    def _update_members(self, connection: Connection) -> None:
        try:
            self._pool.update_members(topology.instances(connection, deadline=self._limit))
            self.answered = True
        except DeadlineError:
            if not self._over.is_set():
                self._pool.topology.note_pd_unresponsive()
        except TidbMagicError:  # the connection was lost: another one is asked
            self._asked = None
        with self._changed:
            self._changed.notify_all()
