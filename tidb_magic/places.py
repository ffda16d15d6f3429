"""Where the targets of a kill are: by their ids, by what was seen of them, else by a list of the whole cluster."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tidb_magic import routing
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import TidbMagicError
from tidb_magic.filters import Filters
from tidb_magic.link import Link
from tidb_magic.processlist import ProcessList
from tidb_magic.reading import ALL, read
from tidb_magic.sessions import resembling
from tidb_magic.targets import Outcome, Seen, Target
from tidb_magic.verdicts import NOT_VISIBLE
from tidb_magic.ways import Place

_ROLL = 1.0  # seconds for the question who is registered


@dataclass
class Located:
    """Which targets are where, by their positions, and those of which that is already the end."""

    places: dict[Place, list[int]] = field(default_factory=dict)
    targets: dict[int, Target] = field(default_factory=dict)


def locate(link: Link, targets: Mapping[int, Target], *, deadline: float) -> Located:
    """Find out where the targets are. The cluster is asked only for those whose ids and rows do not say it."""
    located = Located()
    known, elsewhere = {}, {}
    for at, target in targets.items():
        if target.statement.connection_id is None:
            located.targets[at] = target.ended(Outcome.REFUSED, "CONNECTION_ID() is tidb_magic's own connection")
        else:
            known[at] = target
    if not link.roll.pd_silent and any(_place(link, target) is None for target in known.values()):
        with suppress(TidbMagicError):  # an instance can have been started, or restarted
            link.call(routing.instances(link.connection(within=deadline), deadline=_ROLL))
    for at, target in known.items():
        if place := _place(link, target):
            located.places.setdefault(place, []).append(at)
        else:
            elsewhere[at] = target
    _find(link, elsewhere, located, deadline)
    return located


def _place(link: Link, target: Target) -> Place | None:
    """Return where a target is by what is known of it."""
    seen = target.seen.instance if target.seen is not None else None
    if link.capabilities.global_kill:  # the ids are unique and say it
        server = target.id.server_id
        if server is None or target.id.defect or server not in link.servers:
            return None
        return Place(link.listed(server) or seen, server)
    if seen is None or seen not in {link.name(one) for one in link.roll.instances}:
        return None
    return Place(seen)


def _find(link: Link, targets: Mapping[int, Target], located: Located, deadline: float) -> None:
    """Look for targets in the whole cluster, twice if need be: COM_CHANGE_USER hides a session for a moment."""
    waiting = dict(targets)
    for attempt in (1, 2):
        if not waiting:
            return
        ids = ", ".join(str(int(number)) for number in sorted({target.id for target in waiting.values()}))
        try:
            listed = read(link, Filters(where=f"ID IN ({ids})", idle=True), limit=ALL, deadline=deadline)
            link.refresh()
        except TidbMagicError as error:
            reason = f"not found out where it is. {error}"
            located.targets |= {at: target.ended(Outcome.UNREACHABLE, reason) for at, target in waiting.items()}
            return
        for at, target in list(waiting.items()):
            found = _decide(link, target, listed, last=attempt == 2)
            if found is None:
                continue
            del waiting[at]
            if isinstance(found, Place):
                located.places.setdefault(found, []).append(at)
                located.targets[at] = replace(target, seen=target.seen or _whom(target, listed))
            else:
                located.targets[at] = found


def _decide(link: Link, target: Target, listed: ProcessList, *, last: bool) -> Place | Target | None:
    """Return where a list has a target, or what its absence means; None if another list must tell."""
    unique = link.capabilities.global_kill
    rows = _rows(target, listed)
    # Without global kill the session that was meant can be where nobody answers, and this one its namesake.
    if not listed.complete and not (rows and unique):
        silent = f"{', '.join(listed.missing) or 'an instance'} did not answer"
        return target.ended(Outcome.UNREACHABLE, f"not found out where it is: {silent}")
    if len(rows) > 1:
        reason = (
            f"{len(rows)} sessions have this id (on {', '.join(rows)}): kill it by its row in a list,"
            " which says which one is meant"
        )
        return target.ended(Outcome.REFUSED, reason)
    if rows:
        return Place(rows[0], target.id.server_id if unique else None)
    if not link.capabilities.see_others:
        return target.ended(Outcome.REFUSED, NOT_VISIBLE)
    return target.ended(Outcome.ALREADY_GONE, _absent(link, target.id)) if last else None


def _rows(target: Target, listed: ProcessList) -> list[str]:
    """Return the instances that list the target's id; only its own if it was seen on one."""
    found = listed.loc[listed["ID"] == int(target.id), "INSTANCE"].tolist() if target.id < 2**63 else []
    seen = target.seen.instance if target.seen is not None else None
    return [name for name in found if seen in (None, name)]


def _whom(target: Target, listed: ProcessList) -> Seen:
    """Return who was found for an id that was typed: without global kill it can be somebody else's in a moment."""
    row = listed.loc[listed["ID"] == int(target.id)].iloc[0]
    return Seen(row["INSTANCE"], row["USER"], row["HOST"])


def _absent(link: Link, number: ConnectionId) -> str:
    """Say in words what the absence of an id means."""
    if number.doubtful:
        with suppress(TidbMagicError):
            listed = resembling(link.connection(), number)
            if mistaken := number.mistaken_for(listed):
                return f"no session has this id: {mistaken}"
    if link.capabilities.global_kill and number.defect:
        return f"no session has this id: {number.defect}"
    servers = {one.server_id for one in link.roll.instances} - {None}
    if link.capabilities.global_kill and link.roll.certain and servers and number.server_id not in servers:
        return (
            f"no session has this id; no registered instance has its server id {number.server_id}"
            " (restarted, or cut off from PD)"
        )
    return "no session has this id"
