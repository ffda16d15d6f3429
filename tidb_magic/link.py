"""The connections of a Cluster: the one it looks through, one to each instance when needed, and who is silent."""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from weakref import WeakSet

from tidb_magic import routing
from tidb_magic.connection import CONNECT_TIMEOUT, Connection
from tidb_magic.connection_id import ConnectionId
from tidb_magic.driver import LEAST, time_left
from tidb_magic.errors import AuthenticationError, ConnectError, DeadlineError, NotConnectedError, TidbMagicError
from tidb_magic.queries import query
from tidb_magic.routing import Capabilities, Direct, Instance, Roll
from tidb_magic.settings import Settings

_ROLL = 1.0  # seconds for the question who is registered; PD answers it in milliseconds
_DIRECT = 1.0  # seconds that an instance gets to greet us
_ATTEMPT = 0.4  # seconds for one of several connections through a balancer
_ATTEMPTS = 8  # connections through a balancer until one is where we want to be
_NAME = 0.5  # seconds to find the name of an instance that does not tell it
_RETRY = (1.0, 5.0)  # seconds between two tries while somebody is silent: the first, and the longest
_HERE = "the connected instance"  # while nothing tells its name
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
        self._watch: threading.Thread | None = None
        self._preparing: list[threading.Thread] = []
        self._probe: Connection | None = None

    # -- the main connection -----------------------------------------------------------------------------------

    def connection(self, within: float | None = None) -> Connection:
        """Return a connection that can be used, opened again within that time if need be.

        After that its instance may be another one.
        """
        self.check()
        with self._opening:
            if not self._main.open:
                self._main = self._open(CONNECT_TIMEOUT if within is None else max(within, LEAST))
                if self._closed.is_set():  # meanwhile, by another thread
                    self._main.close()
                    self.check()
            return self._main

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
        self.capabilities = replace(
            self.capabilities, **routing.rights(connection, deadline=min(_ROLL, time_left(give_up)))
        )
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
        """Close all connections and end the thread that looks after silent instances."""
        self._closed.set()
        with self._lock:
            watch, probe, owners = self._watch, self._probe, list(self._owners)
        for connection in (self._main, *owners):
            connection.close()
        if probe is not None:
            probe.close()
        for thread in (*self._preparing, *([watch] if watch else [])):
            thread.join()

    def _open(self, within: float) -> Connection:
        give_up = time.monotonic() + within
        connection = Connection(self.settings, within=within)
        global_kill, compatible = routing.introduce(connection, deadline=time_left(give_up))
        rights = routing.rights(connection, deadline=time_left(give_up))
        self.refreshed = time.monotonic()
        try:
            self.call(routing.instances(connection, deadline=min(_ROLL, time_left(give_up))))
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
        connection = Connection(self.settings, within=time_left(give_up))
        routing.introduce(connection, deadline=time_left(give_up))
        return connection

    def _find_name(self, connection: Connection, within: float) -> None:
        """Find the INSTANCE of a connection in the cluster's list, where nothing else tells it."""
        self.where(connection)  # learns it, if it was seen in a list
        if connection.instance is not None or self.trouble:
            return
        with suppress(TidbMagicError):
            mark = routing.running(connection)
            for name, number in routing.marked(connection, "INFO", mark, deadline=min(_NAME, within)):
                if number == connection.id:
                    connection.instance = name
                    self.learn({name: number})

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
        self.roll = Roll(instances or self.roll.instances, certain=bool(instances))
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

    def kept(self, name: str, *, share: bool = False) -> Connection | None:
        """Return a connection on that instance that nobody waits on, if there is one.

        To `share` also one that is busy, but not the main one: that may be waiting for its deadline, which ends it.
        """
        with self._lock:
            found = [one for one in (self._main, *self._owners) if one.open and not one.busy]
            found += [one for one in self._owners if one.open and share]
        if name == _HERE:
            return self._main if self._main in found else None
        return next((one for one in found if self.where(one) == name), None)

    def leads(self, instance: Instance) -> bool:
        """Tell whether the main connection is on that instance."""
        return self.where(self._main) == self.name(instance)

    def kept_on(self, server: int) -> Connection | None:
        """Return a connection on the instance with that server id that nobody waits on, if there is one."""
        with self._lock:
            found = [one for one in (self._main, *self._owners) if one.open and not one.busy]
        return next((one for one in found if one.id is not None and one.id.server_id == server), None)

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

    def reach(self, instance: Instance, within: float, *, share: bool = False) -> Connection:
        """Return a connection on that instance: one that is kept, a direct one, or one through the same balancer.

        To `share` also one that is busy.

        Raises
        ------
        ConnectError
            There is no way to it now, and why.
        """
        name, give_up = self.name(instance), time.monotonic() + within
        if kept := self.kept(name, share=share):
            return kept
        through_balancer = not self._direct_works and not self._at_an_instance()
        way = routing.direct_settings(instance, self.settings, self.direct)
        if isinstance(way, Settings):
            try:
                connection = self._keep(way, min(_DIRECT, within / 2 if through_balancer else within), name)
            except TidbMagicError as error:
                if not through_balancer or isinstance(error, AuthenticationError):
                    raise
                why = str(error)
            else:
                self._direct_works = True
                return connection
        else:
            why = f"No direct connection: {way}."
        if found := self._through_balancer(name, give_up):
            return found
        raise ConnectError(f"{why} {self.settings.address} did not lead there.")

    def _through_balancer(self, name: str, give_up: float) -> Connection | None:
        """Connect to the given address until it leads to that instance."""
        for _ in range(_ATTEMPTS):
            if give_up <= time.monotonic():
                break
            try:
                return self._keep(self.settings, min(_ATTEMPT, time_left(give_up)), name)
            except AuthenticationError:
                raise  # each try counts, and some accounts are locked after a few
            except (ConnectError, DeadlineError):  # that one is another, or silent: the next can be the one
                if kept := self.kept(name):
                    return kept
        return None

    def stays(self, connection: Connection) -> bool:
        """Tell whether a connection leads to an instance itself, so that no proxy can move it to another."""
        theirs = {(host, connection.settings.port) for host in (connection.settings.host, connection.peer)}
        return any((one.host, one.port) in theirs for one in self.roll.instances)

    def _at_an_instance(self) -> bool:
        """Tell whether the address that a person gave is that of an instance, and no balancer's."""
        return self.stays(self._main)

    def prepare(self) -> None:
        """Open a connection to each instance in the background: the cluster's own list seems to miss its deadline."""
        for instance in self.roll.instances:
            if not self.kept(self.name(instance)):
                thread = threading.Thread(target=self._prepare, args=(instance,), name="tidb_magic-reach", daemon=True)
                thread.start()
                self._preparing = [*(one for one in self._preparing if one.is_alive()), thread]

    def _prepare(self, instance: Instance) -> None:
        with suppress(TidbMagicError):
            self.reach(instance, _DIRECT)

    def _keep(self, settings: Settings, within: float, wanted: str) -> Connection:
        """Open a connection and keep it for the instance that it turns out to be on."""
        self.check()
        give_up = time.monotonic() + within
        connection = Connection(settings, within=max(within, LEAST))
        where = kept = None
        try:
            routing.introduce(connection, deadline=time_left(give_up))
            self._find_name(connection, time_left(give_up))
            with self._lock:
                where = self.where(connection)
                kept = self.kept(where) if where else None  # another thread can have been first
                if where and kept is None and not self._closed.is_set():
                    self._owners = [*(one for one in self._owners if one.open), connection]
                    kept = connection
        finally:
            if kept is not connection:
                connection.close()
        if where != wanted or kept is None:
            raise ConnectError(f"{settings.address} is on {where}.")
        return kept

    # -- trouble -----------------------------------------------------------------------------------------------

    def troubled(self) -> None:
        """Note that the cluster's own list does not answer, and find out in the background when it does again."""
        with self._lock:
            if self.trouble or self._closed.is_set():
                return
            self.trouble = True
            self.silent.clear()
            self._watch = threading.Thread(target=self._look_after, name="tidb_magic-watch", daemon=True)
            self._watch.start()

    def note_silent(self, found: Mapping[str, str]) -> None:
        """Note who did not answer, and why. When there is no trouble any more, nobody would find out that he does."""
        with self._lock:
            if self.trouble:
                self.silent |= found

    def _look_after(self) -> None:
        pause, longest = _RETRY
        refused = set()
        while not self._closed.wait(pause):
            pause = min(pause * 1.5, longest)
            for instance in self.roll.instances:
                name = self.name(instance)
                if name not in self.silent or name in refused or self._closed.is_set():
                    continue
                try:
                    self.reach(instance, _DIRECT)
                except AuthenticationError:
                    refused.add(name)  # asking again would only fill its log
                except TidbMagicError:
                    continue
                else:
                    self.silent.pop(name, None)
            try:
                if self._answers_again():
                    with self._lock:
                        self.trouble = False
                        self.silent.clear()
                    return
            except AuthenticationError:
                return  # each try counts, and some accounts are locked after a few

    def _answers_again(self) -> bool:
        """Ask who is registered, then for the cluster's own list, on a connection that nobody else uses."""
        with self._lock:
            ways = [self.settings, *(one.settings for one in self._owners if one.open)]
        for settings in ways:
            try:
                self._probe = Connection(settings, within=_DIRECT)
                break
            except AuthenticationError:
                raise
            except TidbMagicError:
                continue
        else:
            return False
        try:
            if self._closed.is_set():
                return False
            self.call(routing.instances(self._probe, deadline=_PD))
            return not self._probe.query(query("probe"), deadline=2 * _DIRECT).warnings
        except TidbMagicError:
            return False
        finally:
            self._probe.close()
