"""The privileges of the connected user that matter for lists and KILL."""

import re

from tidb_magic.connection.connection import Connection
from tidb_magic.connection.row_reader import Result
from tidb_magic.queries import query

_GRANT = re.compile(r"GRANT (?P<rights>.+?) ON \*\.\* TO ", re.IGNORECASE)
_SEE = {"ALL PRIVILEGES", "PROCESS"}
_KILL = {"ALL PRIVILEGES", "SUPER", "CONNECTION_ADMIN"}


def rights(connection: Connection, *, deadline: float) -> dict[str, bool]:
    """Ask what this user may see and end, as Capabilities has it."""
    return rights_of(connection.query(query("grants"), deadline=deadline))


def rights_of(grants: Result) -> dict[str, bool]:
    """Return what a user with these grants may see and end, as Capabilities has it."""
    held = granted(grants)
    return {"see_others": not held.isdisjoint(_SEE), "kill_others": not held.isdisjoint(_KILL)}


def granted(grants: Result) -> set[str]:
    """Return what SHOW GRANTS gives on all of the cluster (``ON *.*``)."""
    held: set[str] = set()
    for (grant,) in grants.rows:
        if match := _GRANT.match(grant):
            held |= {right.strip().upper() for right in match["rights"].split(",")}
    return held
