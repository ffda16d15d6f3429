"""The connections of a Cluster: the main one, and one to each instance when it is needed."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from weakref import WeakSet

from tidb_magic.cluster import privileges, topology
from tidb_magic.cluster.monitor import Monitor
from tidb_magic.cluster.openings import Openings
from tidb_magic.cluster.topology import UNNAMED, Capabilities, Direct, Instance, Topology
from tidb_magic.connection.connection import CONNECT_TIMEOUT, Connection
from tidb_magic.connection.deadline import DEADLINE, LEAST, Deadline
from tidb_magic.connection.own_sessions import Own
from tidb_magic.connection.settings import Settings
from tidb_magic.errors import ConnectError, NotConnectedError, TidbMagicError
from tidb_magic.queries import query

_ATTEMPTS = 8  # connections through a balancer until one leads to the wanted instance
_MOST = 64  # connections to single instances that are kept
_JOIN = 1.0  # seconds that a thread gets to end when the cluster is closed
_PD = 8.0  # seconds after which TiDB itself gives up on PD (6, measured on 8.5.6): nothing of ours is left behind then
_POOLS: "WeakSet[Pool]" = WeakSet()


def _start_over() -> None:
    """Let each Pool be without the connections of the parent, in a forked child."""
    for pool in list(_POOLS):
        pool._start_over()  # noqa: SLF001


os.register_at_fork(after_in_child=_start_over)


class Pool:
    """The connections of a Cluster.

    The main one is opened again after it was lost or dropped, never between a check and its KILL. `topology` has the
    registered instances, `monitor` those that do not respond.
    """

    def __init__(self, settings: Settings, direct: Direct = Direct.AUTO) -> None:
        self.settings = settings
        self.direct = direct
        self.capabilities: Capabilities
        self.enhanced_security = False
        self.topology = Topology()
        self.sessions: int | None = None  # how many the latest complete list counted
        self._direct_works = False
        self.closed = threading.Event()
        self._start_over()
        _POOLS.add(self)
        try:
            self._main = self._open(CONNECT_TIMEOUT)
        except BaseException:
            self.closed.set()  # else the monitor's thread would go on
            raise

    def _start_over(self) -> None:
        """Be without connections and threads, as in a forked child: those of the parent are not its own."""
        closed = self.closed.is_set()
        self.closed = threading.Event()
        if closed:
            self.closed.set()
        self.topology = self.topology.copy()
        self.monitor = Monitor(self)
        self._owners: list[Connection] = []
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self.openings = Openings()
        self._threads: list[threading.Thread] = []
        self._probe: Connection | None = None

    # -- the main connection -----------------------------------------------------------------------------------

    def connection(self, within: float | None = None) -> Connection:
        """Return a connection that can be used, opened again within that time if need be.

        After that its instance may be another one.
        """
        self.check()
        with self._opening:
            if not self._main.open:
                self._main.close()
                self._main = self._spare() or self._open(CONNECT_TIMEOUT if within is None else max(within, LEAST))
                if self.closed.is_set():  # meanwhile, by another thread
                    self._main.close()
                    self.check()
            return self._main

    def _spare(self) -> Connection | None:
        """Return an idle connection to the same address, which was kept for its instance, if there is one."""
        with self._lock:
            here = (self.settings.host, self.settings.port)
            spare = self._idle(lambda one: (one.settings.host, one.settings.port) == here)
            self._owners = [one for one in self._owners if one is not spare]
            return spare

    def check(self) -> None:
        """Raise NotConnectedError if it was closed."""
        if self.closed.is_set():
            raise NotConnectedError("This cluster was closed: connect again.")

    def refresh(self, within: float = CONNECT_TIMEOUT) -> None:
        """Ask again what this user may do: a right can be taken away while we are connected."""
        due = Deadline(within)
        connection = self.connection(within)
        self.capabilities = replace(self.capabilities, **privileges.rights(connection, deadline=due.left))
        self.refreshed = time.monotonic()

    @property
    def main(self) -> Connection:
        """The main connection as it was last, open or not: for what it has learnt of the server."""
        return self._main

    def close(self) -> None:
        """Close all connections and end the threads."""
        self.closed.set()
        with self._lock:
            probe, owners, threads = self._probe, list(self._owners), list(self._threads)
        self.openings.wake()
        for connection in (self._main, *owners):
            connection.close()
        if probe is not None:
            probe.close()
        for thread in threads:
            thread.join(_JOIN)

    def start(self, act: Callable[..., None], *args: object) -> None:
        """Start a thread that ends when the cluster is closed."""
        thread = threading.Thread(target=act, args=args, name=f"tidb_magic{act.__name__}", daemon=True)
        with self._lock:
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()

    def _open(self, within: float) -> Connection:
        due = Deadline(within)
        connection = self.openings.open(self.settings, within)
        global_kill, compatible = topology.introduce(connection)
        rights = privileges.rights_of(connection.introduced("grants"))
        self.refreshed = time.monotonic()
        try:
            self.update_members(topology.instances(connection, deadline=min(DEADLINE, due.left)))
        except TidbMagicError:  # PD does not answer; the instances known before are the best guess
            self.topology.note_pd_unresponsive()
            connection = self._instead(due)
        self.enhanced_security = global_kill is None
        if global_kill is None:  # security-enhanced mode: a server id of 0 says that it is off
            servers = {one.server_id for one in self.topology.membership.instances} - {None}
            global_kill = 0 not in servers if servers else None
        self.capabilities = Capabilities(global_kill, compatible, **rights)
        self.topology.unique_ids = bool(global_kill)
        self._find_name(connection, due.left)
        if not connection.open:
            connection = self._instead(due)
        if not self.topology.membership.instances:
            self.topology.assume([self.topology.instance_of(connection) or UNNAMED])
        return connection

    def _instead(self, due: Deadline) -> Connection:
        """Open a connection in place of one that was lost to an unresponsive cluster."""
        self.monitor.note_degraded()
        connection = self.openings.open(self.settings, due.left)
        topology.introduce(connection)
        return connection

    def _introduce(self, connection: Connection, within: float) -> None:
        topology.introduce(connection)
        self._find_name(connection, within)

    def _find_name(self, connection: Connection, within: float) -> None:
        """Find the INSTANCE of a connection in the cluster's list, where nothing else tells it."""
        self.topology.instance_of(connection)  # learns it, if it was seen in a list
        if connection.instance is not None or self.monitor.degraded:
            return
        with suppress(TidbMagicError):
            mark = topology.running(connection)
            for name, number in topology.marked(connection, "INFO", mark, deadline=min(DEADLINE, within)):
                if number == connection.id:
                    connection.instance = name
                    self.topology.learn({name: number})

    def own(self) -> Own:
        """Return what tells our own connections in a list at this moment."""
        advertised = {name: (one.host, one.port) for name, one in self.topology.registered().items()}
        return Own.now(unique=bool(self.capabilities.global_kill), advertised=advertised)

    # -- one connection an instance ----------------------------------------------------------------------------

    def update_members(self, instances: tuple[Instance, ...]) -> None:
        """Note the instances that PD lists now; none, if this user cannot see them."""
        self.topology.update(instances)
        self.monitor.keep_only(self.topology.registered())

    def idle_connection(self, name: str) -> Connection | None:
        """Return an idle connection on that instance, if there is one."""
        return self._idle(lambda one: one is self._main if name == UNNAMED else self.topology.instance_of(one) == name)

    def _idle(self, fits: Callable[[Connection], bool]) -> Connection | None:
        with self._lock:
            return next((one for one in (self._main, *self._owners) if fits(one) and one.open and not one.busy), None)

    def is_current(self, instance: Instance) -> bool:
        """Tell whether the main connection is on that instance."""
        return self.topology.instance_of(self._main) == self.topology.name(instance)

    def idle_connection_on(self, server: int) -> Connection | None:
        """Return an idle connection on the instance with that server id, if there is one."""
        return self._idle(lambda one: one.id is not None and one.id.server_id == server)

    def reachable_servers(self) -> set[int]:
        """Return the server IDs to which a route may be known; all of them mean nothing without global kill."""
        with self._lock:
            connected = {one.id.server_id for one in (self._main, *self._owners) if one.open and one.id is not None}
        return {server for server in connected if server} | self.topology.servers()

    def connect_to(self, instance: Instance, within: float) -> Connection:
        """Return a connection on that instance: one that is kept, a direct one, or one through the same balancer.

        The next route is tried when one failed, and beside those that take long; none is cut short.

        Raises
        ------
        ConnectTimeoutError
            It did not respond within that time.
        ConnectError
            No route leads there now, and why.
        """
        name = self.topology.name(instance)
        if kept := self.idle_connection(name):
            return kept
        direct = topology.direct_settings(instance, self.settings, self.direct)
        balanced = not self._direct_works and not self.topology.is_direct(self._main)
        if not balanced and isinstance(direct, Settings):
            return self._keep(direct, name, within)
        balancer = [self.settings] * _ATTEMPTS if balanced else []
        routes = [direct, *balancer] if isinstance(direct, Settings) else balancer
        found = self.openings.first(
            [partial(self._keep, settings, name) for settings in routes],
            name,
            within,
            start=self.start,
            kept=self.idle_connection,
            address=self.settings.address,
            why="" if isinstance(direct, Settings) else f"No direct connection: {direct}.",
        )
        self._direct_works = self._direct_works or found.settings is direct
        return found

    def _keep(self, settings: Settings, wanted: str, within: float) -> Connection:
        """Open a connection and keep it for the instance that it turns out to be on."""
        self.check()
        connection = self.openings.open(
            settings, within, wanted if settings is not self.settings else "", self._introduce
        )
        where = kept = None
        try:
            with self._lock:
                where = self.topology.instance_of(connection)
                kept = self.idle_connection(where) if where else None  # another thread can have been first
                if where and kept is None and not self.closed.is_set():
                    idle = [one for one in self._owners if not one.busy]
                    over = idle[: max(len(self._owners) - _MOST, 0)]
                    for one in {*over, *(one for one in idle if not one.open)}:
                        one.close()
                        self._owners.remove(one)
                    self._owners.append(connection)
                    kept = connection
        finally:
            if kept is not connection:
                connection.close()
        if where != wanted or kept is None:
            raise ConnectError(f"{settings.address} is on {where}.")
        return kept

    # -- for the monitor ---------------------------------------------------------------------------------------

    def probe(self, unresponsive: Mapping[str, str]) -> bool:
        """Tell whether PD and the cluster's own list respond, on a separate connection, and no instance is named."""
        with self._lock:
            routes = [one for one in self._owners if one.open]
        settings = [one.settings for one in routes if self.topology.instance_of(one) not in unresponsive]
        try:
            self._probe = probe = self.openings.open([*settings, self.settings][0], CONNECT_TIMEOUT)
        except TidbMagicError:
            return False
        try:
            self.update_members(topology.instances(probe, deadline=_PD))
            return not unresponsive and not probe.query(query("probe"), deadline=_PD).warnings
        except TidbMagicError:
            return False
        finally:
            probe.close()
