"""End sessions or their statements, and see that it happened: plan, check, send, verify.

Targets are grouped by their instances, and each group is worked on by a thread: it finds a way there, checks by one
look, sends what that allows, and looks again until each is proven or its time is over.
"""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace

from tidb_magic.audit import Audit
from tidb_magic.driver import time_left
from tidb_magic.errors import (
    AuditError,
    BusyError,
    ClosedError,
    ConnectError,
    DeadlineError,
    Interrupted,
    ServerError,
    TidbMagicError,
)
from tidb_magic.link import Link
from tidb_magic.places import Located, locate, located
from tidb_magic.queries import query
from tidb_magic.render import first_line
from tidb_magic.reports import KillReport, report
from tidb_magic.scenes import Known
from tidb_magic.sessions import ANYTHING, DEADLINE, Condition, Look, Session, clock, hint
from tidb_magic.targets import Outcome, Target, to_proof
from tidb_magic.verdicts import Scene, is_ddl, judge, proof, unproven
from tidb_magic.ways import NoWayError, Place, Way, find_way

TIMEOUT = 10.0  # seconds, from KILL to proof
MAX_VICTIMS = 50
_FRESH = 0.05  # seconds that KILLs are sent after the answer of a look, then there is another look
_PROVABLE = 1.1  # seconds in which TIME, in whole seconds, proves that a statement is the one that was seen
_AGAIN = 0.02  # seconds between two looks at what was not found
_POLL = (0.002, 0.25)  # seconds between two looks for the proof: the first, and the longest
_LEAST = 0.5  # seconds that a look gets, also at the end of the timeout
_THREADS = 32
_WAKE = (0.3, 4.0)  # seconds after Ctrl-C: for a thread to end by itself, and to end what it left on the server


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


def kill(  # noqa: PLR0913 (whom, how, and what is said of it)
    link: Link,
    targets: Sequence[Target],
    how: How,
    audit: Audit,
    *,
    condition: Condition = ANYTHING,
    remarks: Sequence[str] = (),
) -> KillReport:
    """End the targets and report what was seen to happen, or only plan it.

    `condition` is what a session must match still when it is sent, as SQL with its parameters.

    Raises
    ------
    AuditError
        The audit file cannot be written. Nothing was sent.
    Interrupted
        Ctrl-C. The message says what was sent and what is known of it.
    """
    link.check()
    wanted, said = list(dict.fromkeys(targets)), list(remarks)
    if len(wanted) > how.max_victims and not how.plan:
        how = replace(how, plan=True)
        said.append(
            f"Nothing was sent: {len(wanted):,} are more than max_victims ({how.max_victims:,})."
            f" --max-victims {len(wanted)} allows them."
        )
    audit.check()
    job = _Job(link, wanted, how, audit, condition)
    try:
        job.run()
        audit.ended(job.now.values(), plan=how.plan)
    except KeyboardInterrupt as error:
        raise Interrupted(job.interrupted(error)) from None
    except AuditError as error:
        said.append(str(error))
    finally:
        job.close()
    return report(list(job.now.values()), said)


