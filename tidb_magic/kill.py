"""End sessions or their statements, and see that it happened: plan, check, send, verify.

Targets are grouped by their instances, and each group is worked on by a thread: it finds a way there, checks by one
look, sends what that allows, and looks again until each is proven or its time is over.
"""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

from tidb_magic.audit import Audit
from tidb_magic.driver import time_left
from tidb_magic.errors import AuditError, ConnectError, DeadlineError, Interrupted, ServerError, TidbMagicError
from tidb_magic.link import Link
from tidb_magic.places import locate
from tidb_magic.queries import query
from tidb_magic.render import first_line
from tidb_magic.reports import KillReport, report
from tidb_magic.sessions import DEADLINE, Look, Session, hint
from tidb_magic.targets import Outcome, Target
from tidb_magic.verdicts import Scene, is_ddl, judge, proof, unproven
from tidb_magic.ways import NoWayError, Place, Way, find_way

TIMEOUT = 10.0  # seconds, from KILL to proof
MAX_VICTIMS = 50
_FRESH = 0.025  # seconds that KILLs are sent after a look, then there is another look
_PROVABLE = 1.1  # seconds in which TIME, in whole seconds, proves that a statement is the one that was seen
_AGAIN = 0.02  # seconds between two such looks
_POLL = (0.002, 0.25)  # seconds between two looks for the proof: the first, and the longest
_LEAST = 0.5  # seconds that a look gets, also at the end of the timeout
_THREADS = 32
_WAKE = (0.3, 4.0)  # seconds after Ctrl-C: for a thread to end by itself, and to end what it left on the server

Condition = tuple[str, Mapping[str, object]]
ANYTHING: Condition = ("TRUE", MappingProxyType({}))


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
    return report(list(job.now.values()), said)


