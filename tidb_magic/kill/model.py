"""What a kill is about: whom somebody meant, as what he saw it, and what became of it. Pure: no I/O."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from tidb_magic.connection_id import ConnectionId
from tidb_magic.kill.parser import KillStatement
from tidb_magic.sessions.lookup import Look, Session

_CUT = 4096  # characters that a statement has at least if its end was cut off
_EARLY, _SHORT = 0.01, 0.001  # seconds: how long before the best moment to look, and between two looks then
_TORN = 12  # characters that a cut within one can leave, as \xNN


class Outcome(StrEnum):
    """What became of one target. Each is what was observed, never what the server answered."""

    KILLED = "killed"  # the session is gone
    INTERRUPTED = "interrupted"  # its statement ended, the session lives
    STILL_RUNNING = "still running"  # sent and delivered, not ended in time
    UNCONFIRMED = "unconfirmed"  # sent, then its instance fell silent: it may still happen
    ALREADY_GONE = "already gone"  # two looks found no such session; nothing sent
    CHANGED = "changed"  # it is not what was seen any more; nothing sent
    REFUSED = "refused"  # nothing sent
    UNREACHABLE = "unreachable"  # its instance did not answer; nothing sent
    FAILED = "failed"  # the server refused the KILL, or warned
    PLANNED = "planned"  # nothing sent: a plan was asked for


@dataclass(frozen=True)
class Seen:
    """A session as somebody saw it in a list; None is what he did not see.

    `runs` is whether it ran a statement, `info` which one, `txn_start` is '' where no transaction was open.
    `requested` is when the list was asked for, by `sessions.clock`.
    """

    instance: str | None = None
    user: str | None = None
    host: str | None = None
    runs: bool | None = None
    info: str | None = None
    txn_start: str | None = None
    requested: float | None = None


@dataclass(frozen=True)
class Target:
    """One id of a kill: whom somebody meant, what was seen of it, and what became of it.

    `received` is when `session` was seen, at the latest, and `sent` when its KILL was, by the monotonic clock;
    `seconds` are from KILL to proof. `absent` is when a look first did not find it. `proven` is whether the last
    look proved that it runs the very statement that was seen, `audited` whether the audit file has its KILL.
    """

    statement: KillStatement
    seen: Seen | None = None
    session: Session | None = None
    outcome: Outcome | None = None
    reason: str = ""
    warning: str = ""
    absent: float | None = None
    proven: bool = False
    audited: bool = False
    sent: float | None = None
    seconds: float | None = None
    received: float = 0.0

    @property
    def id(self) -> ConnectionId:
        """The connection id; 0 for CONNECTION_ID()."""
        return self.statement.connection_id or ConnectionId(0)

    @property
    def instance(self) -> str | None:
        """Where it is, as far as is known."""
        if self.session is not None:
            return self.session.instance
        return self.seen.instance if self.seen is not None else None

    def ended(self, outcome: Outcome, reason: str = "") -> Self:
        """Return it with its outcome."""
        return replace(self, outcome=outcome, reason=reason)


def changed(seen: Seen, now: Session) -> str | None:
    """Return what of a session is not any more as it was seen, or None. The statement's age is not compared.

    A reset connection loses the port of its HOST, and one that became another user's has another USER.
    """
    was = {
        "INSTANCE": (seen.instance, now.instance),
        "USER": (seen.user, now.user),
        "HOST": (seen.host, now.host),
    }
    for name, (before, after) in was.items():
        if before is not None and before != after:
            return f"its {name} was {before!r} and is {after!r}"
    if seen.runs is None:
        return None
    if seen.runs:
        if not now.runs:
            return "the statement that was seen has ended"
        same = seen.info is None or same_text(seen.info, now.info or "")
        return None if same else "it runs another statement"
    if seen.txn_start:
        return None if seen.txn_start == now.txn_start else "the transaction that was seen has ended"
    if now.runs or (seen.txn_start is not None and now.txn_start):
        return "it was idle and is at work"
    return None


def same_text(seen: str, now: str) -> bool:
    """Tell whether the texts are those of one statement; `now` ends after 16 KiB, `seen` can be whole.

    >>> same_text("SELECT 1 FROM t", "SELECT 1")
    False
    """
    return seen == now or (len(now) >= _CUT and seen.startswith(now[:-_TORN]))


def same_statement(requested: float, now: Session, look: Look) -> bool | None:
    """Tell whether what a session runs began before a list was requested; None while that is not to see.

    TIME counts whole seconds from the beginning of a statement. One that began after the request can have reached at
    most the whole seconds from then until the answer of this look, so more of them prove that it is the same. This let
    none of 275 replaced statements of the same text through (8.5.6, measured); text, digest and user let all.

    >>> from tidb_magic.sessions.lookup import Look, Session
    >>> now = Session("a:1", 2, "ann", "b:3", "Query", 7, "", "SELECT 1", "")
    >>> [same_statement(0.0, now, Look(requested=t, received=t + 0.1)) for t in (6.8, 7.0, 8.0)]
    [True, None, False]
    """
    if now.time > math.floor(look.received - requested):
        return True
    return None if now.time >= math.floor(look.requested - requested) else False


def to_proof(requested: float | None, look: Look, took: float) -> float:
    """Return the seconds until a look can best prove that a statement is older than a list.

    That is just before whole seconds have passed since its request: TIME of an older one has turned by then. `took` is
    the time in seconds that a look may take.

    >>> round(to_proof(0.0, Look(requested=6.1, received=6.1), 0.0), 3)
    0.89
    """
    age = look.received - (look.requested if requested is None else requested)
    return max(math.ceil(age) - age - 3 * took - _EARLY, _SHORT)


def replaced(before: Session, received: float, now: Session, look: Look) -> bool:
    """Tell for certain that a session does not run any more what it ran when it was seen before."""
    if not now.runs or now.user != before.user or now.info != before.info:
        return True
    return now.time < before.time + math.floor(look.requested - received)
