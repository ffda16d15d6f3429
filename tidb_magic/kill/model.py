"""The targets of a kill, the sessions that were expected, and the outcomes. No I/O."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from tidb_magic.connection_id import ConnectionId
from tidb_magic.kill.parser import KillStatement
from tidb_magic.sessions.lookup import Observation, Session

_CUT = 4096  # characters that a statement has at least if its end was cut off
_EARLY, _SHORT = 0.01, 0.001  # seconds: how long before the best moment to look, and between two looks then
_TORN = 12  # characters that a cut within one can leave, as \xNN


class Outcome(StrEnum):
    """The result of a kill for one target, as observed: what the server answered does not count."""

    KILLED = "killed"  # the session is gone
    INTERRUPTED = "interrupted"  # its statement ended, the session lives
    STILL_RUNNING = "still running"  # sent and delivered; it did not end in time
    UNCONFIRMED = "unconfirmed"  # sent, then its instance stopped responding: it may still end
    ALREADY_GONE = "already gone"  # two looks found no such session; nothing sent
    CHANGED = "changed"  # it is not the expected session any more; nothing sent
    REFUSED = "refused"  # nothing sent
    UNREACHABLE = "unreachable"  # its instance did not answer; nothing sent
    FAILED = "failed"  # the server refused the KILL, or warned
    PLANNED = "planned"  # nothing sent: only a plan was requested


@dataclass(frozen=True)
class ExpectedSession:
    """A session as a list showed it. None is a value that is not compared.

    `runs` is whether it ran a statement and `info` which one; `txn_start` is '' where no transaction was open.
    `requested` is when the list was requested, by `sessions.lookup.clock`.
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
    """One connection ID of a kill, with the expected session, the latest observed one, and the outcome.

    `received` is when the answer with `session` arrived, and `sent` when its KILL was sent, by the monotonic clock;
    `seconds` is the time from the KILL to the proof of its effect. `absent` is when an observation first did not
    contain it. `proven` is whether the latest observation proved that it runs the expected statement. `audited` is
    whether its KILL was written to the audit file.
    """

    statement: KillStatement
    expected: ExpectedSession | None = None
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
        """Its INSTANCE, as far as it is known."""
        if self.session is not None:
            return self.session.instance
        return self.expected.instance if self.expected is not None else None

    def ended(self, outcome: Outcome, reason: str = "") -> Self:
        """Return it with its outcome."""
        return replace(self, outcome=outcome, reason=reason)


def changed(expected: ExpectedSession, now: Session) -> str | None:
    """Return how a session differs from the expected one, or None. The age of its statement is not compared.

    A reset connection loses the port of its HOST, and COM_CHANGE_USER changes its USER.
    """
    was = {
        "INSTANCE": (expected.instance, now.instance),
        "USER": (expected.user, now.user),
        "HOST": (expected.host, now.host),
    }
    for name, (before, after) in was.items():
        if before is not None and before != after:
            return f"its {name} was {before!r} and is {after!r}"
    if expected.runs is None:
        return None
    if expected.runs:
        if not now.runs:
            return "the statement that was seen has ended"
        same = expected.info is None or same_text(expected.info, now.info or "")
        return None if same else "it runs another statement"
    if expected.txn_start:
        return None if expected.txn_start == now.txn_start else "the transaction that was seen has ended"
    if now.runs or (expected.txn_start is not None and now.txn_start):
        return "it was idle and is active now"
    return None


def same_text(expected: str, now: str) -> bool:
    """Tell whether the texts are those of one statement; `now` ends after 16 KiB, `expected` can be whole.

    >>> same_text("SELECT 1 FROM t", "SELECT 1")
    False
    """
    return expected == now or (len(now) >= _CUT and expected.startswith(now[:-_TORN]))


def same_statement(requested: float, now: Session, observation: Observation) -> bool | None:
    """Tell whether the statement of a session began before a list was requested; None while TIME does not show it.

    TIME counts whole seconds from the beginning of a statement. One that began after the request can have reached at
    most the whole seconds from then until this answer, so a larger TIME proves that it is the same one. Measured on
    8.5.6: of 275 replaced statements of the same text this let none through; text, digest and user let all through.

    >>> from tidb_magic.sessions.lookup import Observation, Session
    >>> now = Session("a:1", 2, "ann", "b:3", "Query", 7, "", "SELECT 1", "")
    >>> [same_statement(0.0, now, Observation(requested=t, received=t + 0.1)) for t in (6.8, 7.0, 8.0)]
    [True, None, False]
    """
    if now.time > math.floor(observation.received - requested):
        return True
    return None if now.time >= math.floor(observation.requested - requested) else False


def until_provable(requested: float | None, observation: Observation, took: float) -> float:
    """Return the seconds until an observation can best prove that a statement is older than a list.

    That is just before a whole number of seconds since the request of the list: TIME of an older statement has changed
    by then. `took` is the time in seconds that an observation may take.

    >>> round(until_provable(0.0, Observation(requested=6.1, received=6.1), 0.0), 3)
    0.89
    """
    age = observation.received - (observation.requested if requested is None else requested)
    return max(math.ceil(age) - age - 3 * took - _EARLY, _SHORT)


def replaced(before: Session, received: float, now: Session, observation: Observation) -> bool:
    """Tell for certain that a session does not run any more what it ran when it was seen before."""
    if not now.runs or now.user != before.user or now.info != before.info:
        return True
    return now.time < before.time + math.floor(observation.requested - received)
