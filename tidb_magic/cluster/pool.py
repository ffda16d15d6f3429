"""The connections of a Cluster: the one it looks through, one to each instance when needed, and who is silent."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from statistics import median_low
from weakref import WeakSet

from tidb_magic.cluster import topology
from tidb_magic.cluster.topology import Capabilities, Direct, Instance, Roll
from tidb_magic.connection.connection import CONNECT_TIMEOUT, Connection, Own
from tidb_magic.connection.deadline import CHECK, DEADLINE, PATIENCE, SPREAD, WATCHDOG
from tidb_magic.connection.driver import LEAST, Driver, time_left, wake
from tidb_magic.connection.settings import Settings
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import (
    AuthenticationError,
    ConnectError,
    ConnectTimeoutError,
    DeadlineError,
    NotConnectedError,
    TidbMagicError,
)
from tidb_magic.queries import query

_HEDGE = 0.2  # seconds after which another connection is tried beside those that are being opened
_ATTEMPTS = 8  # connections through a balancer until one leads to the wanted instance
_JOIN = 1.0  # seconds that a thread gets to end when the cluster is closed
_RETRY = (1.0, 5.0)  # seconds between two tries while somebody is silent: the first, and the longest
_HERE = "the connected instance"  # while nothing tells its name
_RECENT = 60.0  # seconds for which it counts how long an instance took to respond
_PD = 8.0  # seconds after which TiDB itself gives up on PD (6, measured on 8.5.6): nothing of ours is left behind then


_LINKS: "WeakSet[Link]" = WeakSet()


def _start_over() -> None:
    """Let each Link be without the connections of the parent, in a forked child."""
    for link in list(_LINKS):
        link._start_over()  # noqa: SLF001


os.register_at_fork(after_in_child=_start_over)


class Link:
    """The connections of a Cluster.

    The main one is opened again after it was lost or dropped, never in between of a look and a KILL. `roll` is who is
    registered, `silent` are those of them that did not answer, with the reason. `trouble` is whether the cluster's own
    list missed its deadline; a thread finds out when it answers again.
    """

    def __init__(self, settings: Settings, direct: Direct = Direct.AUTO) -> None:
        self.settings = settings
        self.direct = direct
        self.capabilities: Capabilities
        self.enhanced_security = False
        self.roll = Roll()
        self.silent: dict[str, str] = {}
        self.sessions: int | None = None  # how many the latest complete list counted
        self.refusal = ""  # of the last login: a few wrong ones lock some accounts
        self._names: dict[int, str] = {}
        self._direct_works = False
        self._closed = threading.Event()
        self._start_over()
        _LINKS.add(self)
        try:
            self._main = self._open(CONNECT_TIMEOUT)
        except BaseException:
            self._closed.set()  # nobody could end the thread that looks after silent instances
            raise

    def _start_over(self) -> None:
        """Be without connections and threads, as in a forked child: those of the parent are not its own."""
        closed = self._closed.is_set()
        self._closed = threading.Event()
        if closed:
            self._closed.set()
        self.trouble = False
        self.silent.clear()
        self._owners: list[Connection] = []
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._being_opened: dict[Driver, str] = {}
        self._responses: dict[str, tuple[float, float]] = {}
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
                if self._closed.is_set():  # meanwhile, by another thread
                    self._main.close()
                    self.check()
            return self._main

    def _spare(self) -> Connection | None:
        """Return an idle connection to the same address, which was kept for its instance, if there is one."""
        with self._lock:
            here = (self.settings.host, self.settings.port)
            spare = next((one for one in self._idle() if (one.settings.host, one.settings.port) == here), None)
            self._owners = [one for one in self._owners if one is not spare]
            return spare

    def check(self) -> None:
        """Raise NotConnectedError if it was closed."""
        if self._closed.is_set():
            raise NotConnectedError("This cluster was closed: connect again.")

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed.is_set()

    @property
    def open(self) -> bool:
        """Whether the main connection is open, as far as is known."""
        return self._main.open

    def refresh(self, within: float = CONNECT_TIMEOUT) -> None:
        """Ask again what this user may do: a right can be taken away while we are connected."""
        give_up = time.monotonic() + within
        connection = self.connection(within)
        self.capabilities = replace(self.capabilities, **topology.rights(connection, deadline=time_left(give_up)))
        self.refreshed = time.monotonic()

    @property
    def version(self) -> str:
        """TiDB's version, as ``v8.5.6``, on the instance of the last connection."""
        return self._main.version

    @property
    def proxied(self) -> bool:
        """Whether a proxy answers in the place of an instance, see `Connection`."""
        return self._main.proxied

    @property
    def tls(self) -> str:
        """How safe the last connection is, see `Connection.tls`."""
        return self._main.tls

    def close(self) -> None:
        """Close all connections and end the threads."""
        self._closed.set()
        with self._lock:
            probe, owners, threads = self._probe, list(self._owners), list(self._threads)
            opening = list(self._being_opened)
        for driver in opening:
            wake(driver)
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

    def _connect(
        self,
        settings: Settings,
        within: float,
        wanted: str = "",
        then: Callable[[Connection, float], object] | None = None,
    ) -> Connection:
        """Open a connection; `wanted` is the instance that is known to be there, `then` what belongs to opening it."""
        give_up = time.monotonic() + within
        opened: list[Driver] = []

        def opening(driver: Driver) -> None:
            self._being_opened[driver] = wanted
            opened.append(driver)

        try:
            connection = Connection(settings, within=max(within, LEAST), opening=opening)
            try:
                if then is not None:
                    then(connection, time_left(give_up))
            except BaseException:
                connection.close()
                raise
        except AuthenticationError as error:
            self.refusal = str(error)
            raise
        finally:
            for driver in opened:
                self._being_opened.pop(driver, None)
        self.refusal = ""
        return connection

    def greeted(self, name: str) -> bool:
        """Tell whether an instance has greeted a connection that is being opened: it is not frozen then."""
        return any(driver.greeted for driver in self._opening_to(name))

    def stage(self, name: str) -> str:
        """Say how far a connection to an instance got that is still being opened; nothing if there is none."""
        return next((driver.stage for driver in self._opening_to(name)), "")

    def _opening_to(self, name: str) -> list[Driver]:
        return [driver for driver, wanted in list(self._being_opened.items()) if wanted == name]

    def _open(self, within: float) -> Connection:
        give_up = time.monotonic() + within
        connection = self._connect(self.settings, within)
        global_kill, compatible = topology.introduce(connection, deadline=time_left(give_up))
        rights = topology.rights(connection, deadline=time_left(give_up))
        self.refreshed = time.monotonic()
        try:
            self.call(topology.instances(connection, deadline=min(DEADLINE, time_left(give_up))))
        except TidbMagicError:  # PD does not answer; who was registered before is still the best guess
            self.pd_is_silent()
            connection = self._instead(give_up)
        self.enhanced_security = global_kill is None
        if global_kill is None:  # security-enhanced mode: a server id of 0 says that it is off
            servers = {one.server_id for one in self.roll.instances} - {None}
            global_kill = 0 not in servers if servers else None
        self.capabilities = Capabilities(global_kill, compatible, **rights)
        self._find_name(connection, time_left(give_up))
        if not connection.open:
            connection = self._instead(give_up)
        if not self.roll.instances:
            self.roll = replace(self.roll, instances=(Instance(self.where(connection) or _HERE),))
        return connection

    def _instead(self, give_up: float) -> Connection:
        """Open a connection in the place of one that was lost to a silent cluster."""
        self.troubled()
        connection = self._connect(self.settings, time_left(give_up))
        topology.introduce(connection, deadline=time_left(give_up))
        return connection

    def _introduce(self, connection: Connection, within: float) -> None:
        give_up = time.monotonic() + within
        topology.introduce(connection, deadline=within)
        self._find_name(connection, time_left(give_up))

    def _find_name(self, connection: Connection, within: float) -> None:
        """Find the INSTANCE of a connection in the cluster's list, where nothing else tells it."""
        self.where(connection)  # learns it, if it was seen in a list
        if connection.instance is not None or self.trouble:
            return
        with suppress(TidbMagicError):
            mark = topology.running(connection)
            for name, number in topology.marked(connection, "INFO", mark, deadline=min(DEADLINE, within)):
                if number == connection.id:
                    connection.instance = name
                    self.learn({name: number})

    def own(self) -> Own:
        """Return what tells our own connections in a list at this moment."""
        advertised = {name: (one.host, one.port) for name, one in self.registered().items()}
        return Own.now(unique=bool(self.capabilities.global_kill), advertised=advertised)

    @property
    def columns(self) -> Mapping[str, str]:
        """What the process list has on the instance of the last connection, with the types."""
        return self._main.columns

    # -- one connection an instance ----------------------------------------------------------------------------

    def learn(self, seen: Mapping[str, int]) -> None:
        """Note INSTANCE values of the list, each with the id of a session there.

        In security-enhanced mode nothing else tells which name belongs to which server id.
        """
        if self.capabilities.global_kill:
            servers = {name: ConnectionId(number).server_id for name, number in seen.items()}
            self._names |= {server: name for name, server in servers.items() if server}
        if not self.roll.certain:
            known = tuple(one for one in self.roll.instances if one.name != _HERE)
            new = tuple(Instance(name) for name in seen if name not in {self.name(one) for one in known})
            self.roll = replace(self.roll, instances=known + new)

    def call(self, instances: tuple[Instance, ...]) -> None:
        """Note who is registered now, as PD says; nobody, if this user cannot see it."""
        self.roll = Roll(instances or self.roll.instances, certain=bool(instances), updated_at=time.monotonic())
        for gone in self.silent.keys() - self.registered().keys():
            self.silent.pop(gone, None)

    def pd_is_silent(self) -> None:
        """Note that PD did not say who is registered."""
        self.roll = replace(self.roll, pd_silent=True)

    def where(self, connection: Connection) -> str | None:
        """Return the INSTANCE of a connection, by what it says itself or by the server id in its id."""
        server = self._server(connection)
        if connection.instance is None and server in self._names:
            connection.instance = self._names[server]
        if connection.instance is not None:
            return connection.instance
        return f"server id {server}" if server else None

    def _server(self, connection: Connection) -> int | None:
        return connection.id.server_id if connection.id is not None and self.capabilities.global_kill else None

    def name(self, instance: Instance) -> str:
        """Return how the list names an instance."""
        return self._names.get(instance.server_id or 0, instance.name)

    def registered(self) -> dict[str, Instance]:
        """Return the registered instances by name: one that was restarted is registered twice for about a minute."""
        return {self.name(one): one for one in self.roll.instances}

    def kept(self, name: str) -> Connection | None:
        """Return an idle connection on that instance, if there is one."""
        idle = self._idle()
        if name == _HERE:
            return self._main if self._main in idle else None
        return next((one for one in idle if self.where(one) == name), None)

    def _idle(self) -> list[Connection]:
        with self._lock:
            return [one for one in (self._main, *self._owners) if one.open and not one.busy]

    def turn(self, name: str) -> threading.Lock:
        """Return the lock under which an instance is asked by itself: for one statement at a time."""
        return self._turns.setdefault(name, threading.Lock())

    def leads(self, instance: Instance) -> bool:
        """Tell whether the main connection is on that instance."""
        return self.where(self._main) == self.name(instance)

    def kept_on(self, server: int) -> Connection | None:
        """Return an idle connection on the instance with that server id, if there is one."""
        return next((one for one in self._idle() if one.id is not None and one.id.server_id == server), None)

    @property
    def servers(self) -> set[int]:
        """The server ids to which a way may be known; all of them mean nothing without global kill.

        Where nothing tells those of the registered instances, those that were seen in ids.
        """
        with self._lock:
            kept = {one.id.server_id for one in (self._main, *self._owners) if one.open and one.id is not None}
        registered = {one.server_id for one in self.roll.instances if one.server_id}
        return {server for server in (*kept, *(registered or self._names)) if server}

    def listed(self, server: int) -> str | None:
        """Return the INSTANCE of that server id, as far as it is known."""
        told = (one.status_address for one in self.roll.instances if one.server_id == server)
        return self._names.get(server) or next(told, None)

    def reach(self, instance: Instance, within: float) -> Connection:
        """Return a connection on that instance: one that is kept, a direct one, or one through the same balancer.

        The next route is tried when one failed, and beside those that take long; none is cut short.

        Raises
        ------
        ConnectTimeoutError
            It did not respond within that time.
        ConnectError
            No route leads there now, and why.
        """
        name = self.name(instance)
        if kept := self.kept(name):
            return kept
        direct = topology.direct_settings(instance, self.settings, self.direct)
        balanced = not self._direct_works and not self._at_an_instance()
        if not balanced and isinstance(direct, Settings):
            return self._keep(direct, within, name)
        balancer = [self.settings] * _ATTEMPTS if balanced else []
        if not isinstance(direct, Settings):
            return self._first(name, balancer, within, f"No direct connection: {direct}.")
        found = self._first(name, [direct, *balancer], within)
        self._direct_works = self._direct_works or found.settings is direct
        return found

    def _first(self, name: str, routes: Sequence[Settings], within: float, why: str = "") -> Connection:
        """Return the first connection to an instance that one of these routes leads to."""
        give_up, ended = time.monotonic() + within, SimpleQueue[Connection | TidbMagicError]()

        def attempt(settings: Settings) -> None:
            try:
                ended.put(self._keep(settings, time_left(give_up), name))
            except TidbMagicError as error:
                ended.put(error)

        untried, under_way = list(routes), 0
        while untried or under_way:
            if untried:
                self.start(attempt, untried.pop(0))
                under_way += 1
            found = None
            with suppress(Empty):
                found = ended.get(timeout=min(time_left(give_up), _HEDGE))
                under_way -= 1
            if isinstance(found, Connection):
                return found
            if isinstance(found, AuthenticationError):
                raise found  # each try counts, and some accounts are locked after a few
            if kept := self.kept(name):  # another thread's attempt can have led there
                return kept
            if found is not None:
                why = why or str(found)
            elif time.monotonic() > give_up:
                raise self._late(name, why, within)
        raise ConnectError(f"{why} {self.settings.address} did not lead there in {len(routes)} attempts.")

    def _late(self, name: str, why: str, within: float) -> ConnectTimeoutError:
        stage = self.stage(name)
        why = why or (f"It {stage}." if stage else "")
        error = ConnectTimeoutError(f"{why} {self.settings.address} did not lead there within {within:.3g} s.".strip())
        error.stage, error.accepted = stage, any(driver.accepted for driver in self._opening_to(name))
        return error

    def stays(self, connection: Connection) -> bool:
        """Tell whether a connection leads to an instance itself, so that no proxy can move it to another."""
        theirs = {(host, connection.settings.port) for host in (connection.settings.host, connection.peer)}
        return any((one.host, one.port) in theirs for one in self.roll.instances)

    def _at_an_instance(self) -> bool:
        """Tell whether the address that a person gave is that of an instance, and no balancer's."""
        return self.stays(self._main)

    def _keep(self, settings: Settings, within: float, wanted: str) -> Connection:
        """Open a connection and keep it for the instance that it turns out to be on."""
        self.check()
        connection = self._connect(settings, within, wanted if settings is not self.settings else "", self._introduce)
        where = kept = None
        try:
            with self._lock:
                where = self.where(connection)
                kept = self.kept(where) if where else None  # another thread can have been first
                if where and kept is None and not self._closed.is_set():
                    for lost in [one for one in self._owners if not one.open]:
                        lost.close()
                        self._owners.remove(lost)
                    self._owners.append(connection)
                    kept = connection
        finally:
            if kept is not connection:
                connection.close()
        if where != wanted or kept is None:
            raise ConnectError(f"{settings.address} is on {where}.")
        return kept

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

        def check() -> None:
            name = self.name(instance) if instance is not None else ""
            responds = threading.Event()
            if instance is not None:
                self.start(self._respond, instance, PATIENCE * deadline, responds)
            if not over.wait(limit - CHECK * deadline) and not responds.is_set() and not self.greeted(name):
                late.set()
                connection.close()

        watch, began = WATCHDOG.watch(CHECK * deadline, lambda: self.start(check)), time.monotonic()
        try:
            yield PATIENCE * deadline
            if instance is not None:
                self.responded(self.name(instance), time.monotonic() - began)
        except ConnectError:
            if not late.is_set():
                raise
            raise DeadlineError(f"{connection.settings.address} did not answer within {limit:.3g} s.") from None
        finally:
            over.set()
            WATCHDOG.forget(watch)

    def _respond(self, instance: Instance, within: float, responds: threading.Event) -> None:
        began = time.monotonic()
        with suppress(TidbMagicError):
            self.reach(instance, within)
            responds.set()
            self.responded(self.name(instance), time.monotonic() - began)

    # -- trouble -----------------------------------------------------------------------------------------------

    def troubled(self) -> None:
        """Note that the cluster's own list does not answer, and find out in the background when it does again."""
        with self._lock:
            if self.trouble or self._closed.is_set():
                return
            self.trouble = True
            self.silent.clear()
        self.start(self._look_after)

    def note_silent(self, found: Mapping[str, str]) -> None:
        """Note who did not answer, and why. When there is no trouble any more, nobody would find out that he does."""
        with self._lock:
            if self.trouble:
                self.silent |= found

    def _look_after(self) -> None:
        pause, longest = _RETRY
        while not self._closed.wait(pause) and not self.refusal:
            pause = min(pause * 1.5, longest)
            for name, instance in self.registered().items():
                if name in self.silent and not self.turn(name).locked():
                    self.start(self._revive, name, instance)
            if self._answers_again():
                with self._lock:
                    self.trouble = False
                    self.silent.clear()
                return

    def _revive(self, name: str, instance: Instance) -> None:
        """Note that an instance responds again, as soon as it does."""
        turn = self.turn(name)
        if not turn.acquire(blocking=False):
            return  # it is being asked
        try:
            connection = self.reach(instance, CONNECT_TIMEOUT)
            connection.query(query("identify"), deadline=CONNECT_TIMEOUT, leave=True)
        except TidbMagicError:
            pass
        else:
            self.silent.pop(name, None)
        finally:
            turn.release()

    def _answers_again(self) -> bool:
        """Ask PD for the registered instances, then for the cluster's own list, on a separate connection."""
        with self._lock:
            routes = [one.settings for one in self._owners if one.open and self.where(one) not in self.silent]
        try:
            self._probe = probe = self._connect([*routes, self.settings][0], CONNECT_TIMEOUT)
        except TidbMagicError:
            return False
        try:
            self.call(topology.instances(probe, deadline=_PD))
            return not self.silent and not probe.query(query("probe"), deadline=_PD).warnings
        except TidbMagicError:
            return False
        finally:
            probe.close()
