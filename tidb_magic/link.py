"""The connections of a Cluster: the one it looks through, one to each instance when needed, and who is silent."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from tidb_magic import routing
from tidb_magic.connection import Connection
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import ConnectError, TidbMagicError
from tidb_magic.queries import query
from tidb_magic.routing import Capabilities, Direct, Instance
from tidb_magic.settings import Settings

_ROLL = 1.0  # seconds for the question who is registered; PD answers it in milliseconds
_DIRECT = 1.0  # seconds that an instance gets to greet us
_ATTEMPT = 0.4  # seconds for one of several connections through a balancer
_ATTEMPTS = 8  # connections through a balancer until one is where we want to be
_RETRY = (1.0, 5.0)  # seconds between two tries while somebody is silent: the first, and the longest
_PD = 8.0  # seconds after which TiDB itself gives up on PD (6, measured on 8.5.6): nothing of ours is left behind then


class Link:
    """The connections of a Cluster.

    The main one is opened again after it was lost or dropped, never in between of a look and a KILL. `roll` are the
    instances that were registered when last asked (`roll_is_certain`) or that were seen in a list, `silent` those that
    did not answer, with the reason. `trouble` is whether the cluster's own list missed its deadline, `pd_silent`
    whether PD did not say who is registered; a thread finds out when they answer again.
    """

    def __init__(self, settings: Settings, direct: Direct = Direct.AUTO) -> None:
        self.settings = settings
        self.direct = direct
        self.capabilities: Capabilities
        self.roll: tuple[Instance, ...] = ()
        self.roll_is_certain = False
        self.silent: dict[str, str] = {}
        self.trouble = False
        self.pd_silent = False
        self._names: dict[int, str] = {}
        self._owners: dict[str, Connection] = {}
        self._direct_works = False
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        self._probe: Connection | None = None
        self._main = self._open(None)

    # -- the main connection -----------------------------------------------------------------------------------

    def connection(self, within: float | None = None) -> Connection:
        """Return a connection that can be used, opened again within that time if need be.

        After that its instance may be another one.
        """
        if not self._main.open:
            self._main = self._open(within)
        return self._main

    @property
    def open(self) -> bool:
        """Whether the main connection is open, as far as is known."""
        return self._main.open

    def refresh(self) -> None:
        """Ask again what this user may do: a right can be taken away while we are connected."""
        self.capabilities = replace(self.capabilities, **routing.rights(self.connection()))
        self.refreshed = time.monotonic()

    @property
    def version(self) -> str:
        """TiDB's version, as ``v8.5.6``, on the instance of the last connection."""
        return self._main.version

    def close(self) -> None:
        """Close all connections and end the thread that looks after silent instances."""
        self._closed.set()
        with self._lock:
            watch, probe, owners = self._watch, self._probe, list(self._owners.values())
        for connection in (self._main, *owners):
            connection.close()
        if probe is not None:
            probe.drop()
        if watch is not None:
            watch.join()

    def _open(self, within: float | None) -> Connection:
        connection = Connection(self.settings, within=within)
        self.capabilities = routing.capabilities(connection)
        self.refreshed = time.monotonic()
        try:
            self.call(routing.instances(connection, deadline=_ROLL))
        except TidbMagicError:  # PD does not answer; who was registered before is still the best guess
            self.pd_silent = True
            self.troubled()
            connection = Connection(self.settings, within=within)
            routing.introduce(connection)
            if not self.roll and (here := self.where(connection)):
                self.roll = (Instance(here),)
        return connection

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
        if not self.roll_is_certain:
            known = {self.name(one) for one in self.roll}
            self.roll += tuple(Instance(name) for name in seen if name not in known)

    def call(self, roll: tuple[Instance, ...]) -> None:
        """Note who is registered now, as PD says; nobody, if this user cannot see it."""
        self.pd_silent = False
        self.roll_is_certain = bool(roll)
        self.roll = roll or self.roll
        for gone in set(self.silent) - {self.name(one) for one in self.roll}:
            self.silent.pop(gone, None)

    def where(self, connection: Connection) -> str | None:
        """Return the INSTANCE of a connection, by what it says itself or by the server id in its id."""
        if connection.instance is None and connection.id is not None and self.capabilities.global_kill:
            server = connection.id.server_id
            connection.instance = self._names.get(server or 0) or (f"server id {server}" if server else None)
        return connection.instance

    def name(self, instance: Instance) -> str:
        """Return how the list names an instance."""
        return self._names.get(instance.server_id or 0, instance.name)

    def kept(self, name: str) -> Connection | None:
        """Return an open connection on that instance, if there is one."""
        with self._lock:
            found = (self._main, *self._owners.values())
        return next((one for one in found if one.open and self.where(one) == name), None)

    def reach(self, instance: Instance, within: float) -> Connection:
        """Return a connection on that instance: one that is kept, a direct one, or one through the same balancer.

        Raises
        ------
        ConnectError
            There is no way to it now, and why.
        """
        name, give_up = self.name(instance), time.monotonic() + within
        if kept := self.kept(name):
            return kept
        ours = (self.settings.host, self.settings.port)
        through_balancer = not self._direct_works and all((one.host, one.port) != ours for one in self.roll)
        way = routing.direct_settings(instance, self.settings, self.direct)
        if isinstance(way, Settings):
            try:
                connection = self._keep(way, min(_DIRECT, within / 2 if through_balancer else within), name)
            except TidbMagicError as error:
                if not through_balancer:
                    raise
                why = str(error)
            else:
                self._direct_works = True
                return connection
        else:
            why = f"No direct connection: {way}."
        for _ in range(_ATTEMPTS):
            if (left := give_up - time.monotonic()) <= 0:
                break
            with suppress(ConnectError):
                return self._keep(self.settings, min(_ATTEMPT, left), name)
            if kept := self.kept(name):  # found by another thread on its own search
                return kept
        raise ConnectError(f"{why} {self.settings.address} did not lead there.")

    def prepare(self) -> None:
        """Open a connection to each instance in the background: the cluster's own list seems to miss its deadline."""
        for instance in self.roll:
            if not self.kept(self.name(instance)):
                threading.Thread(target=self._prepare, args=(instance,), name="tidb_magic-reach", daemon=True).start()

    def _prepare(self, instance: Instance) -> None:
        with suppress(TidbMagicError):
            self.reach(instance, _DIRECT)

    def _keep(self, settings: Settings, within: float, wanted: str) -> Connection:
        """Open a connection and keep it for the instance that it turns out to be on."""
        connection = Connection(settings, within=within)
        where = None
        try:
            routing.introduce(connection)
            with self._lock:
                where = self.where(connection)
                if where is not None and not self.kept(where) and not self._closed.is_set():
                    self._owners[where] = connection
        finally:
            if connection not in self._owners.values():
                connection.close()
        if where != wanted or not connection.open:
            raise ConnectError(f"{settings.address} is on {where}.")
        return connection

    # -- trouble -----------------------------------------------------------------------------------------------

    def troubled(self) -> None:
        """Note that the cluster's own list does not answer, and find out in the background when it does again."""
        with self._lock:
            if self.trouble or self._closed.is_set():
                return
            self.trouble = True
            self._watch = threading.Thread(target=self._look_after, name="tidb_magic-watch", daemon=True)
            self._watch.start()

    def _look_after(self) -> None:
        pause, longest = _RETRY
        while not self._closed.wait(pause):
            pause = min(pause * 1.5, longest)
            for instance in self.roll:
                if self.name(instance) in self.silent:
                    with suppress(TidbMagicError):
                        self.reach(instance, _DIRECT)
                        self.silent.pop(self.name(instance), None)
            if self._answers_again():
                self.silent.clear()
                self.trouble = False
                return

    def _answers_again(self) -> bool:
        """Ask who is registered, then for the cluster's own list, on a connection that nobody else uses."""
        with self._lock:
            ways = [self.settings, *(one.settings for one in self._owners.values() if one.open)]
        for settings in ways:
            with suppress(TidbMagicError):
                self._probe = Connection(settings, within=_DIRECT)
                break
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
