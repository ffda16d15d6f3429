"""What has to be known besides a look: rights, transactions, who is protected. Asked before the look that decides."""

import time
from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType

from tidb_magic.connection import Own
from tidb_magic.driver import time_left
from tidb_magic.link import Link
from tidb_magic.sessions import Look, Session, Transaction
from tidb_magic.verdicts import Scene
from tidb_magic.ways import Way

_ASKS = 3  # times that a session is asked for its transaction, while it begins a new one between every two looks


class Known:
    """What is known of a way and the sessions there. `ask` finds out what a look makes necessary."""

    def __init__(self, way: Way, link: Link, *, force: bool) -> None:
        self._way, self._link, self._force = way, link, force
        self._rights = False
        self._first = not way.forwards
        self._users: dict[str, bool] = {}  # whether security-enhanced mode may protect him
        self._asked: dict[int, list[str]] = {}  # TxnStart values of a session that were asked for
        self._transactions: dict[int, Transaction] = {}

    def prepare(self, sought: Collection[int], *, deadline: float) -> None:
        """Ask for the transactions before the first look, where that is cheap: on the instance itself."""
        if self._first:
            self._transactions |= self._way.transactions(sought, deadline=deadline)
            self._first = False

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
        if busy := [one for one in seen if self._must_ask(one)]:
            for one in busy:
                self._asked.setdefault(one.id, []).append(one.txn_start)
            found = self._way.transactions([one.id for one in busy], deadline=time_left(give_up))
            self._transactions |= found
            asked = True
        return asked

    def _must_ask(self, session: Session) -> bool:
        asked = self._asked.get(session.id, [])
        new = bool(session.txn_start) and self._transaction(session) is None and session.txn_start not in asked
        return new and len(asked) < _ASKS

    def _transaction(self, session: Session) -> Transaction | None:
        found = self._transactions.get(session.id)
        return found if found is not None and session.txn_start.endswith(f"({found.id})") else None

    def told(self, look: Look) -> Look:
        """Return a look with the transactions that are known."""
        sessions = {number: replace(one, transaction=self._transaction(one)) for number, one in look.sessions.items()}
        return replace(look, sessions=MappingProxyType(sessions))

    def scene(self) -> Scene:
        """Return what a verdict needs."""
        able = self._link.capabilities
        protected = frozenset(user for user, is_protected in self._users.items() if is_protected)
        own = Own.now(unique=bool(able.global_kill))
        return Scene(self._way.route, able, self._way.version, own, self._force, protected)
