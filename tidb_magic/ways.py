"""The way to a session: a connection that is proved to be on its instance, else TiDB's own forwarding."""

import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from tidb_magic.connection import Connection
from tidb_magic.driver import time_left
from tidb_magic.errors import ConnectError, DeadlineError, ServerError, TidbMagicError
from tidb_magic.link import Link
from tidb_magic.queries import query
from tidb_magic.routing import Capabilities, Instance, Route, granted, instances, rights
from tidb_magic.sessions import GRACE, Look, hint, look, transactions
from tidb_magic.targets import Outcome

_OVER_THEM = "RESTRICTED_CONNECTION_ADMIN"  # the right to end sessions of those whom security-enhanced mode protects
_REACH = 1.0  # seconds that the way to an instance gets
_PROOF = 1.0  # seconds to find a marked connection in the cluster's list
_SHOWN = 0.3  # seconds that a statement runs to be found in the list, where there is no alias


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

    def look(
        self, ids: Collection[int], condition: tuple[str, Mapping[str, object]], *, deadline: float, closely: bool
    ) -> Look:
        """Look at these sessions there; `closely` at their transactions too.

        Raises
        ------
        DeadlineError, ConnectError, ServerError
        """
        give_up = time.monotonic() + deadline
        on_it = self.route is Route.OWNER
        seen = look(self.connection, ids, instance=self.name if on_it else None, condition=condition, deadline=deadline)
        if on_it and self.place.server is not None and (seen.own is None or seen.own.server_id != self.place.server):
            self.connection.close()
            raise ConnectError(f"Our connection to {self.name} is not there any more.")
        gone = set(ids) - seen.sessions.keys()
        if not on_it and (seen.own is None or (gone and not self._registered(deadline=time_left(give_up)))):
            seen = replace(seen, missing=(*seen.missing, self.name))
        if closely and (busy := [one.id for one in seen.sessions.values() if one.txn_start]):
            found = transactions(self.connection, busy, here=on_it, deadline=time_left(give_up))
            held = {number: replace(one, transaction=found.get(number)) for number, one in seen.sessions.items()}
            seen = replace(seen, sessions=held)
        return seen

    def _registered(self, *, deadline: float) -> bool:
        """Tell whether PD knows the instance: only those that are registered are asked for their sessions."""
        known = instances(self.connection, deadline=deadline)
        return not known or any(one.server_id == self.place.server or self.link.name(one) == self.name for one in known)

    def send(self, sql: str, *, deadline: float) -> tuple[str, ...]:
        """Send a KILL and return the server's warnings. As `Connection.query` for what can go wrong."""
        return self.connection.query(sql, deadline=deadline).warnings

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

    def rights(self, *, deadline: float) -> Capabilities:
        """Ask what this user may do now, and note it."""
        able = replace(self.link.capabilities, **rights(self.connection, deadline=deadline))
        self.link.capabilities = able
        return able

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
    give_up = time.monotonic() + within
    try:
        connection = _reach(link, place, min(within, _REACH))
        if place.server is None:
            _prove(link, connection, place, min(time_left(give_up), _PROOF))
    except TidbMagicError as error:
        return _forward(link, place, time_left(give_up), error)
    where = link.where(connection)  # also learns its name
    return Way(link, place, connection, Route.OWNER, connection.instance or place.name or where or str(place))


def _reach(link: Link, place: Place, within: float) -> Connection:
    """Return a connection that is on the instance, as far as it says itself."""
    if place.server is not None and (kept := link.kept_on(place.server)):
        return kept
    instance = _registered(link, place)
    if instance is None and place.name is None:
        raise ConnectError(f"No registered instance has the {place}.")
    connection = link.reach(instance or Instance(str(place.name)), within)
    if place.server is not None and (connection.id is None or connection.id.server_id != place.server):
        raise ConnectError(f"{connection.settings.address} leads to another server than {place}.")
    return connection


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
    name = place.name or next((link.name(one) for one in [_registered(link, place)] if one), None)
    if link.trouble and name in link.silent:
        raise NoWayError(Outcome.UNREACHABLE, f"{name} does not answer. {error}") from error
    try:
        main = link.connection(within=within)
    except TidbMagicError as lost:
        raise NoWayError(Outcome.UNREACHABLE, str(lost)) from lost
    return Way(link, place, main, Route.FORWARD, name or str(place))


def _prove(link: Link, connection: Connection, place: Place, within: float) -> None:
    """Find a connection in the cluster's list, by a mark: what it says of itself is not enough without global kill.

    Addresses can be advertised twice, and another cluster can have the same ones.

    Raises
    ------
    ConnectError
        It is not there, or that was not to see.
    """
    give_up = time.monotonic() + within
    main = link.connection(within=within)
    try:
        if connection is main:
            found = _marked(main, "INFO", f"/* tidb_magic:{main.token} */%", give_up)
        elif "SESSION_ALIAS" in connection.columns:
            alias = f"tidb_magic:{secrets.token_hex(8)}"
            connection.query(query("alias"), {"alias": alias}, deadline=time_left(give_up))
            found = _marked(main, "SESSION_ALIAS", alias, give_up)
        else:
            found = _while_it_runs(main, connection, give_up)
    except DeadlineError as error:
        raise ConnectError(f"That could not be proved: {error}") from error
    if found != [(place.name, connection.id)]:
        where = ", ".join(f"connection {number} on {name}" for name, number in found) or "nowhere"
        raise ConnectError(f"{connection.settings.address} leads elsewhere: the cluster's list has that one {where}.")


def _marked(main: Connection, column: str, mark: str, give_up: float) -> list[tuple[str, int]]:
    within = time_left(give_up)
    args = {"mark": mark, "milliseconds": hint(within)}
    answer = main.query(query("marked", column=column), args, deadline=within + GRACE)
    if answer.warnings:
        raise ConnectError("That could not be proved: not every instance answered.")
    return list(dict.fromkeys((name, number) for name, number in answer.rows))


def _while_it_runs(main: Connection, connection: Connection, give_up: float) -> list[tuple[str, int]]:
    """Find a connection by the token in a statement that runs on it."""
    found: list[tuple[str, int]] = []
    while not found and time.monotonic() < give_up:
        args = {"seconds": _SHOWN}
        shown = threading.Thread(
            target=connection.query, args=(query("sleep"), args), kwargs={"deadline": _SHOWN + time_left(give_up)}
        )
        shown.start()
        while shown.is_alive() and not found:
            found = _marked(main, "INFO", f"/* tidb_magic:{connection.token} */%", give_up)
        shown.join()
    return found