class _Job:
    """One kill. `now` holds the newest state of each target, by its position."""

    def __init__(self, link: Link, targets: Sequence[Target], how: How, audit: Audit, condition: Condition) -> None:
        self.now = dict(enumerate(targets))
        self._link, self._how, self._audit, self._condition = link, how, audit, condition
        self._stop = threading.Event()
        self._work: dict[Future[None], list[Way]] = {}
        self._left: list[str] = []  # what of ours may still run on a server

    def run(self) -> None:
        located = locate(self._link, self.now, deadline=self._how.deadline)
        self.now |= located.targets
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="tidb_magic-kill")
        try:
            for place, positions in located.places.items():
                ways: list[Way] = []
                self._work[executor.submit(self._group, place, positions, ways)] = ways
            wait(self._work)
            for future in self._work:
                future.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    # -- one instance, in a thread -----------------------------------------------------------------------------

    def _group(self, place: Place, positions: Sequence[int], ways: list[Way]) -> None:
        give_up = time.monotonic() + self._how.deadline
        for attempt in (1, 2):
            try:
                ways.append(find_way(self._link, place, time_left(give_up)))
                self._check(ways[-1], positions, give_up)
                break
            except NoWayError as error:
                self._end(positions, error.outcome, str(error))
            except ConnectError as error:  # a kept connection can have been lost while nobody used it
                if attempt == 2:
                    self._end(positions, Outcome.UNREACHABLE, str(error))
            except (DeadlineError, ServerError) as error:
                self._end(positions, Outcome.UNREACHABLE, f"its instance did not say what it does now. {error}")
        if sent := [at for at in positions if self._sent(at)]:
            self._verify(place, sent, ways)

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
        prove_by = time.monotonic() + _PROVABLE
        while (waiting := [at for at in positions if self._undecided(at)]) and not self._stop.is_set():
            ids = {self.now[at].id for at in waiting}
            look = way.look(ids, self._condition, deadline=time_left(give_up), closely=True)
            scene = self._scene(way, look, ids, give_up)
            judged = {at: judge(self.now[at], look, scene) for at in waiting}
            allowed = {at: one for at, one in judged.items() if one.outcome is Outcome.PLANNED}
            self.now |= judged if self._how.plan else {at: one for at, one in judged.items() if at not in allowed}
            if allowed and not self._how.plan:
                self._send(way, allowed)
            else:
                self._explain(way, waiting)
                self._wait_for_proof(waiting, prove_by)
            give_up = time.monotonic() + self._how.deadline

    def _scene(self, way: Way, look: Look, ids: Collection[int], give_up: float) -> Scene:
        """Ask for the rights anew unless the instance itself checks them, as it does when a KILL is sent there."""
        able = self._link.capabilities
        strangers = {one.user for one in look.sessions.values()} - {look.user}
        if way.forwards or ids - look.sessions.keys() or (strangers and (self._how.plan or not able.kill_others)):
            able = way.rights(deadline=time_left(give_up))
        protected = way.protected(strangers, deadline=time_left(give_up))
        return Scene(way.route, able, way.version, self._how.force, protected)

    def _wait_for_proof(self, waiting: Sequence[int], prove_by: float) -> None:
        doubtful = [at for at in waiting if self._undecided(at) and not self.now[at].absences]
        if time.monotonic() < prove_by:
            self._stop.wait(_AGAIN if doubtful else 0)
            return
        for at in doubtful:
            self.now[at] = unproven(self.now[at])

    def _send(self, way: Way, allowed: Mapping[int, Target]) -> None:
        until = time.monotonic() + _FRESH
        for at, target in allowed.items():
            if self._stop.is_set() or time.monotonic() > until:
                return  # there will be another look
            try:
                self._audit.sending([target])
            except AuditError as error:
                self.now[at] = target.ended(Outcome.REFUSED, str(error))
                continue
            self.now[at] = replace(target, outcome=None, reason="", sent=time.monotonic())
            self._send_one(way, at)

    def _send_one(self, way: Way, at: int) -> None:
        target = self.now[at]
        try:
            warnings = way.send(target.statement.sql, deadline=min(self._how.timeout, self._how.deadline))
        except ServerError as error:
            self.now[at] = self._timed(target.ended(Outcome.FAILED, str(error)))
        except (ConnectError, DeadlineError) as error:
            said = str(error)
            if self._stop.is_set() and (left := way.connection.end_statement()):
                self._left.append(left)
            self.now[at] = replace(target, reason=f"sent, it may still happen. {said}")
        else:
            if warnings:
                failed = replace(target, warning=first_line(warnings[0])).ended(Outcome.FAILED, "TiDB warned")
                self.now[at] = self._timed(failed)

    @staticmethod
    def _timed(target: Target) -> Target:
        return target if target.sent is None else replace(target, seconds=time.monotonic() - target.sent)

    def _verify(self, place: Place, positions: Sequence[int], ways: list[Way]) -> None:
        """Look until each KILL that was sent is proven, or its time is over."""
        way, (pause, longest) = ways[-1], _POLL
        while (sent := [at for at in positions if self._sent(at)]) and not self._stop.is_set():
            began = min(self.now[at].sent or 0 for at in sent)
            within = min(self._how.deadline, max(self._how.timeout - (time.monotonic() - began), _LEAST))
            look, unseen = None, ""
            try:
                if not way.connection.open:
                    way = find_way(self._link, place, within)
                    ways.append(way)
                look = way.look({self.now[at].id for at in sent}, ANYTHING, deadline=within, closely=False)
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
        spent = time.monotonic() - (target.sent or 0)
        if target.outcome is not None or spent < self._how.timeout:
            return self._timed(target) if target.outcome is not None else target
        if unseen or target.reason:
            said = unseen or target.reason
            reason = said if said.startswith("sent") else f"sent, it may still happen. {said}"
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
        try:
            _, busy = wait(self._work, by_itself)
            for future in busy:
                for way in self._work[future]:
                    way.connection.close()
            wait(busy, at_most)
        except KeyboardInterrupt:  # a second one
            self._left.append("What runs still was not waited for.")
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
        return " ".join([*said, *self._left])


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
