"""Asks every instance separately, each in a thread of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tidb_magic.cluster.pool import Pool
from tidb_magic.cluster.topology import Instance
from tidb_magic.connection.cleanup import end_statement
from tidb_magic.connection.connection import Connection, with_reconnect
from tidb_magic.connection.deadline import PATIENCE, Deadline
from tidb_magic.connection.row_reader import Result
from tidb_magic.display import progress
from tidb_magic.errors import (
    AuthenticationError,
    ConnectTimeoutError,
    DeadlineError,
    Interrupted,
    ServerError,
    TidbMagicError,
)
from tidb_magic.queries import query
from tidb_magic.sessions.membership import MembersQuestion

_SPREAD = 4  # times as long as the latest answer took the others are waited for
_MEMBERS_AGE = 10.0  # seconds since PD answered, after which an incomplete reading waits for PD, too
_AT_ONCE = 64  # instances that are asked at the same time, without those that take long
_LONG = 0.5  # seconds
POLL = 0.05  # seconds; a change is noticed at once, a moment that passes after that time

# A function that reads over one connection: the named instance, or without a name the whole cluster.
Ask = Callable[[Connection, str | None, Deadline], list[Result]]


@dataclass(frozen=True)
class Gathered:
    """What was answered: one list of results for each instance that was asked separately, or one for all.

    `missing` are instances that did not answer; `remarks` are sentences on how it was read, if not in the usual way.
    """

    parts: tuple[list[Result], ...]
    complete: bool
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass
class Asked:
    """One instance in a reading: whether it responds, and its answer or what went wrong.

    `checked` is whether it was asked on a connection that was open. `began` is when its thread began, None while none
    is at work.
    """

    instance: Instance
    began: float | None = None
    checked: bool = False
    responds: bool = False
    answer: list[Result] | None = None
    problem: Exception | None = None


def reason(pool: Pool, name: str, asked: Asked | None, seconds: float) -> str:
    """Return why an instance has not answered within that time, as far as that is known."""
    if asked is None:
        return "it was registered while the others were read"
    spent, problem = f"{seconds:.3g} s", asked.problem
    if asked.responds and (problem is None or isinstance(problem, DeadlineError)):
        return f"it responds, and did not answer within {spent}: it is overloaded"
    if asked.checked and problem is None:
        return f"it did not answer on an open connection within {spent}: it is frozen or overloaded"
    stage = problem.stage if isinstance(problem, ConnectTimeoutError) else pool.openings.stage(name)
    if stage:
        return f"it {stage} within {spent}"
    return str(problem or pool.monitor.unresponsive.get(name) or f"it did not answer within {spent}")


class FanOut:
    """The threads of one reading, each of which asks one instance.

    A thread first makes sure that its instance responds; after `ask_separately` it asks it. A turn of the monitor keeps
    it to one statement per instance. No more than `_AT_ONCE` instances are asked at the same time, apart from those
    that take long. The thread of an instance that does not respond goes on after the reading, and a late answer makes
    the instance responsive again.

    `problem` is why the cluster's own list could not be read, and `left` what of our statement for it may still run.
    """

    def __init__(self, pool: Pool, ask: Ask, deadline: float, patience: int = PATIENCE) -> None:
        self._pool, self._ask, self._deadline, self._patience = pool, ask, deadline, patience
        self.began = self._since = time.monotonic()  # of the reading, or of asking each instance separately
        self.due = Deadline(patience * deadline)
        self.unresponsive = set(pool.monitor.unresponsive)
        self.asked: dict[str, Asked] = {}
        self._changed = threading.Condition()
        self._apart = threading.Event()  # each instance is asked separately
        self.over = threading.Event()
        self._answered = 0  # instances
        self._latest = 0.0  # seconds until the latest of these answers
        self.members = MembersQuestion(pool, deadline, self.due, self._changed, self.over)
        self.problem = "The cluster's own list does not respond."
        self.left = ""
        self._progress = progress.Line()

    def end(self) -> None:
        """Let the threads go that only wait."""
        self.over.set()
        self._progress.clear()

    def ask_separately(self) -> None:
        """Ask each instance."""
        self._since = time.monotonic()
        self._apart.set()

    @property
    def accept(self) -> float:
        """The moment from which on an incomplete answer is accepted."""
        return self._since + max(self._pool.monitor.grace(self._deadline), _SPREAD * self._latest)

    def responding(self) -> set[str]:
        """Return the instances that respond."""
        return {
            name
            for name, one in list(self.asked.items())
            if one.responds or one.answer is not None or self._pool.openings.greeted(name)
        }

    def known(self, name: str) -> bool:
        """Tell whether it is known how far a connection to an instance got; through a balancer it is not."""
        one = self.asked[name]
        return one.problem is not None or one.checked or bool(self._pool.openings.stage(name))

    def watch(self) -> None:
        """Start the threads of instances that have none yet, ask for the members, and show how long this takes."""
        self._start()
        self.members.ask(self.responding())
        self._show_progress()

    def read(self) -> Gathered:
        """Return what the instances answer, once they are asked separately."""
        try:
            while not self._enough():
                with self._changed:
                    self._changed.wait(POLL)
                if self._answers() and not self._incomplete_anyway():
                    self.members.ask(self.responding())
                self._show_progress()
        except KeyboardInterrupt:
            raise Interrupted(" ".join(filter(None, ["Nothing was returned.", self.left]))) from None
        return self._gathered()

    def _answers(self) -> dict[str, list[Result]]:
        return {name: one.answer for name, one in list(self.asked.items()) if one.answer is not None}

    def _enough(self) -> bool:
        """Tell whether nothing more is waited for."""
        self._pool.check()
        self._start()
        now, answered = time.monotonic(), len(self._answers())
        problems = [one.problem for one in list(self.asked.values()) if one.problem is not None]
        for problem in problems:
            if not isinstance(problem, TidbMagicError):
                raise problem
        pending = {name for name, one in list(self.asked.items()) if one.answer is None and one.problem is None}
        if not answered:
            refused = any(isinstance(problem, ServerError) for problem in problems)
            return not pending or self.due.passed or (refused and not pending - self.unresponsive)
        if answered > self._answered:  # where an answer takes long the others get longer, too
            self._answered, self._latest = answered, now - self._since
        unresponsive = self.unresponsive - self.responding()
        if pending - unresponsive and now < min(self.accept, self.due.moment):
            return False
        return (
            self._pool.topology.membership.pd_unresponsive
            or self.members.answered
            or self.members.late
            or self._incomplete_anyway()
        )

    def _incomplete_anyway(self) -> bool:
        """Tell whether an unresponsive instance has not answered, and PD did not long ago: it is not asked again."""
        membership = self._pool.topology.membership
        recent = membership.authoritative and time.monotonic() < membership.updated_at + _MEMBERS_AGE
        return recent and bool((self._pool.topology.registered().keys() & self.unresponsive) - self._answers().keys())

    def _gathered(self) -> Gathered:
        pool, answers, membership = self._pool, self._answers(), self._pool.topology.membership
        missing = tuple(name for name in pool.topology.registered() if name not in answers)
        if not (membership.pd_unresponsive or self.members.answered or self._incomplete_anyway()):
            membership = replace(membership, authoritative=False)
        spent = self.spent()
        reasons = {name: reason(pool, name, self.asked.get(name), spent) for name in missing}
        sentences = [
            f"{name}: {why}" if why.endswith((".", "?")) else f"{name}: {why}." for name, why in reasons.items()
        ]
        refused = {name: one.problem for name, one in self.asked.items() if isinstance(one.problem, ServerError)}
        if not answers:
            for error in refused.values():
                raise error
            said = f"No instance answered within {spent:.3g} s."
            raise DeadlineError(" ".join(filter(None, [said, self.left, *sentences])))
        pool.monitor.note_unresponsive({name: why for name, why in reasons.items() if name not in refused})
        remarks = [f"{self.problem} Each instance was read separately.", *filter(None, [self.left])]
        if membership.pd_unresponsive:
            remarks.append("PD is not responding; the list of instances may be out of date.")
        elif not membership.authoritative:
            remarks.append("The registered instances are not known.")
        remarks += [f"Answered: {', '.join(sorted(answers))}.", *sentences]
        complete = not missing and membership.authoritative and not membership.pd_unresponsive
        return Gathered(tuple(answers.values()), complete, missing, tuple(remarks))

    # -- in threads --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start to ask the instances that were not asked yet."""
        for name, instance in self._pool.topology.registered().items():
            self.asked.setdefault(name, Asked(instance))
        now, apart = time.monotonic(), self._apart.is_set()
        left = _AT_ONCE - sum(one.began is not None and now < one.began + _LONG for one in self.asked.values())
        waiting = [
            (name, one)
            for name, one in self.asked.items()
            if one.began is None and one.answer is None and one.problem is None and (apart or not one.responds)
        ]
        for name, one in waiting[: max(left, 0)]:
            one.began = now
            self._pool.start(self._ask_one, name, one)

    def _ask_one(self, name: str, asked: Asked) -> None:
        turn = self._pool.monitor.turn(name)
        while not turn.acquire(timeout=POLL):  # an earlier statement of ours is not answered yet
            if self.over.is_set():
                return
        try:
            asked.answer = with_reconnect(partial(self._attempt, name, asked))
        except Exception as error:  # noqa: BLE001 (it is raised where it was asked for)
            asked.problem = error
        finally:
            turn.release()
            asked.began = None
            with self._changed:
                self._changed.notify_all()

    def _attempt(self, name: str, asked: Asked) -> list[Result] | None:
        """Check that an instance responds, and ask it if the list was given up; return None if it was not."""
        pool, began, before = self._pool, time.monotonic(), asked.responds
        if kept := pool.idle_connection(name):
            asked.checked = True
            if not self._apart.is_set():
                kept.query(query("identify"), deadline=self.due.left, leave=True)
                asked.responds = True
        if pool.openings.refusal and name in pool.monitor.unresponsive and not pool.idle_connection(name):
            raise AuthenticationError(pool.openings.refusal)
        connection = pool.connect_to(asked.instance, self.due.left)
        asked.responds = asked.responds or connection is not kept
        if asked.responds and not before:
            pool.monitor.responded(name, time.monotonic() - began)
        if not self._apart.is_set():
            return None
        if connection.busy:  # with the question for PD
            connection = pool.connect_to(asked.instance, self.due.left)
        try:
            answer = self._ask(connection, name, self.due)
        except DeadlineError:
            if not connection.open:
                end_statement(connection, forward=False)
            raise
        pool.monitor.responds_again(name)
        return answer

    # -- progress ----------------------------------------------------------------------------------------------

    def spent(self) -> float:
        """Return the seconds since the reading began."""
        return time.monotonic() - self.began

    def _show_progress(self) -> None:
        if self.spent() > self._deadline and not self._answers():
            self._progress.show(
                f"No instance has answered for {self.spent():.0f} s. Still waiting"
                f" ({self._patience * self._deadline:g} s at most); interrupt to stop."
            )
