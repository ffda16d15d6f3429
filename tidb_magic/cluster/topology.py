"""The instances of the cluster: which are registered, their names, addresses and settings."""

import ipaddress
import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import Deadline, hint
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection.settings import Settings, host_port
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import ConnectError, ServerError
from tidb_magic.queries import query

UNNAMED = "the connected instance"  # while no list shows its name
INTRODUCTION = ("columns", "capabilities", "grants")  # what a new connection is asked for


@dataclass(frozen=True)
class Capabilities:
    """What matters for a KILL. None means that the cluster does not say.

    `global_kill` and `compatible_kill_query` are TiDB's settings; `see_others` and `kill_others` are whether this user
    sees and may end other users' sessions: PROCESS alone ends nothing, CONNECTION_ADMIN alone sees no other sessions.
    """

    global_kill: bool | None
    compatible_kill_query: bool | None
    see_others: bool
    kill_others: bool


@dataclass(frozen=True)
class Instance:
    """A TiDB instance that is registered with PD. None is what this user, or security-enhanced mode, does not see.

    `name` is its INSTANCE in the process list. `host` and `port` are where SQL clients connect, as it advertises them.
    `server_id` is in the ids of its sessions while global kill is on, and 0 while it is off. `uptime` is TiDB's own
    text, as ``1h2m3.4s``.
    """

    name: str
    host: str | None = None
    port: int | None = None
    status_address: str | None = None
    version: str | None = None
    server_id: int | None = None
    uptime: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Membership:
    """The registered instances: as PD listed them last (`authoritative`), or as lists showed them.

    `pd_unresponsive` is whether PD did not answer that question, `updated_at` when it did, by the monotonic clock.
    """

    instances: tuple[Instance, ...] = ()
    authoritative: bool = False
    pd_unresponsive: bool = False
    updated_at: float = field(default=-math.inf, compare=False)


class Topology:
    """The registered instances, and how lists name them. Threads may use it at the same time.

    `membership` is replaced as a whole. `unique_ids` is whether connection IDs hold the server ID of their instance,
    as they do while global kill is on.
    """

    def __init__(self) -> None:
        self.membership = Membership()
        self.unique_ids = False
        self._names: dict[int, str] = {}  # INSTANCE by server ID, as seen in lists
        self._lock = threading.Lock()

    def copy(self) -> "Topology":
        """Return a copy with a lock of its own, for a forked child."""
        copy = Topology()
        copy.membership, copy.unique_ids, copy._names = self.membership, self.unique_ids, self._names
        return copy

    def learn(self, seen: Mapping[str, int]) -> None:
        """Note INSTANCE values of a list, each with the ID of a session there.

        In security-enhanced mode nothing else tells which name belongs to which server ID.
        """
        with self._lock:
            if self.unique_ids:
                servers = {name: ConnectionId(number).server_id for name, number in seen.items()}
                self._names = self._names | {server: name for name, server in servers.items() if server}
            if not self.membership.authoritative:
                known = tuple(one for one in self.membership.instances if one.name != UNNAMED)
                new = tuple(Instance(name) for name in seen if name not in {self.name(one) for one in known})
                self.membership = replace(self.membership, instances=known + new)

    def update(self, instances: tuple[Instance, ...]) -> None:
        """Note the instances that PD lists now; none, if this user cannot see them."""
        with self._lock:
            self.membership = Membership(
                instances or self.membership.instances, authoritative=bool(instances), updated_at=time.monotonic()
            )

    def assume(self, names: Iterable[str]) -> None:
        """Note the instances where this user cannot see which are registered."""
        with self._lock:
            self.membership = replace(self.membership, instances=tuple(map(Instance, names)), authoritative=False)

    def note_pd_unresponsive(self) -> None:
        """Note that PD did not list the registered instances."""
        with self._lock:
            self.membership = replace(self.membership, pd_unresponsive=True)

    def name(self, instance: Instance) -> str:
        """Return the INSTANCE that lists show for an instance."""
        return self._names.get(instance.server_id or 0, instance.name)

    def registered(self) -> dict[str, Instance]:
        """Return the registered instances by name: one that was restarted is registered twice for about a minute."""
        return {self.name(one): one for one in self.membership.instances}

    def find(self, name: str | None, server: int | None) -> Instance | None:
        """Return the registered instance with that server ID, else with that name."""
        known = self.membership.instances
        if server is not None and (found := [one for one in known if one.server_id == server]):
            return found[0]
        return next((one for one in known if self.name(one) == name), None)

    def name_of_server(self, server: int) -> str | None:
        """Return the INSTANCE with that server ID, if it is known."""
        registered = (one.status_address for one in self.membership.instances if one.server_id == server)
        return self._names.get(server) or next(registered, None)

    def instance_of(self, connection: Connection) -> str | None:
        """Return the INSTANCE of a connection, by its own answer or by the server ID in its ID."""
        server = connection.id.server_id if connection.id is not None and self.unique_ids else None
        if connection.instance is None and server in self._names:
            connection.instance = self._names[server]
        if connection.instance is not None:
            return connection.instance
        return f"server id {server}" if server else None

    def servers(self) -> set[int]:
        """Return the server IDs of the registered instances; where they are not shown, those seen in IDs of lists."""
        return {one.server_id for one in self.membership.instances if one.server_id} or set(self._names)

    def is_direct(self, connection: Connection) -> bool:
        """Tell whether a connection leads to an instance itself, so that no proxy can move it to another."""
        theirs = {(host, connection.settings.port) for host in (connection.settings.host, connection.peer)}
        return any((one.host, one.port) in theirs for one in self.membership.instances)


