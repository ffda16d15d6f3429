"""Cluster routing: the route to a session is a verified connection to its instance, else TiDB's own forwarding."""

import threading
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from tidb_magic.cluster.pool import Link
from tidb_magic.cluster.topology import (
    Instance,
    Route,
    ask_marked,
    each_once,
    granted,
    instances,
    marked,
    rights,
    running,
)
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import PATIENCE
from tidb_magic.connection.driver import Result, time_left
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import ConnectError, ConnectTimeoutError, DeadlineError, ServerError, TidbMagicError
from tidb_magic.kill.model import Outcome
from tidb_magic.queries import query
from tidb_magic.sessions.fanout import ask_cluster
from tidb_magic.sessions.lookup import ANYTHING, Condition, Look, look

_OVER_THEM = "RESTRICTED_CONNECTION_ADMIN"  # the right to end sessions of those whom security-enhanced mode protects
# Seconds that a statement runs to be found in the list, where there is no alias: then it runs longer, twice.
_SHOWN = (0.3, 0.6, 1.2)


class NoWayError(TidbMagicError):
    """No KILL can be sent there. `outcome` is what that means for its sessions."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True)
class Place:
    """Where a session is: the INSTANCE that lists it, and the server id in its id where those are unique."""

    name: str | None
    server: int | None = None

    def __str__(self) -> str:
        return self.name or f"server id {self.server}"


@dataclass
class Way:
    """A connection through which the sessions of one instance are looked at and killed."""

    link: Link
    place: Place
    connection: Connection
    route: Route
    name: str  # INSTANCE of the sessions
    number: ConnectionId | None = field(init=False)

    def __post_init__(self) -> None:
        """Note who we are there: a proxy may move us."""
        self.number = self.connection.id

    def look(
        self,
        ids: Collection[int],
        condition: Condition = ANYTHING,
        *,
        closely: bool = False,
        patient: bool = False,
        deadline: float,
    ) -> Look:
        """Look at these sessions there, `closely` at their transactions too.

        If `patient`, what takes longer than the deadline is waited for while the instance responds.

        Raises
        ------
        ConnectError
            The connection was lost, or a proxy moved it to another instance.
        DeadlineError, ServerError
        """
        give_up = time.monotonic() + deadline
        name = None if self.forwards else self.name
        with self._patience(deadline) if patient and not self.forwards else nullcontext(deadline) as limit:
            seen = look(self.connection, ids, instance=name, condition=condition, closely=closely, deadline=limit)
        if self.forwards:
            gone = set(ids) - seen.sessions.keys()
            if seen.own is None or (gone and not self._registered(deadline=time_left(give_up))):
                return replace(seen, missing=(*seen.missing, self.name))
        elif seen.own != self.number:
            self.connection.close()
            raise ConnectError(f"Our connection to {self.name} is not there any more.")
        return seen

    def _patience(self, deadline: float) -> AbstractContextManager[float]:
        return self.link.patience(_registered(self.link, self.place), self.connection, deadline)

    def _registered(self, *, deadline: float) -> bool:
        """Tell whether PD knows the instance: only those that are registered are asked for their sessions."""
        known = instances(self.connection, deadline=deadline)
        return not known or any(one.server_id == self.place.server or self.link.name(one) == self.name for one in known)

    def send(self, sql: str, *, deadline: float, patience: float) -> tuple[str, ...]:
        """Send a KILL and return the server's warnings. As `Connection.query` for what can go wrong.

        A KILL that misses its deadline is not ended.
        """
        return self.connection.query(sql, deadline=deadline, leave=True, patience=patience).warnings

    @property
    def forwards(self) -> bool:
        """Whether TiDB forwards a KILL from here, so that the rights are ours alone to check."""
        return self.route is Route.FORWARD

    @property
    def version(self) -> str | None:
        """TiDB's version on the instance; that of the connected one where nothing else tells."""
        if self.route is Route.OWNER:
            return self.connection.version
        instance = _registered(self.link, self.place)
        return (instance.version if instance else None) or self.connection.version

    def rights(self, *, deadline: float) -> None:
        """Ask what this user may do now, and note it."""
        self.link.capabilities = replace(self.link.capabilities, **rights(self.connection, deadline=deadline))

    def protected(self, users: Collection[str], *, deadline: float) -> frozenset[str]:
        """Return those of these users that security-enhanced mode may protect from us.

        Where that is not told, all of them if TiDB would forward the KILL; on the instance itself the server checks.
        """
        if not self.link.enhanced_security or not users:
            return frozenset()
        give_up, found = time.monotonic() + deadline, set()
        try:
            if _OVER_THEM in granted(self.connection.query(query("grants"), deadline=deadline)):
                return frozenset()
            for user in users:
                if self.connection.query(query("protected"), {"user": user}, deadline=time_left(give_up)).rows:
                    found.add(user)
        except ServerError:
            return frozenset(users if self.forwards else ())
        return frozenset(found)


