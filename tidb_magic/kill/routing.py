"""Cluster routing: the route to a session is a verified connection to its instance, else TiDB's own forwarding."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from tidb_magic.cluster.pool import Pool
from tidb_magic.cluster.privileges import granted, rights
from tidb_magic.cluster.topology import (
    Instance,
    RouteKind,
    ask_marked,
    each_once,
    instances,
    process_of,
    running,
)
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import PATIENCE, Deadline
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import ConnectError, ConnectTimeoutError, DeadlineError, ServerError, TidbMagicError
from tidb_magic.kill.model import Outcome
from tidb_magic.queries import query
from tidb_magic.sessions.gather import ask_cluster
from tidb_magic.sessions.lookup import ANYTHING, Condition, Observation, fetch_sessions

_OVER_THEM = "RESTRICTED_CONNECTION_ADMIN"  # to end sessions of users that security-enhanced mode protects


class NoRouteError(TidbMagicError):
    """No KILL can be sent to a location. `outcome` is that of its sessions."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True)
class Location:
    """The location of a session: the INSTANCE that lists it, and the server ID in its ID where IDs are unique."""

    name: str | None
    server: int | None = None

    def __str__(self) -> str:
        return self.name or f"server id {self.server}"


@dataclass
class Route:
    """A connection through which the sessions of one instance are observed and killed."""

    pool: Pool
    location: Location
    connection: Connection
    kind: RouteKind
    name: str  # INSTANCE of the sessions
    number: ConnectionId | None = field(init=False)

    def __post_init__(self) -> None:
        """Note the connection's ID: a proxy can move it to another instance."""
        self.number = self.connection.id

    def observe(
        self,
        ids: Collection[int],
        condition: Condition = ANYTHING,
        *,
        with_transactions: bool = False,
        deadline: float,
        at_most: float,
    ) -> Observation:
        """Fetch these sessions there, `with_transactions` their transactions too.

        An answer is waited for longer than the deadline, but `at_most` seconds, while the instance responds.

        Raises
        ------
        ConnectError
            The connection was lost, or a proxy moved it to another instance.
        DeadlineError, ServerError
        """
        due = Deadline(deadline)
        name = None if self.forwards else self.name
        with self._patience(deadline, at_most) as limit:
            seen = fetch_sessions(
                self.connection,
                ids,
                instance=name,
                condition=condition,
                with_transactions=with_transactions,
                deadline=limit,
            )
        if self.forwards:
            gone = set(ids) - seen.sessions.keys()
            if seen.own is None or (gone and not self._registered(deadline=due.left)):
                return replace(seen, missing=(*seen.missing, self.name))
        elif seen.own != self.number:
            self.connection.close()
            raise ConnectError(f"The connection to {self.name} was lost.")
        return seen

    @contextmanager
    def _patience(self, deadline: float, at_most: float) -> Iterator[float]:
        if self.forwards or at_most <= deadline:
            yield deadline
        else:
            with self.pool.monitor.patience(self._instance(), self.connection, deadline, at_most):
                yield at_most

    def _instance(self) -> Instance | None:
        return self.pool.topology.find(self.location.name, self.location.server)

    def _registered(self, *, deadline: float) -> bool:
        """Tell whether PD knows the instance: only those that are registered are asked for their sessions."""
        known = instances(self.connection, deadline=deadline)
        return not known or any(
            one.server_id == self.location.server or self.pool.topology.name(one) == self.name for one in known
        )

    def send(self, sql: str, *, deadline: float, at_most: float, patience: float) -> tuple[str, ...]:
        """Send a KILL and return the server's warnings. Raises what `Connection.query` raises.

        A KILL that misses its deadline is not ended; `at_most` as of `observe`.
        """
        with self._patience(deadline, at_most) as limit:
            return self.connection.query(sql, deadline=limit, leave=True, patience=patience).warnings

    @property
    def forwards(self) -> bool:
        """Whether TiDB forwards a KILL from here: then only tidb_magic checks the privileges."""
        return self.kind is RouteKind.FORWARD

    @property
    def version(self) -> str | None:
        """TiDB's version on the instance; that of the connected one where it is not known."""
        if self.kind is RouteKind.OWNER:
            return self.connection.version
        instance = self._instance()
        return (instance.version if instance else None) or self.connection.version

    def rights(self, *, deadline: float) -> None:
        """Fetch the privileges of this user, and note them."""
        self.pool.capabilities = replace(self.pool.capabilities, **rights(self.connection, deadline=deadline))

    def protected(self, users: Collection[str], *, deadline: float) -> frozenset[str]:
        """Return those of these users that security-enhanced mode may protect.

        Where the server does not say, all of them if TiDB would forward the KILL; on the instance itself TiDB checks.
        """
        if not self.pool.enhanced_security or not users:
            return frozenset()
        due, found = Deadline(deadline), set()
        try:
            if _OVER_THEM in granted(self.connection.query(query("grants"), deadline=deadline)):
                return frozenset()
            for user in users:
                if self.connection.query(query("protected"), {"user": user}, deadline=due.left).rows:
                    found.add(user)
        except ServerError:
            return frozenset(users if self.forwards else ())
        return frozenset(found)


