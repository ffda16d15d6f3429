"""Which instances respond, and how fast; a thread that finds out when an unresponsive one responds again."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from statistics import median_low
from typing import Protocol
from weakref import ref

from tidb_magic.cluster.openings import Openings
from tidb_magic.cluster.topology import Instance, Topology
from tidb_magic.connection.connection import CONNECT_TIMEOUT, Connection
from tidb_magic.connection.deadline import CHECK, PATIENCE, SPREAD, WATCHDOG
from tidb_magic.errors import ConnectError, DeadlineError, TidbMagicError
from tidb_magic.queries import query

_RETRY = (1.0, 5.0)  # seconds between two tries while an instance is unresponsive: the first, and the longest
_RECENT = 60.0  # seconds for which it counts how long an instance took to respond


class Connections(Protocol):
    """What the monitor uses of the pool."""

    topology: Topology
    openings: Openings
    closed: threading.Event  # set once the cluster is closed

    def start(self, act: Callable[..., None], *args: object) -> None:
        """Start a thread."""

    def connect_to(self, instance: Instance, within: float) -> Connection:
        """Return a connection on an instance."""

    def probe(self, unresponsive: Mapping[str, str]) -> bool:
        """Tell whether the cluster's own list responds."""


class Monitor:
    """Whether the cluster's own list responds, and each instance.

    `degraded` is whether the cluster's own list missed its deadline; `unresponsive` has the instances that did not
    respond since then, with the reason. A thread looks until all respond again.
    """

    def __init__(self, connections: Connections) -> None:
        self._pool = ref(connections)  # which holds this: a Cluster that is dropped is freed at once
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._responses: dict[str, tuple[float, float]] = {}
        self.degraded = False
        self.unresponsive: dict[str, str] = {}

    def note_degraded(self) -> None:
        """Note that the cluster's own list does not respond, and find out in the background when it does again."""
        connections = self._connections
        with self._lock:
            if self.degraded or connections.closed.is_set():
                return
            self.degraded = True
            self.unresponsive.clear()
        connections.start(self._look_after, connections)

    @property
    def _connections(self) -> Connections:
        connections = self._pool()
        assert connections is not None  # noqa: S101 (it calls this)
        return connections

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

    def grace(self, deadline: float, spread: float = SPREAD) -> float:
        """Return the seconds after which an instance that has not responded is not waited for any more.

        That is the deadline, and more where most instances took long to respond in the last minute: then the cluster is
        overloaded.
        """
        oldest = time.monotonic() - _RECENT
        recent = [took for at, took in list(self._responses.values()) if at > oldest]
        return max(deadline, min(spread * median_low(recent or [0.0]), PATIENCE * deadline))

    @contextmanager
    def patience(self, instance: Instance | None, connection: Connection, deadline: float) -> Iterator[float]:
        """Give a statement on an instance `PATIENCE` deadlines while the instance responds, else the time of `grace`.

        Whether it responds is found out by another connection, when the statement takes long.

        Raises
        ------
        DeadlineError
            It did not respond.
        """
        over, late, limit = threading.Event(), threading.Event(), self.grace(deadline)
        connections = self._connections
        name = "" if instance is None else connections.topology.name(instance)

        def check() -> None:
            responds = threading.Event()
            if instance is not None:
                connections.start(self._respond, connections, instance, PATIENCE * deadline, responds)
            greeted = connections.openings.greeted
            if not over.wait(limit - CHECK * deadline) and not responds.is_set() and not greeted(name):
                late.set()
                connection.close()

        watch, began = WATCHDOG.watch(CHECK * deadline, lambda: connections.start(check)), time.monotonic()
        try:
            yield PATIENCE * deadline
            if instance is not None:
                self.responded(name, time.monotonic() - began)
        except ConnectError:
            if not late.is_set():
                raise
            raise DeadlineError(f"{connection.settings.address} did not answer within {limit:.3g} s.") from None
        finally:
            over.set()
            WATCHDOG.forget(watch)

    def _respond(self, connections: Connections, instance: Instance, within: float, responds: threading.Event) -> None:
        began = time.monotonic()
        with suppress(TidbMagicError):
            _await_response(connections, instance, within)
            responds.set()
            self.responded(connections.topology.name(instance), time.monotonic() - began)

    # -- the thread --------------------------------------------------------------------------------------------

    def _look_after(self, connections: Connections) -> None:
        pause, longest = _RETRY
        while not connections.closed.wait(pause) and not connections.openings.refusal:
            pause = min(pause * 1.5, longest)
            for name, instance in connections.topology.registered().items():
                if name in self.unresponsive and not self.turn(name).locked():
                    connections.start(self._revive, connections, name, instance)
            if connections.probe(self.unresponsive):
                with self._lock:
                    self.degraded = False
                    self.unresponsive.clear()
                return

    def _revive(self, connections: Connections, name: str, instance: Instance) -> None:
        """Note that an instance responds again, as soon as it does."""
        turn = self.turn(name)
        if not turn.acquire(blocking=False):
            return  # it is being asked
        try:
            _await_response(connections, instance, CONNECT_TIMEOUT)
        except TidbMagicError:
            pass
        else:
            self.responds_again(name)
        finally:
            turn.release()


def _await_response(connections: Connections, instance: Instance, within: float) -> None:
    """Return once an instance has responded; a connection that was kept is asked, too. Raises TidbMagicError."""
    connection = connections.connect_to(instance, within)
    connection.query(query("identify"), deadline=within, leave=True)