def find_way(link: Link, place: Place, within: float) -> Way:
    """Find the best way to an instance: a connection on it, else forwarding through the connected one.

    Raises
    ------
    NoWayError
        There is none; its message says why.
    """
    within = link.grace(within)
    give_up = time.monotonic() + within
    for attempt in (1, 2):
        connection = None
        try:
            connection = _reach(link, place, time_left(give_up))
            if place.server is None:
                _prove(link, connection, place, time_left(give_up))
            break
        except TidbMagicError as error:
            lost = connection is not None and not connection.open  # while it was not used
            slow = isinstance(error, DeadlineError) or (isinstance(error, ConnectTimeoutError) and error.greeted)
            if attempt == 2 or not (lost or slow):
                return _forward(link, place, within, error)
            if slow:
                give_up += (PATIENCE - 1) * within
    assert connection is not None  # noqa: S101 (for mypy)
    where = link.where(connection)  # also learns its name
    return Way(link, place, connection, Route.OWNER, connection.instance or place.name or where or str(place))


def _reach(link: Link, place: Place, within: float) -> Connection:
    """Return a connection that is on the instance, as far as it says itself."""
    give_up = time.monotonic() + within
    if place.server is not None and (kept := link.kept_on(place.server)):
        return kept
    instance = _registered(link, place)
    if instance is None and place.name is None:
        raise ConnectError(f"No registered instance has the {place}.")
    while True:
        connection = link.reach(instance or Instance(str(place.name)), time_left(give_up))
        if place.server is None or (connection.id is not None and connection.id.server_id == place.server):
            return connection
        with suppress(TidbMagicError):  # it can be one to the process that ran there before, and lost
            connection.query(query("identify"), deadline=time_left(give_up), leave=True)
        if connection.open or time.monotonic() > give_up:
            raise ConnectError(f"{connection.settings.address} leads to another server than {place}.")


def _registered(link: Link, place: Place) -> Instance | None:
    known = link.roll.instances
    if place.server is not None and (found := [one for one in known if one.server_id == place.server]):
        return found[0]
    return next((one for one in known if link.name(one) == place.name), None)


def _forward(link: Link, place: Place, within: float, error: TidbMagicError) -> Way:
    able = link.capabilities
    if place.server is None or not able.global_kill:
        state = "off" if able.global_kill is False else "unknown"
        reason = f"global kill is {state}, so only a connection that is proved to be on {place} may send it"
        raise NoWayError(Outcome.REFUSED, f"{reason}: a KILL could hit another. {error}") from error
    instance = _registered(link, place)
    name = place.name or (link.name(instance) if instance else str(place))
    accepted = isinstance(error, ConnectTimeoutError) and error.accepted
    if accepted or isinstance(error, DeadlineError) or (link.trouble and name in link.silent):
        raise NoWayError(Outcome.UNREACHABLE, f"{name} did not respond. {error}") from error
    try:
        main = link.connection(within=within)
    except TidbMagicError as lost:
        raise NoWayError(Outcome.UNREACHABLE, str(lost)) from lost
    return Way(link, place, main, Route.FORWARD, name)


def _prove(link: Link, connection: Connection, place: Place, within: float) -> None:
    """Find a connection in the cluster's list, by a mark: what it says of itself is not enough without global kill.

    Addresses can be advertised twice, and another cluster can have the same ones. What was proved of a connection that
    no proxy can move is proved until it is closed.

    Raises
    ------
    ConnectError
        It is not there, or that was not to see.
    """
    if connection.proven == place.name and link.stays(connection):
        return
    give_up = time.monotonic() + within

    def ask(main: Connection, _: str | None, until: float) -> list[Result]:
        column, mark = ("INFO", running(main)) if connection is main else ("SESSION_ALIAS", connection.alias)
        return [ask_marked(main, column, mark, deadline=time_left(until))]

    try:
        main = link.connection(within=within)
        if connection is main or "SESSION_ALIAS" in connection.columns:
            if connection is not main:
                connection.query(query("identify"), deadline=time_left(give_up))  # else one that was lost is nowhere
            found = each_once(ask_cluster(link, ask, within)[0])
        else:
            found = _while_it_runs(main, connection, give_up)
    except DeadlineError as error:
        raise ConnectError(f"That could not be proved: {error}") from error
    if found != [(place.name, connection.id)]:
        where = ", ".join(f"connection {number} on {name}" for name, number in found) or "nowhere"
        raise ConnectError(f"{connection.settings.address} leads elsewhere: the cluster's list has that one {where}.")
    connection.proven = place.name


def _while_it_runs(main: Connection, connection: Connection, give_up: float) -> list[tuple[str, int]]:
    """Find a connection by the token in a statement that runs on it."""

    def show(seconds: float) -> None:
        with suppress(TidbMagicError):
            connection.query(query("sleep"), {"seconds": seconds}, deadline=seconds + time_left(give_up))

    found: list[tuple[str, int]] = []
    for seconds in _SHOWN:
        if found or not connection.open:
            break
        shown = threading.Thread(target=show, args=(seconds,), name="tidb_magic-show", daemon=True)
        shown.start()
        while shown.is_alive() and not found:
            found = marked(main, "INFO", running(connection), deadline=time_left(give_up))
        shown.join()
    return found
