"""What a check needs besides the observation: privileges, transactions, protected users."""

from collections.abc import Collection

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.deadline import Deadline
from tidb_magic.kill.checks import KillContext
from tidb_magic.kill.routing import Route
from tidb_magic.sessions.lookup import Observation


class ContextReader:
    """Collects the context of the checks on one route. `read` fetches what an observation makes necessary."""

    def __init__(self, route: Route, pool: Pool, *, force: bool) -> None:
        self._route, self._pool, self._force = route, pool, force
        self._rights = False
        self._users: dict[str, bool] = {}  # whether security-enhanced mode may protect the user
        self.with_transactions = False  # whether an observation needs the transactions

    def read(self, observation: Observation, sought: Collection[int], *, plan: bool, deadline: float) -> bool:
        """Fetch what is not known yet. Return whether anything was fetched: then the observation is too old.

        Raises
        ------
        DeadlineError, ConnectError, ServerError
        """
        due = Deadline(deadline)
        seen = [observation.sessions[number] for number in sought if number in observation.sessions]
        strangers = {one.user for one in seen} - {observation.user}
        asked = False
        if not self._rights and (
            self._route.forwards
            or len(seen) < len(sought)  # is it gone, or not visible?
            or (strangers and (plan or not self._pool.capabilities.kill_others))
        ):  # when a KILL is sent on the instance itself, the server checks
            self._route.rights(deadline=due.left)
            self._rights = asked = True
        if new := strangers - self._users.keys():
            protected = self._route.protected(new, deadline=due.left)
            self._users |= {user: user in protected for user in new}
            asked = asked or self._pool.enhanced_security
        if any(one.txn_start for one in seen) and not self.with_transactions:
            self.with_transactions = asked = True  # by the next observation
        return asked

    def context(self) -> KillContext:
        """Return the context of the checks."""
        able = self._pool.capabilities
        protected = frozenset(user for user, is_protected in self._users.items() if is_protected)
        return KillContext(self._route.kind, able, self._route.version, self._pool.own(), self._force, protected)
