"""What has to be known besides a look: rights, transactions, who is protected. Asked before the look that decides."""

import time
from collections.abc import Collection

from tidb_magic.cluster.pool import Link
from tidb_magic.connection.driver import time_left
from tidb_magic.kill.checks import Scene
from tidb_magic.kill.routing import Way
from tidb_magic.sessions.lookup import Look


class Known:
    """What is known of a way and the sessions there. `ask` finds out what a look makes necessary."""

    def __init__(self, way: Way, link: Link, *, force: bool) -> None:
        self._way, self._link, self._force = way, link, force
        self._rights = False
        self._users: dict[str, bool] = {}  # whether security-enhanced mode may protect him
        self.closely = False  # whether a look has to bring the transactions

    def ask(self, look: Look, sought: Collection[int], *, plan: bool, deadline: float) -> bool:
        """Ask what is not known yet; tell whether anything was asked, which takes time.

        Raises
        ------
        DeadlineError, ConnectError, ServerError
        """
        give_up = time.monotonic() + deadline
        seen = [look.sessions[number] for number in sought if number in look.sessions]
        strangers = {one.user for one in seen} - {look.user}
        asked = False
        if not self._rights and (
            self._way.forwards
            or len(seen) < len(sought)  # is it gone, or not visible?
            or (strangers and (plan or not self._link.capabilities.kill_others))
        ):  # when a KILL is sent on the instance itself, the server checks
            self._way.rights(deadline=time_left(give_up))
            self._rights = asked = True
        if new := strangers - self._users.keys():
            protected = self._way.protected(new, deadline=time_left(give_up))
            self._users |= {user: user in protected for user in new}
            asked = asked or self._link.enhanced_security
        if any(one.txn_start for one in seen) and not self.closely:
            self.closely = asked = True  # by the next look
        return asked

    def scene(self) -> Scene:
        """Return what a verdict needs."""
        able = self._link.capabilities
        protected = frozenset(user for user, is_protected in self._users.items() if is_protected)
        return Scene(self._way.route, able, self._way.version, self._link.own(), self._force, protected)
