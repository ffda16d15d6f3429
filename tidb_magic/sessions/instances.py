"""The registered instances, with the sessions of each."""

from contextlib import suppress
from datetime import datetime

import pandas as pd

from tidb_magic.cluster import topology
from tidb_magic.cluster.pool import Pool
from tidb_magic.cluster.topology import Instance
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE, Deadline
from tidb_magic.connection.settings import host_port
from tidb_magic.display.frame import by_column, typed
from tidb_magic.errors import ServerError
from tidb_magic.sessions.counts import count
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.statements import described
from tidb_magic.sessions.summaries import InstanceList


def list_instances(pool: Pool, *, deadline: float = DEADLINE) -> InstanceList:
    """List the registered instances, with the sessions of each. As `read` for the rest."""

    def update_members(connection: Connection, instance: str | None, due: Deadline) -> None:
        if instance is None:
            with suppress(ServerError):
                pool.update_members(topology.instances(connection, deadline=due.left))

    frame, gathered = count(pool, ["INSTANCE"], Filters(), deadline, update_members)
    counts = frame.set_index("INSTANCE")
    if gathered.complete and not pool.topology.membership.authoritative:
        pool.topology.assume(counts.index)  # no table names them
    taken_at = datetime.now().astimezone()
    by_age = sorted(pool.topology.membership.instances, key=_uptime, reverse=True)
    latest = {pool.topology.name(one): one for one in by_age}  # a restart leaves two with one name
    answering = [one for name, one in latest.items() if name not in gathered.missing]
    rows = [
        {
            "INSTANCE": (name := pool.topology.name(one)),
            "ADDRESS": None if one.host is None or one.port is None else host_port(one.host, one.port),
            "STATUS_ADDRESS": one.status_address,
            "VERSION": one.version,
            "SERVER_ID": one.server_id,
            "UP_SINCE": None if one.uptime is None else taken_at - _uptime(one),
            "SESSIONS": counts["SESSIONS"].get(name, 0) if one in answering else None,
            "MEMORY": counts["MEMORY"].get(name, 0) if one in answering else None,
            "ANSWERING": one in answering,
            "GLOBAL_KILL": pool.capabilities.global_kill if one.server_id is None else one.server_id != 0,
        }
        for one in sorted(by_age, key=pool.topology.name)
    ]
    frame = InstanceList(typed(by_column(rows, InstanceList.COLUMNS), InstanceList.DTYPES))
    frame["UP_SINCE"] = pd.to_datetime(frame["UP_SINCE"], utc=True).dt.tz_convert(taken_at.tzinfo).dt.as_unit("s")
    return described(frame, pool, gathered)


def _uptime(instance: Instance) -> pd.Timedelta:
    return pd.Timedelta(instance.uptime or 0)