class RouteKind(StrEnum):
    """How a KILL reaches its session."""

    OWNER = "owner"  # this connection is on the instance of the session
    FORWARD = "forward"  # TiDB forwards it to the instance of the session


class Direct(StrEnum):
    """Whether to connect to the address that an instance advertises, beside the one that a person gave."""

    AUTO = "auto"  # unless it is a loopback address and ours is not
    ALWAYS = "always"
    NEVER = "never"


def direct_settings(instance: Instance, settings: Settings, direct: Direct) -> Settings | str:
    """Return how to connect to an instance itself, or the reason why that is not tried.

    The password is sent only to a server that a person named; one that another server advertises must use a challenge.
    """
    if direct is Direct.NEVER:
        return "direct connections are disabled"
    if instance.host is None or instance.port is None:
        return "its address is not known"
    if direct is Direct.AUTO and _loopback(instance.host) and not _loopback(settings.host):
        return f"it advertises {instance.host}, which is this machine"
    same = (instance.host, instance.port) == (settings.host, settings.port)
    return replace(
        settings, host=instance.host, port=instance.port, database=None, source="", trusted=same and settings.trusted
    )


def _loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def introduce(connection: Connection) -> tuple[bool | None, bool | None]:
    """Learn where a new connection is and what the process list has there, from its answers to `INTRODUCTION`.

    Return whether global kill and compatible-kill-query are on there. Security-enhanced mode hides these and the
    address.
    """
    connection.columns = dict(connection.introduced("columns").rows)
    try:
        ((global_kill, compatible, host, port),) = connection.introduced("capabilities").rows
    except ServerError:
        return None, None
    if host and port:
        connection.instance = host_port(host, port)
    return _boolean(global_kill), _boolean(compatible)


def instances(connection: Connection, *, deadline: float) -> tuple[Instance, ...]:
    """Return the instances that are registered with PD now; none where this user cannot see any table of them.

    A restarted instance can be there twice for about a minute, with one address and two server ids. While PD does not
    answer the statement goes on for 6 s (8.5.6, measured), then ends, and is not waited for that long.
    """
    for ask in (_cluster_info, _servers):
        try:
            return ask(connection, deadline)
        except ServerError:  # no PROCESS, or no such table (TiDB Cloud)
            continue
    return ()


def process_of(connection: Connection, main: Connection, *, deadline: float) -> str | None:
    """Return the INSTANCE of a connection in the cluster of another one, by the UUID of its process.

    None if that is not shown, or if two processes have the same INSTANCE: one has ended lately.
    """
    due = Deadline(deadline)
    try:
        try:
            process = connection.query(query("own_process"), deadline=due.left, leave=True).by_name["SELF_ID"][0]
        except ServerError:  # no SUPER
            process = connection.query(query("own_server_id"), deadline=due.left, leave=True).by_name["Value"][0]
        servers = main.query(query("servers"), deadline=due.left, leave=True).rows
    except (ServerError, IndexError):  # hidden, as TiDB Cloud hides much
        return None
    names = {number: host_port(host, port) if host else number for number, host, _, port, _ in servers}
    name: str | None = names.get(process)
    return name if list(names.values()).count(name) == 1 else None


def ask_marked(connection: Connection, column: str, mark: str, *, deadline: float) -> Result:
    """Ask for INSTANCE and ID of the sessions whose column is like that mark, in the whole cluster."""
    args = {"mark": mark, "milliseconds": hint(deadline)}
    return connection.query(query("find_by_marker", column=column), args, deadline=deadline, leave=True)


def marked(connection: Connection, column: str, mark: str, *, deadline: float) -> list[tuple[str, int]]:
    """Return INSTANCE and ID of the sessions whose column is like that mark, in the whole cluster.

    Raises
    ------
    ConnectError
        Not every instance answered.
    """
    answer = ask_marked(connection, column, mark, deadline=deadline)
    if answer.warnings:
        raise ConnectError("Not every instance answered.")
    return each_once(answer)


def each_once(answer: Result) -> list[tuple[str, int]]:
    """Return the rows of `ask_marked`, each once: a restarted instance lists its sessions twice."""
    return list(dict.fromkeys((name, number) for name, number in answer.rows))


def running(connection: Connection) -> str:
    """Return the mark, for INFO, of what a connection runs."""
    return f"/* tidb_magic:{connection.token} */%"


def _cluster_info(connection: Connection, deadline: float) -> tuple[Instance, ...]:
    found = []
    rows = connection.query(query("cluster_info"), deadline=deadline, leave=True).rows
    for address, status_address, version, server_id, uptime in rows:
        host, port = _split(address) if status_address else (None, None)
        name = status_address or f"server id {server_id}"
        found.append(Instance(name, host, port, status_address, _version(version), server_id, uptime))
    return tuple(found)


def _servers(connection: Connection, deadline: float) -> tuple[Instance, ...]:
    found = []
    rows = connection.query(query("servers"), deadline=deadline, leave=True).rows
    for ddl_id, host, port, status_port, version in rows:
        status_address = host_port(host, status_port) if host else None
        if status_address:
            found.append(Instance(status_address, host, port, status_address, _version(version)))
        else:
            found.append(Instance(ddl_id, version=_version(version)))
    return tuple(found)


def _split(address: str) -> tuple[str | None, int | None]:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else (None, None)


def _version(text: str | None) -> str | None:
    """Return TiDB's version without MySQL's before it; servers built without one say ``None`` or nothing.

    >>> _version("8.0.11-TiDB-v8.5.6")
    '8.5.6'
    """
    version = (text or "").rpartition("TiDB-")[2].removeprefix("v")
    return version if version not in ("", "None") else None


def _boolean(value: str | None) -> bool | None:
    return None if value is None else value == "true"
