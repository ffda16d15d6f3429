"""One instance of a kill: check by a look, send what it allows, look again until each KILL is proven or its time over.

The steps are pure where they decide (`checks`), and all of an instance's victims share a look.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from tidb_magic.cluster.pool import Link
from tidb_magic.connection.deadline import DEADLINE
from tidb_magic.connection.driver import hint, time_left
from tidb_magic.display.render import first_line
from tidb_magic.errors import (
    AuditError,
    BusyError,
    ClosedError,
    ConnectError,
    DeadlineError,
    ServerError,
    TidbMagicError,
)
from tidb_magic.kill.audit import Audit
from tidb_magic.kill.checks import Scene, is_ddl, judge, next_step, proof, unproven
from tidb_magic.kill.context import Known
from tidb_magic.kill.model import Outcome, Seen, Target, to_proof
from tidb_magic.kill.routing import NoWayError, Place, Way, find_way
from tidb_magic.queries import query
from tidb_magic.sessions.lookup import Condition, Look, Session, clock

TIMEOUT = 10.0  # seconds, from KILL to proof
MAX_VICTIMS = 50
_FRESH = 0.05  # seconds that KILLs are sent after the answer of a look, then there is another look
_AGAIN = 0.02  # seconds between two looks at what was not found
_POLL = (0.001, 0.25)  # seconds between two looks for the proof: the first, and the longest
_LEAST = 0.5  # seconds that a look gets, also at the end of the timeout


@dataclass(frozen=True)
class How:
    """How a kill is carried out.

    `timeout` is in seconds from each KILL to its proof, `deadline` in seconds for what comes before; `force` sends also
    where something better is known; more targets than `max_victims` are only planned; `plan` sends nothing.
    """

    timeout: float = TIMEOUT
    deadline: float = DEADLINE
    max_victims: int = MAX_VICTIMS
    force: bool = False
    plan: bool = False


@dataclass
class Job:
    """What the groups of a kill share.

    `now` holds the newest state of each target, by its position; `condition` is what a session must match still when
    its KILL is sent; `stop` ends all groups; `endings` are of our own KILLs that nobody answered, started by `end`.
    """

    link: Link
    now: dict[int, Target]
    how: How
    audit: Audit
    condition: Condition
    stop: threading.Event
    end: Callable[[Callable[[], str]], Future[str]]
    endings: dict[int, Future[str]]


class Group:
    """The targets of one instance, worked on in a thread. `ways` are all that were found to it."""

    def __init__(self, job: Job, place: Place, positions: Sequence[int]) -> None:
        self._job, self._place, self._positions = job, place, positions
        self._link, self._how, self._now, self._stop = job.link, job.how, job.now, job.stop
        self._prove_by = math.inf  # when to give up on statements that no look proves to be those that were seen
        self._slowest = 0.0  # seconds that a look took
        self.ways: list[Way] = []

    def run(self) -> None:
        """Bring each target to its outcome."""
        try:
            self._check_on_a_way()
            self._verify()
        except Exception as error:  # noqa: BLE001 (what became of the other sessions must not be lost)
            mistake = f"a mistake of tidb_magic itself: {type(error).__name__}: {error}"
            self._end(self._positions, Outcome.FAILED, mistake)
            for at in self._unproven():
                self._now[at] = _timed(self._now[at].ended(Outcome.UNCONFIRMED, f"sent; then {mistake}"))

    def _undecided(self) -> list[int]:
        return [at for at in self._positions if self._now[at].outcome is None and self._now[at].sent is None]

    def _unproven(self) -> list[int]:
        return [at for at in self._positions if self._now[at].outcome is None and self._now[at].sent is not None]

    def _end(self, positions: Sequence[int], outcome: Outcome, reason: str) -> None:
        for at in set(positions) & set(self._undecided()):
            target = self._now[at]
            self._now[at] = replace(target, seen=target.seen or Seen(self._place.name)).ended(outcome, reason)

    def _silent(self) -> str:
        if self.ways and self.ways[-1].forwards:
            return f"{self._place} did not answer through {self.ways[-1].connection.settings.address}."
        return f"{self._place} did not answer on an open connection: it is frozen or overloaded."

    # -- before the KILL ---------------------------------------------------------------------------------------

    def _check_on_a_way(self) -> None:
        give_up = time.monotonic() + self._how.deadline
        for attempt in (1, 2):
            try:
                self.ways.append(find_way(self._link, self._place, time_left(give_up)))
                give_up = time.monotonic() + self._how.deadline
                self._check(self.ways[-1], give_up)
            except TidbMagicError as error:
                if isinstance(error, ConnectError) and attempt == 1 and not self._stop.is_set():
                    continue  # a kept connection can have been lost while it was not used
                self._not_checked(error)
            return

    def _not_checked(self, error: TidbMagicError) -> None:
        if self._stop.is_set():
            return  # Ctrl-C closed the connection
        outcome, reason = Outcome.UNREACHABLE, str(error)
        if isinstance(error, NoWayError):
            outcome = error.outcome
        elif isinstance(error, DeadlineError | ServerError):
            reason = f"{self._silent()} {error}"
        self._end(self._positions, outcome, reason)

    def _check(self, way: Way, give_up: float) -> None:
        """Look until each target is decided, and send what may be sent right after the look that allowed it."""
        last = give_up + self._how.timeout
        known = Known(way, self._link, force=self._how.force)
        while (waiting := self._undecided()) and not self._stop.is_set():
            sent = self._unproven()
            ids = {self._now[at].id for at in (*waiting, *sent)}
            condition, within = self._job.condition, time_left(give_up)
            look = way.look(ids, condition, closely=known.closely, patient=True, deadline=within)
            for at in sent:
                self._now[at] = self._outcome(self._now[at], look, "")
            self._prove_by = min(self._prove_by, look.received + self._how.timeout)
            self._slowest = max(self._slowest, look.received - look.requested)
            sought = {self._now[at].id for at in waiting}
            asked = known.ask(look, sought, plan=self._how.plan, deadline=time_left(give_up))
            if not asked:  # else that took time: look again
                self._decide(way, waiting, look, known.scene())
            give_up = min(time.monotonic() + self._how.deadline, last)
            if time.monotonic() > last:
                self._end(waiting, Outcome.UNREACHABLE, "not sent in time: its instance answers too slowly")

    def _decide(self, way: Way, waiting: Sequence[int], look: Look, scene: Scene) -> None:
        judged = {at: judge(self._now[at], look, scene) for at in waiting}
        allowed = {at: one for at, one in judged.items() if one.outcome is Outcome.PLANNED}
        if self._how.plan:
            allowed = {}
        self._now |= {at: one for at, one in judged.items() if at not in allowed}
        if allowed:
            self._send(way, allowed, look.received + _FRESH)
        self._explain(way, waiting)
        if allowed or not self._undecided():
            return
        doubtful = {
            at: self._now[at] for at in waiting if self._now[at].outcome is None and self._now[at].absent is None
        }
        if look.received > self._prove_by:
            self._now |= {at: unproven(target) for at, target in doubtful.items()}
        pauses = [to_proof(target.seen.requested, look, self._slowest) for target in doubtful.values() if target.seen]
        self._stop.wait(min(pauses, default=_AGAIN))

    def _send(self, way: Way, allowed: Mapping[int, Target], until: float) -> None:
        """Send what a look allowed while it is fresh; there will be another look for the rest."""
        if new := {at: one for at, one in allowed.items() if not one.audited and self._job.audit.file}:
            try:
                self._job.audit.sending(new.values())
                self._now |= {at: replace(self._now[at], audited=True) for at in new}
            except AuditError as error:
                self._end(list(new), Outcome.REFUSED, str(error))
            return  # it took time
        for at, target in allowed.items():
            if self._stop.is_set() or clock() > until:
                return
            before = self._now[at]
            self._now[at] = replace(target, outcome=None, reason="", sent=clock())
            if not self._send_one(way, at, until):
                self._now[at] = before
                return

    def _send_one(self, way: Way, at: int, until: float) -> bool:
        """Send one KILL; tell whether it was sent."""
        target, within = self._now[at], min(self._how.timeout, self._how.deadline)
        try:
            warnings = way.send(target.statement.sql, deadline=within, patience=until - clock())
        except (BusyError, ClosedError):
            return False
        except ServerError as error:
            self._now[at] = _timed(target.ended(Outcome.FAILED, str(error)))
        except (ConnectError, DeadlineError) as error:
            self._job.endings[at] = self._job.end(way.connection.end_statement)
            self._now[at] = replace(target, reason=f"sent, it may still happen. {error}")
        else:
            if warnings:
                failed = replace(target, warning=first_line(warnings[0])).ended(Outcome.FAILED, "TiDB warned")
                self._now[at] = _timed(failed)
        return True

    # -- after it ----------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Look until each KILL that was sent is proven, or its time is over."""
        pause, longest = _POLL
        while (sent := self._unproven()) and not self._stop.is_set():
            began = min(self._now[at].sent or 0 for at in sent)
            within = min(self._how.deadline, max(self._how.timeout - (clock() - began), _LEAST))
            way, look, unseen = self.ways[-1], None, ""
            try:
                if not way.connection.open:
                    way = find_way(self._link, self._place, within)
                    self.ways.append(way)
                look = way.look({self._now[at].id for at in sent}, deadline=within)
                unseen = f"{', '.join(look.missing)} did not answer." if look.missing else ""
            except TidbMagicError as error:
                unseen = str(error)
            for at in sent:
                self._now[at] = self._outcome(self._now[at], look, unseen)
            if self._unproven():
                self._stop.wait(pause)
                pause = min(pause * 2, longest)
        if self.ways:
            self._explain(self.ways[-1], self._positions)

    def _outcome(self, target: Target, look: Look | None, unseen: str) -> Target:
        if look is not None and not unseen:
            target = proof(target, look, self._link.capabilities)
        if target.outcome is not None:
            return _timed(target)
        if clock() - (target.sent or 0) < self._how.timeout:
            return target
        if unseen or target.reason:
            reason = " ".join(part for part in (target.reason or "sent, it may still happen.", unseen) if part)
            return _timed(target.ended(Outcome.UNCONFIRMED, reason))
        what = "its statement" if target.statement.query else "the session"
        reason = f"sent and delivered, {what} did not end within {self._how.timeout:g} s"
        if target.session is not None:
            reason = f"{reason}; {next_step(target.session, query=target.statement.query)}"
        return _timed(target.ended(Outcome.STILL_RUNNING, reason))

    def _explain(self, way: Way, positions: Sequence[int]) -> None:
        """Name the job of DDL that a KILL was refused for, or sent to."""
        for at in positions:
            target = self._now[at]
            told = target.outcome is Outcome.REFUSED or (target.sent is not None and target.outcome is not None)
            if told and target.session is not None and is_ddl(target.session):
                self._now[at] = replace(target, reason=_with_job(way, target, target.session))


def _timed(target: Target) -> Target:
    return target if target.sent is None else replace(target, seconds=clock() - target.sent)


def _with_job(way: Way, target: Target, session: Session) -> str:
    """Return the reason with what became of the DDL job, if that is to be found."""
    try:
        args = {"sql": session.info, "milliseconds": hint(1)}
        jobs = way.connection.query(query("ddl_jobs"), args, deadline=1).rows
    except TidbMagicError:
        return target.reason
    if not jobs:
        return target.reason
    number, state = jobs[0]
    if target.outcome is Outcome.REFUSED:
        return target.reason.replace(
            "ADMIN SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS", f"ADMIN CANCEL DDL JOBS {number}"
        )
    return "; ".join(part for part in (target.reason, f"its DDL job {number} is {state}") if part)