class _Job:
    """One kill. `now` holds the newest state of each target, by its position."""

    def __init__(self, link: Link, targets: Sequence[Target], how: How, audit: Audit, condition: Condition) -> None:
        self.now = dict(enumerate(targets))
        self._link, self._how, self._audit, self._condition = link, how, audit, condition
        self._stop = threading.Event()
        self._work: dict[Future[None], list[Way]] = {}
        self._endings: dict[int, Future[str]] = {}  # of our own KILLs that nobody answered
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="tidb_magic-kill")

    def run(self) -> None:
        found, others = located(self._link, self.now)
        self._begin(found)
        if others:
            self._begin(locate(self._link, others, deadline=self._how.deadline))
        wait(self._work)
        for at, left in self._left().items():
            if self.now[at].outcome is Outcome.UNCONFIRMED:
                self.now[at] = replace(self.now[at], reason=f"{self.now[at].reason} {left}")

    def _left(self) -> dict[int, str]:
        """Return what of our own KILLs may still run on a server, or that it was ended."""
        wait(self._endings.values(), _WAKE[1])
        return {
            at: (ending.result() or "Our KILL was ended.") if ending.done() else "Our KILL may still run."
            for at, ending in self._endings.items()
        }

    def close(self) -> None:
        self._executor.shutdown(wait=False)

    def _begin(self, found: Located) -> None:
        self.now |= found.targets
        for place, positions in found.places.items():
            ways: list[Way] = []
            self._work[self._executor.submit(self._group, place, positions, ways)] = ways

    # -- one instance, in a thread -----------------------------------------------------------------------------

    def _group(self, place: Place, positions: Sequence[int], ways: list[Way]) -> None:
        try:
            self._check_again(place, positions, ways)
            if sent := [at for at in positions if self._sent(at)]:
                self._verify(place, sent, ways)
        except Exception as error:  # noqa: BLE001 (what became of the other sessions must not be lost)
            mistake = f"a mistake of tidb_magic itself: {type(error).__name__}: {error}"
            self._end(positions, Outcome.FAILED, mistake)
            for at in positions:
                if self._sent(at):
                    self.now[at] = self._timed(self.now[at].ended(Outcome.UNCONFIRMED, f"sent; then {mistake}"))

    def _check_again(self, place: Place, positions: Sequence[int], ways: list[Way]) -> None:
        give_up = time.monotonic() + self._how.deadline
        for attempt in (1, 2):
            try:
                ways.append(find_way(self._link, place, time_left(give_up)))
                self._check(ways[-1], positions, give_up)
            except NoWayError as error:
                self._end(positions, error.outcome, str(error))
            except ConnectError as error:  # a kept connection can have been lost while nobody used it
                if attempt == 1:
                    continue
                self._end(positions, Outcome.UNREACHABLE, str(error))
            except (DeadlineError, ServerError) as error:
                self._end(positions, Outcome.UNREACHABLE, f"its instance did not say what it does now. {error}")
            return

    def _undecided(self, at: int) -> bool:
        return self.now[at].outcome is None and self.now[at].sent is None

    def _sent(self, at: int) -> bool:
        return self.now[at].outcome is None and self.now[at].sent is not None

    def _end(self, positions: Sequence[int], outcome: Outcome, reason: str) -> None:
        for at in positions:
            if self._undecided(at):
                self.now[at] = self.now[at].ended(outcome, reason)

    def _check(self, way: Way, positions: Sequence[int], give_up: float) -> None:
        """Look until each target is decided, and send what may be sent right after the look that allowed it."""
        last = give_up + self._how.timeout
        known = Known(way, self._link, force=self._how.force)
        prove_by = math.inf
        while (waiting := [at for at in positions if self._undecided(at)]) and not self._stop.is_set():
            sent = [at for at in positions if self._sent(at)]
            ids = {self.now[at].id for at in (*waiting, *sent)}
            known.prepare(ids, deadline=time_left(give_up))
            look = way.look(ids, self._condition, deadline=time_left(min(give_up, last)))
            for at in sent:
                self.now[at] = self._outcome(self.now[at], look, "")
            prove_by = min(prove_by, look.received + _PROVABLE)
            sought = {self.now[at].id for at in waiting}
            asked = known.ask(look, sought, plan=self._how.plan, deadline=time_left(min(give_up, last)))
            if not asked:  # else that took time: look again
                self._decide(way, waiting, known.told(look), known.scene(), prove_by)
            give_up = time.monotonic() + self._how.deadline
            if give_up > last + self._how.deadline:
                self._end(waiting, Outcome.UNREACHABLE, "not sent in time: its instance answers too slowly")

    def _decide(self, way: Way, waiting: Sequence[int], look: Look, scene: Scene, prove_by: float) -> None:
        judged = {at: judge(self.now[at], look, scene) for at in waiting}
        allowed = {at: one for at, one in judged.items() if one.outcome is Outcome.PLANNED}
        if self._how.plan:
            allowed = {}
        self.now |= {at: one for at, one in judged.items() if at not in allowed}
        self._explain(way, waiting)
        if allowed:
            self._send(way, allowed, look.received + _FRESH)
            return
        doubtful = {at: self.now[at] for at in waiting if self._undecided(at) and self.now[at].absent is None}
        if look.received > prove_by:
            self.now |= {at: unproven(target) for at, target in doubtful.items()}
        pauses = [to_proof(target.seen.requested, look) for target in doubtful.values() if target.seen]
        self._stop.wait(min(pauses, default=_AGAIN))

    def _send(self, way: Way, allowed: Mapping[int, Target], until: float) -> None:
        """Send what a look allowed while it is fresh; there will be another look for the rest."""
        if new := {at: one for at, one in allowed.items() if not one.audited and self._audit.file}:
            try:
                self._audit.sending(new.values())
                self.now |= {at: replace(self.now[at], audited=True) for at in new}
            except AuditError as error:
                self._end(list(new), Outcome.REFUSED, str(error))
            return  # it took time
        for at, target in allowed.items():
            if self._stop.is_set() or clock() > until:
                return
            before = self.now[at]
            self.now[at] = replace(target, outcome=None, reason="", sent=clock())
            if not self._send_one(way, at, until):
                self.now[at] = before
                return

    def _send_one(self, way: Way, at: int, until: float) -> bool:
        """Send one KILL; tell whether it was sent."""
        target, within = self.now[at], min(self._how.timeout, self._how.deadline)
        try:
            warnings = way.send(target.statement.sql, deadline=within, patience=until - clock())
        except (BusyError, ClosedError):
            return False
        except ServerError as error:
            self.now[at] = self._timed(target.ended(Outcome.FAILED, str(error)))
        except (ConnectError, DeadlineError) as error:
            self._endings[at] = self._executor.submit(way.connection.end_statement)
            self.now[at] = replace(target, reason=f"sent, it may still happen. {error}")
        else:
            if warnings:
                failed = replace(target, warning=first_line(warnings[0])).ended(Outcome.FAILED, "TiDB warned")
                self.now[at] = self._timed(failed)
        return True

    @staticmethod
    def _timed(target: Target) -> Target:
        return target if target.sent is None else replace(target, seconds=clock() - target.sent)

    def _verify(self, place: Place, positions: Sequence[int], ways: list[Way]) -> None:
        """Look until each KILL that was sent is proven, or its time is over."""
        way, (pause, longest) = ways[-1], _POLL
        while (sent := [at for at in positions if self._sent(at)]) and not self._stop.is_set():
            began = min(self.now[at].sent or 0 for at in sent)
            within = min(self._how.deadline, max(self._how.timeout - (clock() - began), _LEAST))
            look, unseen = None, ""
            try:
                if not way.connection.open:
                    way = find_way(self._link, place, within)
                    ways.append(way)
                look = way.look({self.now[at].id for at in sent}, ANYTHING, deadline=within)
                unseen = f"{', '.join(look.missing)} did not answer." if look.missing else ""
            except TidbMagicError as error:
                unseen = str(error)
            for at in sent:
                self.now[at] = self._outcome(self.now[at], look, unseen)
            self._stop.wait(pause)
            pause = min(pause * 2, longest)
        self._explain(way, positions)

    def _outcome(self, target: Target, look: Look | None, unseen: str) -> Target:
        if look is not None and not unseen:
            target = proof(target, look, self._link.capabilities)
        if target.outcome is not None:
            return self._timed(target)
        if clock() - (target.sent or 0) < self._how.timeout:
            return target
        if unseen or target.reason:
            reason = " ".join(part for part in (target.reason or "sent, it may still happen.", unseen) if part)
            return self._timed(target.ended(Outcome.UNCONFIRMED, reason))
        what = "its statement" if target.statement.query else "the session"
        reason = f"sent and delivered, {what} did not end within {self._how.timeout:g} s"
        return self._timed(target.ended(Outcome.STILL_RUNNING, reason))

    def _explain(self, way: Way, positions: Sequence[int]) -> None:
        """Name the job of DDL that a KILL was refused for, or sent to."""
        for at in positions:
            target = self.now[at]
            told = target.outcome is Outcome.REFUSED or (target.sent is not None and target.outcome is not None)
            if told and target.session is not None and is_ddl(target.session):
                self.now[at] = replace(target, reason=_with_job(way, target, target.session))

    # -- Ctrl-C ------------------------------------------------------------------------------------------------

    def interrupted(self, error: KeyboardInterrupt) -> str:
        """Stop the threads, end what they left on the servers, and say what was sent and what is known of it."""
        self._stop.set()
        by_itself, at_most = _WAKE
        left: dict[int, str] = {}
        try:
            _, busy = wait(self._work, by_itself)
            for future in busy:
                for way in self._work[future]:
                    way.connection.close()
            wait(busy, at_most)
            left = self._left()
        except KeyboardInterrupt:  # a second one
            left[-1] = "What runs still was not waited for."
        said = [str(error)] if isinstance(error, Interrupted) else []
        known, not_sent = [], []
        for target in self.now.values():
            if target.outcome is None and target.sent is None:
                not_sent.append(str(int(target.id)))
                continue
            if target.outcome is None:
                said.append(f"{target.statement.sql} was sent, what came of it was not seen: look with %tidb_ps.")
                known.append(target.ended(Outcome.UNCONFIRMED, "interrupted before it was seen"))
            else:
                said.append(f"{int(target.id)}: {target.outcome}.")
                known.append(target)
        with suppress(AuditError):
            self._audit.ended(known, plan=self._how.plan)
        if not_sent:
            said.append(f"Nothing was sent for {', '.join(not_sent)}.")
        return " ".join([*said, *left.values()])


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
