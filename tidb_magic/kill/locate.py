"""Where the targets of a kill are: by their ids, by what was seen of them, else by a list of the whole cluster."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tidb_magic.cluster import topology
from tidb_magic.cluster.pool import Link
from tidb_magic.connection.driver import time_left
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import TidbMagicError
from tidb_magic.kill.checks import GONE, NOT_VISIBLE
from tidb_magic.kill.model import Outcome, Seen, Target
from tidb_magic.kill.routing import Place
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import resembling
from tidb_magic.sessions.processlist import ProcessList
from tidb_magic.sessions.reader import ALL, read

_PROXYS = "a driver's thread id is the proxy's own number; SELECT CONNECTION_ID() gives TiDB's"


@dataclass
class Located:
    """Which targets are where, by their positions, and those of which that is already the end."""

    places: dict[Place, list[int]] = field(default_factory=dict)
    targets: dict[int, Target] = field(default_factory=dict)

    def sort(self, link: Link, targets: Mapping[int, Target]) -> dict[int, Target]:
        """Note those whose ids or rows say where they are, and return the others."""
        others = {}
        for at, target in targets.items():
            if place := _place(link, target):
                self.places.setdefault(place, []).append(at)
            else:
                others[at] = target
        return others


def located(link: Link, targets: Mapping[int, Target]) -> tuple[Located, dict[int, Target]]:
    """Sort the targets by where they are, without asking anybody; return those of which that is not known, too."""
    found, named = Located(), {}
    for at, target in targets.items():
        if target.outcome is not None:  # decided before
            found.targets[at] = target
        elif target.statement.connection_id is None:
            found.targets[at] = target.ended(Outcome.REFUSED, "CONNECTION_ID() is tidb_magic's own connection")
        else:
            named[at] = target
    return found, found.sort(link, named)


def locate(link: Link, targets: Mapping[int, Target], *, deadline: float) -> Located:
    """Find out where targets are of which neither the id nor the row says it: by who is registered, by a list."""
    found, others, give_up = Located(), dict(targets), time.monotonic() + deadline
    if not link.roll.pd_silent:
        with suppress(TidbMagicError):  # an instance can have been started, or restarted
            connection = link.connection(within=deadline)
            link.call(topology.instances(connection, deadline=time_left(give_up)))
            others = found.sort(link, others)
    _find(link, others, found, deadline)
    return found


def _place(link: Link, target: Target) -> Place | None:
    """Return where a target is by what is known of it."""
    seen = target.seen.instance if target.seen is not None else None
    if link.capabilities.global_kill:  # the ids are unique and say it
        server = target.id.server_id
        if server is None or target.id.defect or server not in link.servers:
            return None
        return Place(link.listed(server) or seen, server)
    if seen is None or seen not in link.registered():
        return None
    return Place(seen)


def _find(link: Link, targets: Mapping[int, Target], found: Located, deadline: float) -> None:
    """Look for targets in the whole cluster, twice if need be: COM_CHANGE_USER hides a session for a moment."""
    waiting = dict(targets)
    for last in (False, True):
        if not waiting:
            return
        if last:
            time.sleep(GONE)
        ids = ", ".join(str(int(number)) for number in sorted({target.id for target in waiting.values()}))
        try:
            where = Filters(where=f"ID IN ({ids})", idle=True)
            listed = read(link, where, limit=ALL, deadline=deadline)
        except TidbMagicError as error:
            reason = f"not found out where it is. {error}"
            found.targets |= {at: target.ended(Outcome.UNREACHABLE, reason) for at, target in waiting.items()}
            return
        give_up = time.monotonic() + deadline
        with suppress(TidbMagicError):
            link.refresh(within=deadline)
        sessions = _by_id(listed)
        for at, target in list(waiting.items()):
            rows = _rows(target, sessions)
            decided = _decide(link, target, listed, rows, give_up if last else None)
            if decided is None:
                continue
            del waiting[at]
            if isinstance(decided, Place):
                found.places.setdefault(decided, []).append(at)
                # Without global kill the ID can be reused by another session at any moment.
                found.targets[at] = replace(target, seen=target.seen or rows[0])
            else:
                found.targets[at] = decided


def _decide(
    link: Link, target: Target, listed: ProcessList, rows: Sequence[Seen], give_up: float | None
) -> Place | Target | None:
    """Return where a list has a target, or what its absence means; None if another list must tell.

    What it means takes until `give_up` to find out; that is None before the last list.
    """
    unique = link.capabilities.global_kill
    # Without global kill the session that was meant can be where nobody answers, and this one its namesake.
    if not listed.complete and not (rows and unique):
        unknown = "PD" if link.roll.pd_silent else "an instance"
        silent = f"{', '.join(listed.missing) or unknown} did not answer"
        return target.ended(Outcome.UNREACHABLE, f"not found out where it is: {silent}")
    if len(rows) > 1:
        where = ", ".join(str(row.instance) for row in rows)
        reason = f"{len(rows)} sessions have this id (on {where})"
        return target.ended(Outcome.REFUSED, f"{reason}: kill it by its row in a list, which says which one is meant")
    if rows:
        return Place(rows[0].instance, target.id.server_id if unique else None)
    if not link.capabilities.see_others:
        return target.ended(Outcome.REFUSED, NOT_VISIBLE)
    if give_up is None:
        return None
    if _elsewhere(link, target):
        what = f"no instance {target.instance} is registered in this cluster"
        return target.ended(Outcome.REFUSED, f"{what}: it has ended, or the row is of another cluster")
    return target.ended(Outcome.ALREADY_GONE, _absent(link, target.id, give_up))


def _elsewhere(link: Link, target: Target) -> bool:
    """Tell whether a row that does not say of which cluster it is names an instance that this one does not have."""
    seen = target.seen
    if seen is None or seen.instance is None or seen.requested is not None or target.id >= 2**63:
        return False
    return seen.instance not in link.registered()


def _by_id(listed: ProcessList) -> dict[int, list[Seen]]:
    """Return the sessions of a list by their ids: thousands of targets are looked up in it."""
    sessions: dict[int, list[Seen]] = {}
    for number, *session in zip(*(listed[name].tolist() for name in ("ID", "INSTANCE", "USER", "HOST")), strict=True):
        sessions.setdefault(number, []).append(Seen(*session))
    return sessions


def _rows(target: Target, sessions: Mapping[int, Sequence[Seen]]) -> list[Seen]:
    """Return the sessions with the target's id; only that on its own instance if it was seen on one."""
    seen = target.seen.instance if target.seen is not None else None
    return [one for one in sessions.get(int(target.id), ()) if seen in (None, one.instance)]


def _absent(link: Link, number: ConnectionId, give_up: float) -> str:
    """Say in words what the absence of an id means."""
    left = give_up - time.monotonic()
    if number.doubtful and left > 0:  # for thousands of ids there is no time
        with suppress(TidbMagicError):
            listed = resembling(link.connection(within=left), number, deadline=left)
            if mistaken := number.mistaken_for(listed):
                return f"no session has this id: {mistaken}"
    if link.proxied and number < 2**32:
        return f"no session has this id: {_PROXYS}"
    if link.capabilities.global_kill and number.defect:
        return f"no session has this id: {number.defect}"
    servers = {one.server_id for one in link.roll.instances} - {None}
    if link.capabilities.global_kill and link.roll.certain and servers and number.server_id not in servers:
        return (
            f"no session has this id; no registered instance has its server id {number.server_id}"
            " (restarted, cut off from PD, or of another cluster)"
        )
    return "no session has this id"