def find_route(pool: Pool, location: Location, within: float) -> Route:
    """Return the best route to an instance: a connection to it, else forwarding through the connected one.

    Raises
    ------
    NoRouteError
        There is none, and why.
    """
    deadline, within = within, pool.monitor.grace(within)
    for attempt in (1, 2):
        connection = None
        try:
            connection = _connect(pool, location, within)
            if location.server is None:
                _prove(pool, connection, location, within, deadline)
            break
        except TidbMagicError as error:
            lost = connection is not None and not connection.open  # while it was not used
            slow = isinstance(error, DeadlineError) or (isinstance(error, ConnectTimeoutError) and error.greeted)
            if isinstance(error, ConnectTimeoutError) and error.accepted:
                slow = slow or not pool.monitor.others_respond(_name(pool, location), within)
            if attempt == 2 or not (lost or slow):
                return _forward(pool, location, within, error)
            if slow:
                within = PATIENCE * deadline
    assert connection is not None  # noqa: S101 (for mypy)
    where = pool.topology.instance_of(connection)  # also learns its name
    return Route(
        pool, location, connection, RouteKind.OWNER, connection.instance or location.name or where or str(location)
    )


def _connect(pool: Pool, location: Location, within: float) -> Connection:
    """Return a connection to the instance, by what the connection itself says."""
    due = Deadline(within)
    if location.server is not None and (kept := pool.idle_connection_on(location.server)):
        return kept
    instance = pool.topology.find(location.name, location.server)
    if instance is None and location.name is None:
        raise ConnectError(f"No registered instance has the {location}.")
    while True:
        connection = pool.connect_to(instance or Instance(str(location.name)), due.left)
        if location.server is None or (connection.id is not None and connection.id.server_id == location.server):
            return connection
        with suppress(TidbMagicError):  # it can be one to the process that ran there before, and lost
            connection.query(query("identify"), deadline=due.left, leave=True)
        if connection.open or due.passed:
            raise ConnectError(f"{connection.settings.address} leads to another server than {location}.")


def _forward(pool: Pool, location: Location, within: float, error: TidbMagicError) -> Route:
    able = pool.capabilities
    if location.server is None or not able.global_kill:
        state = "off" if able.global_kill is False else "unknown"
        reason = f"global kill is {state}, so only a connection that is verified to be on {location} may send it"
        raise NoRouteError(Outcome.REFUSED, f"{reason}: a KILL could hit another. {error}") from error
    name = _name(pool, location)
    accepted = isinstance(error, ConnectTimeoutError) and error.accepted
    if accepted or isinstance(error, DeadlineError) or (pool.monitor.degraded and name in pool.monitor.unresponsive):
        raise NoRouteError(Outcome.UNREACHABLE, f"{name} did not respond. {error}") from error
    try:
        main = pool.connection(within=within)
    except TidbMagicError as lost:
        raise NoRouteError(Outcome.UNREACHABLE, str(lost)) from lost
    return Route(pool, location, main, RouteKind.FORWARD, name)


def _name(pool: Pool, location: Location) -> str:
    """Return the INSTANCE of a location, as far as it is known."""
    instance = pool.topology.find(location.name, location.server)
    return location.name or (pool.topology.name(instance) if instance else str(location))


def _prove(pool: Pool, connection: Connection, location: Location, within: float, deadline: float) -> None:
    """Verify a connection's instance by the UUID of its process, or by a marker in the cluster's list.

    Without global kill nothing else is certain: two instances can advertise one address, and another cluster can use
    the same addresses. The list has the deadline, and each connection `within` seconds. A verified connection that no
    proxy can move stays verified until it is closed.

    Raises
    ------
    ConnectError
        It is on another instance, or that could not be verified.
    """
    if connection.proven == location.name and pool.topology.is_direct(connection):
        return
    due = Deadline(within)
    try:
        found = _where_is(pool, connection, due, deadline)
    except DeadlineError as error:
        raise ConnectError(f"That could not be verified: {error}") from error
    if found != [(location.name, connection.id)]:
        where = ", ".join(f"connection {number} on {name}" for name, number in found) or "nowhere"
        raise ConnectError(f"{connection.settings.address} leads elsewhere: the cluster's list has that one {where}.")
    connection.proven = location.name


def _where_is(pool: Pool, connection: Connection, due: Deadline, deadline: float) -> list[tuple[str, int]]:
    """Return INSTANCE and ID of a connection, as the cluster has them; none, or several, if it is not certain."""

    def ask(main: Connection, _: str | None, until: Deadline) -> list[Result]:
        column, mark = ("INFO", running(main)) if connection is main else ("SESSION_ALIAS", connection.alias)
        return [ask_marked(main, column, mark, deadline=until.left)]

    main = pool.connection(within=due.left)
    if name := process_of(connection, main, deadline=due.left):
        return [(name, int(connection.id or 0))]
    if connection is not main:
        if "SESSION_ALIAS" not in connection.columns:  # as on TiDB 6.5
            raise ConnectError("Its process is registered twice or not at all. Try again in a minute.")
        connection.query(query("identify"), deadline=due.left)  # else one that was lost is nowhere
    return each_once(ask_cluster(pool, ask, deadline)[0])
