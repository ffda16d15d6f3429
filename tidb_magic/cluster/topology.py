"""Which instances there are, what they can do, and which way leads to a session."""

import ipaddress
import math
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tidb_magic.connection.connection import Connection
from tidb_magic.connection.driver import Result, hint
from tidb_magic.connection.settings import Settings, host_port
from tidb_magic.errors import ConnectError, ServerError
from tidb_magic.queries import query

_DEADLINE = 3.0  # seconds, for each question; none of them leaves this instance, but those about the registered ones
_GRANT = re.compile(r"GRANT (?P<rights>.+?) ON \*\.\* TO ", re.IGNORECASE)
_SEE = {"ALL PRIVILEGES", "PROCESS"}
_KILL = {"ALL PRIVILEGES", "SUPER", "CONNECTION_ADMIN"}


@dataclass(frozen=True)
class Capabilities:
    """What matters for a KILL. None means that the cluster does not say.

    `global_kill` and `compatible_kill_query` are TiDB's settings; `see_others` and `kill_others` are whether this user
    sees and may end other users' sessions: PROCESS alone ends nothing, CONNECTION_ADMIN alone sees nobody.
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
class Roll:
    """Who is registered: as PD said when it was last asked (`certain`), or as was seen in a list.

    `pd_silent` is whether PD did not answer that question, `updated_at` the time of its answer by the monotonic clock.
    """

    instances: tuple[Instance, ...] = ()
    certain: bool = False
    pd_silent: bool = False
    updated_at: float = field(default=-math.inf, compare=False)


class Route(StrEnum):
    """How a KILL reaches its session."""

    OWNER = "owner"  # this connection is on the instance of the session
    FORWARD = "forward"  # TiDB forwards it to the instance of the session


class Direct(StrEnum):
    """Whether to connect to the address that an instance advertises, besides the one that a person gave."""

    AUTO = "auto"  # unless it is a loopback address and ours is not
    ALWAYS = "always"
    NEVER = "never"


def direct_settings(instance: Instance, settings: Settings, direct: Direct) -> Settings | str:
    """Return how to connect to an instance itself, or the reason why that is not tried.

    The password goes only to a server that a person named: one that another server told us of has to challenge us.
    """
    if direct is Direct.NEVER:
        return "direct connections are switched off"
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


def introduce(connection: Connection, *, deadline: float = _DEADLINE) -> tuple[bool | None, bool | None]:
    """Learn where a connection is and what the process list has there.

    Return whether global kill and compatible-kill-query are on there. In security-enhanced mode neither these nor the
    address are told.
    """
    connection.columns = dict(connection.query(query("columns"), deadline=deadline).rows)
    try:
        (row,) = connection.query(query("capabilities"), deadline=deadline).rows
    except ServerError:
        return None, None
    global_kill, compatible, host, port = row
    if host and port:
        connection.instance = host_port(host, port)
    return _boolean(global_kill), _boolean(compatible)


def instances(connection: Connection, *, deadline: float = _DEADLINE) -> tuple[Instance, ...]:
    """Return the instances that are registered with PD now; none where this user cannot see any table of them.

    A restarted instance can be there twice for about a minute, with one address and two server ids. While PD does not
    answer the statement goes on for 6 s (8.5.6, measured), ends by itself, and is not waited for that long.
    """
    for ask in (_cluster_info, _servers):
        try:
            return ask(connection, deadline)
        except ServerError:  # no PROCESS, or no such table (TiDB Cloud)
            continue
    return ()


def ask_marked(connection: Connection, column: str, mark: str, *, deadline: float) -> Result:
    """Ask for INSTANCE and ID of the sessions whose column is like that mark, in the whole cluster."""
    args = {"mark": mark, "milliseconds": hint(deadline)}
    return connection.query(query("marked", column=column), args, deadline=deadline, leave=True)


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


def rights(connection: Connection, *, deadline: float = _DEADLINE) -> dict[str, bool]:
    """Ask what this user may see and end, as Capabilities has it."""
    held = granted(connection.query(query("grants"), deadline=deadline))
    return {"see_others": not held.isdisjoint(_SEE), "kill_others": not held.isdisjoint(_KILL)}


def granted(grants: Result) -> set[str]:
    """Return what SHOW GRANTS gives on all of the cluster (``ON *.*``)."""
    held: set[str] = set()
    for (grant,) in grants.rows:
        if match := _GRANT.match(grant):
            held |= {right.strip().upper() for right in match["rights"].split(",")}
    return held


def _boolean(value: str | None) -> bool | None:
    return None if value is None else value == "true"
