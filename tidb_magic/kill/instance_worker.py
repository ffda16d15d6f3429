"""The part of a kill on one instance: observe, check, send, and observe until each KILL is verified or its time over.

One statement fetches all targets of the instance. `checks` decides, without I/O.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.cleanup import end_statement
from tidb_magic.connection.connection import with_reconnect
from tidb_magic.connection.deadline import DEADLINE, PATIENCE, Deadline, hint
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
from tidb_magic.kill.checks import KillContext, check, is_ddl, next_step, unverified, verify, with_job
from tidb_magic.kill.context import ContextReader
from tidb_magic.kill.model import ExpectedSession, Outcome, Target, until_provable
from tidb_magic.kill.routing import Location, NoRouteError, Route, find_route
from tidb_magic.queries import query
from tidb_magic.sessions.lookup import Condition, Observation, Session, clock

TIMEOUT = 10.0  # seconds, from KILL to proof
MAX_VICTIMS = 50
_FRESH = 0.05  # seconds for which KILLs are sent after an observation; then the sessions are observed again
_AGAIN = 0.02  # seconds between two observations of a session that was not found
_POLL = (0.001, 0.25)  # seconds between two observations for the proof: the first, and the longest
_LEAST = 0.5  # seconds that an observation gets, also at the end of the timeout


@dataclass(frozen=True)
class KillOptions:
    """The options of a kill.

    `timeout` is the seconds from each KILL to the proof of its effect, `deadline` the seconds for each step before it.
    `force` sends also where a better way is known. More targets than `max_victims` are only planned. `plan` sends
    nothing.
    """

    timeout: float = TIMEOUT
    deadline: float = DEADLINE
    max_victims: int = MAX_VICTIMS
    force: bool = False
    plan: bool = False


@dataclass
class KillJob:
    """What the workers of a kill share.

    `targets` holds the newest state of each target, by its position. `condition` must still match a session when its
    KILL is sent. `stop` ends all workers. `endings` end our own KILLs that were not answered; `end` starts them.
    """

    pool: Pool
    targets: dict[int, Target]
    options: KillOptions
    audit: Audit
    condition: Condition
    stop: threading.Event
    end: Callable[[Callable[[], str]], Future[str]]
    endings: dict[int, Future[str]]


class InstanceWorker:
    """Works on the targets of one instance in a thread. `routes` are all that were found to it."""

    def __init__(self, job: KillJob, location: Location, positions: Sequence[int]) -> None:
        self._job, self._location, self._positions = job, location, positions
        self._pool, self._options, self._targets, self._stop = job.pool, job.options, job.targets, job.stop
        self._prove_by = math.inf  # when to give up on statements that are not proven to be the expected ones
        self._slowest = 0.0  # seconds that an observation took
        self.routes: list[Route] = []

    def run(self) -> None:
        """Bring each target to its outcome."""
        try:
            self._check_on_a_route()
            self._verify()
        except Exception as error:  # noqa: BLE001 (what became of the other sessions must not be lost)
            mistake = f"an internal error of tidb_magic: {type(error).__name__}: {error}"
            self._end(self._positions, Outcome.FAILED, mistake)
            for at in self._unproven():
                self._targets[at] = _timed(self._targets[at].ended(Outcome.UNCONFIRMED, f"sent; then {mistake}"))

    def _undecided(self) -> list[int]:
        return [at for at in self._positions if self._targets[at].outcome is None and self._targets[at].sent is None]

    def _unproven(self) -> list[int]:
        return [
            at for at in self._positions if self._targets[at].outcome is None and self._targets[at].sent is not None
        ]

    def _end(self, positions: Sequence[int], outcome: Outcome, reason: str) -> None:
        for at in set(positions) & set(self._undecided()):
            target = self._targets[at]
            self._targets[at] = replace(target, expected=target.expected or ExpectedSession(self._location.name)).ended(
                outcome, reason
            )

    def _silent(self) -> str:
        if self.routes and self.routes[-1].forwards:
            return f"{self._location} did not answer through {self.routes[-1].connection.settings.address}."
        return f"{self._location} did not answer on an open connection: it is frozen or overloaded."

    # -- before the KILL ---------------------------------------------------------------------------------------

    def _check_on_a_route(self) -> None:
        due = Deadline(self._options.deadline)

        def check_once() -> None:
            nonlocal due
            if not self._stop.is_set():
                self.routes.append(find_route(self._pool, self._location, due.left))
                due = Deadline(self._options.deadline)  # also for another route, if this one is lost
                self._check(self.routes[-1], due)

        try:
            with_reconnect(check_once)
        except TidbMagicError as error:
            self._not_checked(error)

    def _not_checked(self, error: TidbMagicError) -> None:
        if self._stop.is_set():
            return  # Ctrl-C closed the connection
        outcome, reason = Outcome.UNREACHABLE, str(error)
        if isinstance(error, NoRouteError):
            outcome = error.outcome
        elif isinstance(error, DeadlineError | ServerError):
            reason = f"{self._silent()} {error}"
        self._end(self._positions, outcome, reason)

    def _check(self, route: Route, due: Deadline) -> None:
        """Observe until each target is decided; send each allowed KILL right after the observation that allowed it."""
        last = Deadline(due.left + self._options.timeout)
        reader = ContextReader(route, self._pool, force=self._options.force)
        while (waiting := self._undecided()) and not self._stop.is_set():
            sent = self._unproven()
            ids = {self._targets[at].id for at in (*waiting, *sent)}
            condition, within = self._job.condition, due.left
            observation = route.observe(
                ids,
                condition,
                with_transactions=reader.with_transactions,
                deadline=within,
                at_most=PATIENCE * within,
            )
            for at in sent:
                self._targets[at] = self._outcome(self._targets[at], observation, "")
            self._prove_by = min(self._prove_by, observation.received + self._options.timeout)
            self._slowest = max(self._slowest, observation.received - observation.requested)
            sought = {self._targets[at].id for at in waiting}
            fetched = reader.read(observation, sought, plan=self._options.plan, deadline=due.left)
            if not fetched:  # else that took time: observe again
                self._decide(route, waiting, observation, reader.context())
            due = Deadline(min(self._options.deadline, last.left))
            if last.passed:
                self._end(waiting, Outcome.UNREACHABLE, "not sent in time: its instance responds too slowly")

    def _decide(self, route: Route, waiting: Sequence[int], observation: Observation, context: KillContext) -> None:
        judged = {at: check(self._targets[at], observation, context) for at in waiting}
        allowed = {at: one for at, one in judged.items() if one.outcome is Outcome.PLANNED}
        if self._options.plan:
            allowed = {}
        self._targets |= {at: one for at, one in judged.items() if at not in allowed}
        if allowed:
            self._send(route, allowed, observation.received + _FRESH)
        self._explain(route, waiting)
        if allowed or not self._undecided():
            return
        doubtful = {
            at: self._targets[at]
            for at in waiting
            if self._targets[at].outcome is None and self._targets[at].absent is None
        }
        if observation.received > self._prove_by:
            self._targets |= {at: unverified(target) for at, target in doubtful.items()}
        pauses = [
            until_provable(target.expected.requested, observation, self._slowest)
            for target in doubtful.values()
            if target.expected
        ]
        self._stop.wait(min(pauses, default=_AGAIN))

    def _send(self, route: Route, allowed: Mapping[int, Target], until: float) -> None:
        """Send the allowed KILLs while the observation is fresh; the rest is observed again."""
        if new := {at: one for at, one in allowed.items() if not one.audited and self._job.audit.file}:
            try:
                self._job.audit.sending(new.values())
                self._targets |= {at: replace(self._targets[at], audited=True) for at in new}
            except AuditError as error:
                self._end(list(new), Outcome.REFUSED, str(error))
            return  # it took time
        for at, target in allowed.items():
            if self._stop.is_set() or clock() > until:
                return
            before = self._targets[at]
            self._targets[at] = replace(target, outcome=None, reason="", sent=clock())
            if not self._send_one(route, at, until):
                self._targets[at] = before
                return

    def _send_one(self, route: Route, at: int, until: float) -> bool:
        """Send one KILL. Return whether it was sent."""
        target, timeout = self._targets[at], self._options.timeout
        within = min(timeout, self._options.deadline)
        try:
            warnings = route.send(target.statement.sql, deadline=within, at_most=timeout, patience=until - clock())
        except (BusyError, ClosedError):
            return False
        except ServerError as error:
            self._targets[at] = _timed(target.ended(Outcome.FAILED, str(error)))
        except (ConnectError, DeadlineError) as error:
            self._job.endings[at] = self._job.end(partial(end_statement, route.connection))
            self._targets[at] = replace(target, reason=f"sent; it may still take effect. {error}")
        else:
            if warnings:
                failed = replace(target, warning=first_line(warnings[0])).ended(Outcome.FAILED, "TiDB warned")
                self._targets[at] = _timed(failed)
        return True

    # -- after it ----------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Observe until each KILL that was sent is verified, or its time is over."""
        pause, longest = _POLL
        while (sent := self._unproven()) and not self._stop.is_set():
            began = min(self._targets[at].sent or 0 for at in sent)
            left = max(self._options.timeout - (clock() - began), _LEAST)
            within = min(self._options.deadline, left)
            route, observation, unseen = self.routes[-1], None, ""
            try:
                if not route.connection.open:
                    route = find_route(self._pool, self._location, within)
                    self.routes.append(route)
                observation = route.observe({self._targets[at].id for at in sent}, deadline=within, at_most=left)
                unseen = f"{', '.join(observation.missing)} did not answer." if observation.missing else ""
            except TidbMagicError as error:
                unseen = str(error)
            for at in sent:
                self._targets[at] = self._outcome(self._targets[at], observation, unseen)
            if self._unproven():
                self._stop.wait(pause)
                pause = min(pause * 2, longest)
        if self.routes:
            self._explain(self.routes[-1], self._positions)

    def _outcome(self, target: Target, observation: Observation | None, unseen: str) -> Target:
        if observation is not None and not unseen:
            target = verify(target, observation, self._pool.capabilities)
        if target.outcome is not None:
            return _timed(target)
        if clock() - (target.sent or 0) < self._options.timeout:
            return target
        if unseen or target.reason:
            reason = " ".join(part for part in (target.reason or "sent; it may still take effect.", unseen) if part)
            return _timed(target.ended(Outcome.UNCONFIRMED, reason))
        what = "its statement" if target.statement.query else "the session"
        reason = f"sent and delivered; {what} did not end within {self._options.timeout:g} s"
        if target.session is not None:
            reason = f"{reason}; {next_step(target.session, query=target.statement.query)}"
        return _timed(target.ended(Outcome.STILL_RUNNING, reason))

    def _explain(self, route: Route, positions: Sequence[int]) -> None:
        """Add the DDL job to the reason where a KILL was refused for DDL, or sent to it."""
        for at in positions:
            target = self._targets[at]
            reported = target.outcome is Outcome.REFUSED or (target.sent is not None and target.outcome is not None)
            if reported and target.session is not None and is_ddl(target.session):
                self._targets[at] = _with_job(route, target, target.session)


def _timed(target: Target) -> Target:
    return target if target.sent is None else replace(target, seconds=clock() - target.sent)


def _with_job(route: Route, target: Target, session: Session) -> Target:
    """Return the target with the DDL job of its session in the reason, if that can be read."""
    try:
        args = {"sql": session.info, "milliseconds": hint(1)}
        jobs = route.connection.query(query("ddl_jobs"), args, deadline=1).rows
    except TidbMagicError:
        return target
    return with_job(target, *jobs[0]) if jobs else target
