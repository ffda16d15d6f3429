"""What a cluster can do, and which way a KILL travels to its session."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from tidb_magic.connection import Connection, Result, decoded
from tidb_magic.errors import ServerError
from tidb_magic.queries import query
from tidb_magic.settings import Settings

_DEADLINE = 3.0  # seconds, for each question; none of them leaves this instance
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


class Route(StrEnum):
    """How a KILL reaches its session."""

    OWNER = "owner"  # this connection is on the instance of the session
    FORWARD = "forward"  # TiDB forwards it to the instance of the session


class Link:
    """The connection of a Cluster: opened again after it was lost or dropped, never in between of a look and a KILL."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connection = Connection(settings)
        self.capabilities = capabilities(self._connection)

    def connection(self, within: float | None = None) -> Connection:
        """Return a connection that can be used, opened again within that time if need be.

        After that its instance may be another one.
        """
        if not self._connection.open:
            self._connection = Connection(self.settings, within=within)
            self.capabilities = capabilities(self._connection)
        return self._connection

    def refresh(self) -> None:
        """Ask again what this user may do: a right can be taken away while we are connected."""
        self.capabilities = replace(self.capabilities, **_rights(self.connection()))

    @property
    def version(self) -> str:
        """TiDB's version, as ``v8.5.6``, on the instance of the last connection."""
        return self._connection.version

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def route(instance: str, here: str | None, able: Capabilities) -> Route | str:
    """Return the way to a session on `instance` from a connection on `here`, or the reason why there is none."""
    if instance == here:
        return Route.OWNER
    if able.global_kill:
        return Route.FORWARD
    state = "off" if able.global_kill is False else "unknown"
    return (
        f"global kill is {state} in this cluster and the session is on {instance}, this connection"
        f" {f'on {here}' if here else 'elsewhere'}: a KILL could hit another. Connect to that instance."
    )


def capabilities(connection: Connection) -> Capabilities:
    """Ask one instance what it can do, and what this user may do."""
    try:
        config = connection.query(query("capabilities"), deadline=_DEADLINE)
    except ServerError:  # security-enhanced mode, or a server without @@tidb_config
        held = server_ids(connection)
        global_kill, compatible = None if held is None else 0 not in held, None
    else:
        (row,) = config.rows
        global_kill, compatible = (_boolean(value) for value in row)
    return Capabilities(global_kill, compatible, **_rights(connection))


def server_ids(connection: Connection) -> set[int] | None:
    """Return the server ids of the registered instances; None where this user may not know."""
    try:
        return {number for (number,) in connection.query(query("server_ids"), deadline=_DEADLINE).rows}
    except ServerError:
        return None


def registered(connection: Connection, instance: str) -> bool:
    """Tell whether an instance is registered with PD now: only those are asked for their sessions.

    `instance` is as the process list has it. Where the table does not exist (TiDB Cloud) it is taken to be.
    """
    try:
        servers = connection.query(query("servers"), deadline=_DEADLINE)
    except ServerError:
        return True
    known = {decoded(name) for row in servers.rows for name in row if name is not None}
    return instance.replace("[", "").replace("]", "") in known  # IPv6 has brackets there and none here


def _rights(connection: Connection) -> dict[str, bool]:
    held = rights(connection.query(query("grants"), deadline=_DEADLINE))
    return {"see_others": not held.isdisjoint(_SEE), "kill_others": not held.isdisjoint(_KILL)}


def rights(grants: Result) -> set[str]:
    """Return what SHOW GRANTS gives on all of the cluster (``ON *.*``)."""
    held: set[str] = set()
    for (grant,) in grants.rows:
        if match := _GRANT.match(decoded(grant)):
            held |= {right.strip().upper() for right in match["rights"].split(",")}
    return held


def _boolean(value: bytes | None) -> bool | None:
    return None if value is None else value == b"true"
