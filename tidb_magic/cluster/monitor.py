"""Which instances respond, and how fast; a thread that finds out when an unresponsive one responds again."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from statistics import median_low
from typing import TYPE_CHECKING
from weakref import ref

from tidb_magic.cluster.topology import Instance
from tidb_magic.connection.connection import CONNECT_TIMEOUT, Connection
from tidb_magic.connection.deadline import CHECK, PATIENCE, WATCHDOG
from tidb_magic.errors import ConnectError, DeadlineError, TidbMagicError
from tidb_magic.queries import query

if TYPE_CHECKING:
    from tidb_magic.cluster.pool import Pool

_RETRY = (1.0, 5.0)  # seconds between two tries while an instance is unresponsive: the first, and the longest
SPREAD = 10  # times as long as most instances took to respond is waited for one that has not, and for PD
_OTHERS = 2  # instances that are asked to tell an overloaded cluster from a frozen instance
_LEAST = 0.25  # seconds that they get
_RECENT = 60.0  # seconds for which it counts how long an instance took to respond


class Monitor:
    """Whether the cluster's own list responds, and each instance.

    `degraded` is whether the cluster's own list missed its deadline; `unresponsive` has the instances that did not
    respond since then, with the reason. A thread looks until all respond again.
    """

    def __init__(self, pool: "Pool") -> None:
        self._ref = ref(pool)  # which holds this: a Cluster that is dropped is freed at once
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._responses: dict[str, tuple[float, float]] = {}
        self.degraded = False
        self.unresponsive: dict[str, str] = {}

    def note_degraded(self) -> None:
        """Note that the cluster's own list does not respond, and find out in the background when it does again."""
        pool = self._pool
        with self._lock:
            if self.degraded or pool.closed.is_set():
                return
            self.degraded = True
            self.unresponsive.clear()
        pool.start(self._look_after, pool)

    @property
    def _pool(self) -> "Pool":
        pool = self._ref()
        assert pool is not None  # noqa: S101 (it calls this)
        return pool

    def note_unresponsive(self, found: Mapping[str, str]) -> None:
        """Note the instances that did not respond, and why. While nothing is degraded, no thread would remove them."""
        with self._lock:
            if self.degraded:
                self.unresponsive |= found

    def keep_only(self, registered: Mapping[str, Instance]) -> None:
        """Forget instances that are not registered any more."""
        with self._lock:
            for gone in self.unresponsive.keys() - registered.keys():
                del self.unresponsive[gone]

    def responds_again(self, name: str) -> None:
        """Note that an instance responds."""
        with self._lock:
            self.unresponsive.pop(name, None)

    def turn(self, name: str) -> threading.Lock:
        """Return the lock under which an instance is asked separately: one statement at a time."""
        return self._turns.setdefault(name, threading.Lock())

    # -- response times ----------------------------------------------------------------------------------------

    def responded(self, name: str, seconds: float) -> None:
        """Note how long an instance took to respond."""
        self._responses[name] = time.monotonic(), seconds

    def grace(self, deadline: float) -> float:
        """Return the seconds after which an instance that has not responded is not waited for any more.

        That is the deadline, and more where most instances took long to respond in the last minute: then the cluster is
        overloaded.
        """
        oldest = time.monotonic() - _RECENT
        recent = [took for at, took in list(self._responses.values()) if at > oldest]
        if 2 * len(recent) <= len(self._pool.topology.registered()):
            return deadline
        return max(deadline, min(SPREAD * median_low(recent), PATIENCE * deadline))

    def others_respond(self, name: str, waited: float) -> bool:
        """Tell whether another instance responds at once, while the named one has not for `waited` seconds.

        If none does, the whole cluster is overloaded, and the named instance need not be frozen.
        """
        pool, responds = self._pool, threading.Event()
        others = [one for at, one in pool.topology.registered().items() if at != name and at not in self.unresponsive]
        others.sort(key=lambda one: pool.idle_connection(pool.topology.name(one)) is None)
        for one in others[:_OTHERS]:
            pool.start(self._respond, pool, one, waited, responds)
        return not others or responds.wait(max(waited / SPREAD, _LEAST))

    @contextmanager
    def patience(
        self, instance: Instance | None, connection: Connection, deadline: float, at_most: float
    ) -> Iterator[None]:
        """Wait `at_most` seconds for a statement while its instance or no other responds, else the time of `grace`.

        Whether it responds is found out by another connection, when the statement takes long.

        Raises
        ------
        DeadlineError
            It did not respond.
        """
        over, late, limit = threading.Event(), threading.Event(), self.grace(deadline)
        pool = self._pool
        name = "" if instance is None else pool.topology.name(instance)

        began = time.monotonic()

        def check() -> None:
            nonlocal limit
            responds = threading.Event()
            if instance is not None:
                pool.start(self._respond, pool, instance, at_most, responds)
            while not over.wait(began + limit - time.monotonic()):
                if responds.is_set() or pool.openings.greeted(name):
                    return
                if self.others_respond(name, limit):
                    late.set()
                    connection.close()
                    return
                limit *= 2

        try:
            with WATCHDOG.watch(CHECK * deadline, lambda: pool.start(check)):
                yield
            if instance is not None:
                self.responded(name, time.monotonic() - began)
        except ConnectError:
            if not late.is_set():
                raise
            raise DeadlineError(f"{connection.settings.address} did not answer within {limit:.3g} s.") from None
        finally:
            over.set()

    def _respond(self, pool: "Pool", instance: Instance, within: float, responds: threading.Event) -> None:
        began = time.monotonic()
        with suppress(TidbMagicError):
            _await_response(pool, instance, within)
            responds.set()
            self.responded(pool.topology.name(instance), time.monotonic() - began)

    # -- the thread --------------------------------------------------------------------------------------------

    def _look_after(self, pool: "Pool") -> None:
        pause, longest = _RETRY
        while not pool.closed.wait(pause) and not pool.openings.refusal:
            pause = min(pause * 1.5, longest)
            for name, instance in pool.topology.registered().items():
                if name in self.unresponsive and not self.turn(name).locked():
                    pool.start(self._revive, pool, name, instance)
            if pool.probe(self.unresponsive):
                with self._lock:
                    self.degraded = False
                    self.unresponsive.clear()
                return

    def _revive(self, pool: "Pool", name: str, instance: Instance) -> None:
        """Note that an instance responds again, as soon as it does."""
        turn = self.turn(name)
        if not turn.acquire(blocking=False):
            return  # it is being asked
        try:
            _await_response(pool, instance, CONNECT_TIMEOUT)
        except TidbMagicError:
            pass
        else:
            self.responds_again(name)
        finally:
            turn.release()


def _await_response(pool: "Pool", instance: Instance, within: float) -> None:
    """Return once an instance has responded; a connection that was kept is asked, too. Raises TidbMagicError."""
    connection = pool.connect_to(instance, within)
    connection.query(query("identify"), deadline=within, leave=True)
