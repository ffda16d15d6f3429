"""The locations of targets: by their IDs, by the expected sessions, else by a list of the whole cluster."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tidb_magic.cluster import topology
from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.deadline import Deadline
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import TidbMagicError
from tidb_magic.kill.checks import GONE, NOT_VISIBLE
from tidb_magic.kill.model import ExpectedSession, Outcome, Target
from tidb_magic.kill.routing import Location
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import resembling
from tidb_magic.sessions.processlist import ProcessList
from tidb_magic.sessions.reader import ALL, read

_PROXYS = "a driver's thread id is the proxy's own number; SELECT CONNECTION_ID() gives TiDB's"


@dataclass
class Located:
    """The positions of targets by location, and the targets that are decided without a route."""

    locations: dict[Location, list[int]] = field(default_factory=dict)
    targets: dict[int, Target] = field(default_factory=dict)


def locate_known(pool: Pool, targets: Mapping[int, Target]) -> tuple[Located, dict[int, Target]]:
    """Return the targets by location without I/O, and those whose location is not known."""
    found, others = Located(), {}
    for at, target in targets.items():
        if target.outcome is not None:  # decided before
            found.targets[at] = target
        elif target.statement.connection_id is None:
            found.targets[at] = target.ended(Outcome.REFUSED, "CONNECTION_ID() is tidb_magic's own connection")
        elif location := _location(pool, target):
            found.locations.setdefault(location, []).append(at)
        else:
            others[at] = target
    return found, others


def search_cluster(pool: Pool, targets: Mapping[int, Target], *, deadline: float) -> Located:
    """Find the targets whose location neither the ID nor the row gives: by the registered instances, by a list."""
    found, others, due = Located(), dict(targets), Deadline(deadline)
    if not pool.topology.membership.pd_unresponsive:
        with suppress(TidbMagicError):  # an instance can have been started, or restarted
            connection = pool.connection(within=deadline)
            pool.update_members(topology.instances(connection, deadline=due.left))
            found, others = locate_known(pool, targets)
    _find(pool, others, found, deadline)
    return found


def _location(pool: Pool, target: Target) -> Location | None:
    """Return the location that a target's ID or row gives, or None."""
    expected = target.expected.instance if target.expected is not None else None
    if pool.capabilities.global_kill:  # the ids are unique and say it
        server = target.id.server_id
        if server is None or target.id.defect or server not in pool.reachable_servers():
            return None
        return Location(pool.topology.name_of_server(server) or expected, server)
    if expected is None or expected not in pool.topology.registered():
        return None
    return Location(expected)


def _find(pool: Pool, targets: Mapping[int, Target], found: Located, deadline: float) -> None:
    """Search the whole cluster for targets, twice if need be: COM_CHANGE_USER hides a session for a moment."""
    waiting = dict(targets)
    for last in (False, True):
        if not waiting:
            return
        if last:
            time.sleep(GONE)
        ids = ", ".join(str(int(number)) for number in sorted({target.id for target in waiting.values()}))
        try:
            where = Filters(where=f"ID IN ({ids})", idle=True)
            listed = read(pool, where, limit=ALL, deadline=deadline)
        except TidbMagicError as error:
            reason = f"its instance is not known. {error}"
            found.targets |= {at: target.ended(Outcome.UNREACHABLE, reason) for at, target in waiting.items()}
            return
        due = Deadline(deadline)
        with suppress(TidbMagicError):
            pool.refresh(within=deadline)
        sessions = _by_id(listed)
        for at, target in list(waiting.items()):
            rows = _rows(target, sessions)
            decided = _decide(pool, target, listed, rows, due if last else None)
            if decided is None:
                continue
            del waiting[at]
            if isinstance(decided, Location):
                found.locations.setdefault(decided, []).append(at)
                # Without global kill the ID can be reused by another session at any moment.
                found.targets[at] = replace(target, expected=target.expected or rows[0])
            else:
                found.targets[at] = decided


def _decide(
    pool: Pool, target: Target, listed: ProcessList, rows: Sequence[ExpectedSession], due: Deadline | None
) -> Location | Target | None:
    """Return the location of a target in a list, or its outcome if it is absent; None if another list is needed.

    Explaining the absence may take until `due`, which is None before the last list.
    """
    unique = pool.capabilities.global_kill
    # Without global kill the intended session can be on the missing instance, and this one has the same ID.
    if not listed.complete and not (rows and unique):
        unknown = "PD" if pool.topology.membership.pd_unresponsive else "an instance"
        missing = f"{', '.join(listed.missing) or unknown} did not answer"
        return target.ended(Outcome.UNREACHABLE, f"its instance is not known: {missing}")
    if len(rows) > 1:
        where = ", ".join(str(row.instance) for row in rows)
        reason = f"{len(rows)} sessions have this id (on {where})"
        return target.ended(Outcome.REFUSED, f"{reason}: kill it by its row in a list")
    if rows:
        return Location(rows[0].instance, target.id.server_id if unique else None)
    if not pool.capabilities.see_others:
        return target.ended(Outcome.REFUSED, NOT_VISIBLE)
    if due is None:
        return None
    if _elsewhere(pool, target):
        what = f"no instance {target.instance} is registered in this cluster"
        return target.ended(Outcome.REFUSED, f"{what}: it has stopped, or the row is from another cluster")
    return target.ended(Outcome.ALREADY_GONE, _absent(pool, target.id, due))


def _elsewhere(pool: Pool, target: Target) -> bool:
    """Tell whether a row without its cluster's address names an instance that is not in this cluster."""
    expected = target.expected
    if expected is None or expected.instance is None or expected.requested is not None or target.id >= 2**63:
        return False
    return expected.instance not in pool.topology.registered()


def _by_id(listed: ProcessList) -> dict[int, list[ExpectedSession]]:
    """Return the sessions of a list by ID: thousands of targets are looked up in it."""
    sessions: dict[int, list[ExpectedSession]] = {}
    for number, *session in zip(*(listed[name].tolist() for name in ("ID", "INSTANCE", "USER", "HOST")), strict=True):
        sessions.setdefault(number, []).append(ExpectedSession(*session))
    return sessions


def _rows(target: Target, sessions: Mapping[int, Sequence[ExpectedSession]]) -> list[ExpectedSession]:
    """Return the sessions with the target's ID; only that on the expected instance if there is one."""
    expected = target.expected.instance if target.expected is not None else None
    return [one for one in sessions.get(int(target.id), ()) if expected in (None, one.instance)]


def _absent(pool: Pool, number: ConnectionId, due: Deadline) -> str:
    """Return a sentence on why an ID may be absent."""
    if number.doubtful and not due.passed:  # for thousands of ids there is no time
        with suppress(TidbMagicError):
            listed = resembling(pool.connection(within=due.left), number, deadline=due.left)
            if mistaken := number.mistaken_for(listed):
                return f"no session has this id: {mistaken}"
    if pool.main.proxied and number < 2**32:
        return f"no session has this id: {_PROXYS}"
    if pool.capabilities.global_kill and number.defect:
        return f"no session has this id: {number.defect}"
    membership = pool.topology.membership
    servers = {one.server_id for one in membership.instances} - {None}
    if pool.capabilities.global_kill and membership.authoritative and servers and number.server_id not in servers:
        return (
            f"no session has this id; no registered instance has its server id {number.server_id}"
            " (restarted, cut off from PD, or of another cluster)"
        )
    return "no session has this id"
