"""Asking the whole cluster in one statement or, when an instance or PD does not respond, every instance by itself."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tidb_magic.cluster import topology
from tidb_magic.cluster.pool import Pool
from tidb_magic.cluster.topology import Instance
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import CHECK, PATIENCE, SPREAD, time_left
from tidb_magic.connection.row_reader import Result
from tidb_magic.display import progress
from tidb_magic.errors import (
    AuthenticationError,
    ConnectError,
    ConnectTimeoutError,
    DeadlineError,
    Interrupted,
    NotTidbError,
    ServerError,
    TidbMagicError,
)
from tidb_magic.queries import query
from tidb_magic.sessions.lookup import unresponsive_instances

_SLOW = 2  # deadlines after which the cluster's own list is given up though every instance responds
_PD_SPREAD = 10  # times as long as an instance took to respond PD is waited for, which is asked through one
_MEMBERS_AGE = 10.0  # seconds since PD answered, after which an incomplete reading waits for PD, too
_POLL = 0.05  # seconds; a change is noticed at once, a moment that passes after that time
_NO_LIST = "The cluster's own list does not respond."

# Asks one connection: for the sessions of that instance if it is named, else for those of the whole cluster. It gives
# up at that moment of the monotonic clock.
Ask = Callable[[Connection, str | None, float], list[Result]]


@dataclass(frozen=True)
class Gathered:
    """What was answered: one list of results for each instance that was asked by itself, or one for all.

    `missing` are instances that did not answer; `remarks` are sentences on how it was read, if not in the usual way.
    """

    parts: tuple[list[Result], ...]
    complete: bool
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass
class Dropped:
    """Connections that were dropped, and whose statements are ended meanwhile."""

    ending: dict[Future[str], Connection] = field(default_factory=dict)

    def end(self, executor: ThreadPoolExecutor, connection: Connection) -> None:
        """End the statement of a dropped connection."""
        self.ending[executor.submit(connection.end_statement, forward=False)] = connection

    def said(self) -> list[str]:
        """Say what of ours may still run."""
        said = [future.result() if future.done() else one.may_still_run for future, one in self.ending.items()]
        return [one for one in said if one]


def gather(pool: Pool, ask: Ask, deadline: float) -> Gathered:
    """Ask the whole cluster in one statement; when an instance or PD does not respond, every instance by itself.

    After `deadline` seconds an incomplete answer is accepted: an instance that has not responded is not waited for once
    all others have answered. While no instance has answered, the first answer is waited for up to `PATIENCE` times as
    long. An instance that was unresponsive before is asked in each reading and not waited for.

    Raises
    ------
    DeadlineError, ConnectError
        No instance answered.
    NotConnectedError
        The cluster was closed.
    ServerError, Interrupted
    """
    reading = _Reading(pool, ask, deadline)
    try:
        whole = None if pool.monitor.degraded else reading.read_whole()
        return whole or reading.read_each()
    finally:
        reading.end()


def ask_cluster(pool: Pool, ask: Ask, deadline: float) -> list[Result]:
    """Ask the whole cluster in one statement, or not at all.

    As `gather`: where every instance responds it is waited for, and an instance that does not costs the deadline.

    Raises
    ------
    DeadlineError
        It did not answer.
    ConnectError
        Not every instance answered, or the connection was lost.
    NotConnectedError, ServerError, Interrupted
    """
    reading = _Reading(pool, ask, deadline, patience=1 if pool.monitor.unresponsive else PATIENCE, each=False)
    try:
        whole = reading.read_whole()
    finally:
        reading.end()
    if whole is None:
        raise DeadlineError(reading.problem or _NO_LIST)
    if not whole.complete:
        raise ConnectError("Not every instance answered.")
    return whole.parts[0]


@dataclass
class _Asked:
    """One instance in a reading: whether it responds, and its answer or what went wrong.

    `checked` is whether it was asked on a connection that was open.
    """

    instance: Instance
    checked: bool = False
    responds: bool = False
    answer: list[Result] | None = None
    problem: Exception | None = None


class _Reading:
    """One reading, by the cluster's own list or by each instance.

    Each instance is asked in a thread of its own, which first makes sure that the instance responds and then waits for
    `apart`. A turn of the Link keeps it to one statement per instance. The thread of an instance that does not respond
    goes on after the reading, and a late answer makes the instance responsive again.
    """

    def __init__(self, pool: Pool, ask: Ask, deadline: float, *, patience: int = PATIENCE, each: bool = True) -> None:
        self._pool, self._ask, self._deadline, self._patience = pool, ask, deadline, patience
        self._each = each  # whether the instances may be asked by themselves
        self._in_trouble = pool.monitor.degraded
        self._began = self._since = time.monotonic()  # the list, or since each instance was asked by itself
        self._give_up = self._began + patience * deadline
        self._unresponsive = set(pool.monitor.unresponsive)
        self._asked: dict[str, _Asked] = {}
        self._changed = threading.Condition()
        self._dropped = threading.Event()  # the cluster's own list was given up
        self._apart = threading.Event()  # each instance is asked by itself
        self._over = threading.Event()
        self._decided = threading.Event()  # one of these two
        self._answered = 0  # instances
        self._latest = 0.0  # seconds until the latest of these answers
        self._pd_asked: float | None = None
        self._pd_answered = False
        self.problem = ""  # why the cluster's own list could not be read
        self._left = ""  # what of ours may still run
        self._progress = progress.Line()

    def end(self) -> None:
        """Let the threads go that only wait."""
        self._over.set()
        self._decided.set()
        self._progress.clear()

    # -- the whole cluster in one statement --------------------------------------------------------------------

    def read_whole(self) -> Gathered | None:
        """Return what the cluster's own list answers; None if each instance has to be asked by itself."""
        pool = self._pool
        for last in (False, True):
            was_open = pool.open
            try:
                connection = pool.connection(within=self._deadline)
                if pool.monitor.degraded and not self._in_trouble:  # found when the connection was opened again
                    return None
                return self._whole(connection)
            except (AuthenticationError, NotTidbError):
                raise
            except ConnectError as error:
                if self._dropped.is_set():
                    return None
                if last or not was_open:
                    self.problem = str(error)
                    break  # else it was lost while it was not used
            except DeadlineError as error:  # the server's own, or that of another thread's statement
                self.problem = str(error)
                break
        pool.monitor.note_degraded()
        return None

    def _whole(self, connection: Connection) -> Gathered:
        pool = self._pool
        pool.start(self._supervise, connection)
        results = self._ask(connection, None, self._give_up)
        self.end()
        warnings = [warning for result in results for warning in result.warnings]
        missing = unresponsive_instances(warnings)
        if warnings:
            pool.monitor.note_degraded()
            pool.monitor.note_unresponsive(dict.fromkeys(missing, "TiDB reported that it did not answer"))
        return Gathered((results,), complete=not warnings, missing=missing)

    def _supervise(self, connection: Connection) -> None:
        """Give up the cluster's own list when an instance or PD keeps it from answering."""
        if self._over.wait(CHECK * self._deadline):
            return
        while not self._held_up():
            self._ask_instances()
            self._ask_pd()
            self._show_progress()
            if self._over.wait(_POLL):
                return
        pool = self._pool
        self._dropped.set()
        self._unresponsive = {name for name in self._asked.keys() - self._responding() if self._known(name)}
        self.problem = f"The cluster's own list did not answer within {self._spent():.3g} s."
        pool.monitor.note_degraded()
        connection.close()
        here = pool.topology.instance_of(connection)
        if here in self._unresponsive:
            self._left = connection.may_still_run
        else:
            through = pool.idle_connection(here) if here else None
            self._left = connection.end_statement(forward=False, through=through)
        if self._each:
            self._ask_apart()

    def _ask_apart(self) -> None:
        self._since = time.monotonic()
        self._apart.set()
        self._decided.set()

    @property
    def _accept(self) -> float:
        """The moment from which on an incomplete answer is accepted."""
        return self._since + max(self._pool.monitor.grace(self._deadline), SPREAD * self._latest)

    def _held_up(self) -> bool:
        """Tell whether the cluster's own list waits for an instance or PD that does not respond, or takes too long."""
        now, responding = time.monotonic(), self._responding()
        if now < self._accept or not responding:
            return False
        if self._pool.topology.registered().keys() - responding or now > self._began + _SLOW * self._deadline:
            return True
        return not self._pd_answered and self._pd_late(now)

    def _pd_late(self, now: float) -> bool:
        asked = math.inf if self._pd_asked is None else self._pd_asked
        return now > min(asked + self._pd_limit(), self._give_up)

    def _pd_limit(self) -> float:
        return self._pool.monitor.grace(self._deadline, _PD_SPREAD)

    def _responding(self) -> set[str]:
        return {
            name
            for name, one in list(self._asked.items())
            if one.responds or one.answer is not None or self._pool.greeted(name)
        }

    def _known(self, name: str) -> bool:
        """Tell whether it is known how far a connection to an instance got; through a balancer it is not."""
        one = self._asked[name]
        return one.problem is not None or one.checked or bool(self._pool.stage(name))

    # -- each instance by itself -------------------------------------------------------------------------------

    def read_each(self) -> Gathered:
        """Return what the instances answer, each by itself."""
        if not self._dropped.is_set():
            self._ask_apart()
        try:
            while not self._enough():
                with self._changed:
                    self._changed.wait(_POLL)
                if self._answers() and not self._incomplete_anyway():
                    self._ask_pd()
                self._show_progress()
        except KeyboardInterrupt:
            raise Interrupted(" ".join(filter(None, ["Nothing was returned.", self._left]))) from None
        return self._gathered()

    def _answers(self) -> dict[str, list[Result]]:
        return {name: one.answer for name, one in list(self._asked.items()) if one.answer is not None}

    def _enough(self) -> bool:
        """Tell whether nothing more is waited for."""
        self._pool.check()
        self._ask_instances()
        now, answered = time.monotonic(), len(self._answers())
        problems = [one.problem for one in list(self._asked.values()) if one.problem is not None]
        for problem in problems:
            if not isinstance(problem, TidbMagicError):
                raise problem
        pending = {name for name, one in list(self._asked.items()) if one.answer is None and one.problem is None}
        if not answered:
            refused = any(isinstance(problem, ServerError) for problem in problems)
            return not pending or now > self._give_up or (refused and not pending - self._unresponsive)
        if answered > self._answered:  # where an answer takes long the others get longer, too
            self._answered, self._latest = answered, now - self._since
        unresponsive = self._unresponsive - self._responding()
        if pending - unresponsive and now < min(self._accept, self._give_up):
            return False
        return (
            self._pool.topology.membership.pd_unresponsive
            or self._pd_answered
            or self._pd_late(now)
            or self._incomplete_anyway()
        )

    def _incomplete_anyway(self) -> bool:
        """Tell whether an unresponsive instance has not answered, and PD did not long ago: it is not asked again."""
        membership = self._pool.topology.membership
        recent = membership.authoritative and time.monotonic() < membership.updated_at + _MEMBERS_AGE
        return recent and bool((self._pool.topology.registered().keys() & self._unresponsive) - self._answers().keys())

    def _gathered(self) -> Gathered:
        pool, answers, membership = self._pool, self._answers(), self._pool.topology.membership
        missing = tuple(name for name in pool.topology.registered() if name not in answers)
        if not (membership.pd_unresponsive or self._pd_answered or self._incomplete_anyway()):
            membership = replace(membership, authoritative=False)
        reasons = {name: self._reason(name) for name in missing}
        sentences = [
            f"{name}: {why}" if why.endswith((".", "?")) else f"{name}: {why}." for name, why in reasons.items()
        ]
        refused = {name: one.problem for name, one in self._asked.items() if isinstance(one.problem, ServerError)}
        if not answers:
            for error in refused.values():
                raise error
            said = f"No instance answered within {self._spent():.3g} s."
            raise DeadlineError(" ".join(filter(None, [said, self._left, *sentences])))
        pool.monitor.note_unresponsive({name: why for name, why in reasons.items() if name not in refused})
        remarks = [f"{self.problem or _NO_LIST} Each instance was read separately.", *filter(None, [self._left])]
        if membership.pd_unresponsive:
            remarks.append("PD is not responding; the list of instances may be out of date.")
        elif not membership.authoritative:
            remarks.append("The registered instances are not known.")
        remarks += [f"Answered: {', '.join(sorted(answers))}.", *sentences]
        complete = not missing and membership.authoritative and not membership.pd_unresponsive
        return Gathered(tuple(answers.values()), complete, missing, tuple(remarks))

    def _reason(self, name: str) -> str:
        """Say why an instance has not answered, as far as that is known."""
        one, spent = self._asked.get(name), f"{self._spent():.3g} s"
        if one is None:
            return "it was registered while the others were read"
        if one.responds and (one.problem is None or isinstance(one.problem, DeadlineError)):
            return f"it responds, and did not answer within {spent}: it is overloaded"
        if one.checked and one.problem is None:
            return f"it did not answer on an open connection within {spent}: it is frozen or overloaded"
        stage = one.problem.stage if isinstance(one.problem, ConnectTimeoutError) else self._pool.stage(name)
        if stage:
            return f"it {stage} within {spent}"
        if one.problem is not None:
            return str(one.problem)
        return self._pool.monitor.unresponsive.get(name) or f"it did not answer within {spent}"

    # -- in threads --------------------------------------------------------------------------------------------

    def _ask_instances(self) -> None:
        """Start to ask the instances that were not asked yet."""
        for name, instance in self._pool.topology.registered().items():
            if name not in self._asked:
                self._asked[name] = _Asked(instance)
                self._pool.start(self._ask_one, name, self._asked[name])

    def _ask_one(self, name: str, asked: _Asked) -> None:
        turn = self._pool.monitor.turn(name)
        while not turn.acquire(timeout=_POLL):  # an earlier statement of ours is not answered yet
            if self._over.is_set():
                return
        try:
            asked.answer = self._answer(name, asked)
        except Exception as error:  # noqa: BLE001 (it is raised where it was asked for)
            asked.problem = error
        finally:
            turn.release()
            with self._changed:
                self._changed.notify_all()

    def _answer(self, name: str, asked: _Asked) -> list[Result] | None:
        try:
            return self._attempt(name, asked)
        except (AuthenticationError, ConnectTimeoutError):
            raise  # each login counts: some accounts are locked after a few
        except ConnectError:  # it was lost while it was not used
            return self._attempt(name, asked)

    def _attempt(self, name: str, asked: _Asked) -> list[Result] | None:
        """Check that an instance responds, and ask it once the list was given up; return None if it was not."""
        pool, began = self._pool, time.monotonic()
        if kept := pool.idle_connection(name):
            asked.checked = True
            if not self._apart.is_set():
                kept.query(query("identify"), deadline=time_left(self._give_up), leave=True)
                asked.responds = True
        if pool.refusal and name in pool.monitor.unresponsive and not pool.idle_connection(name):
            raise AuthenticationError(pool.refusal)
        connection = pool.connect_to(asked.instance, time_left(self._give_up))
        asked.responds = asked.responds or connection is not kept
        if asked.responds:
            pool.monitor.responded(name, time.monotonic() - began)
        self._decided.wait()
        if not self._apart.is_set():
            return None
        if connection.busy:  # with the question for PD
            connection = pool.connect_to(asked.instance, time_left(self._give_up))
        try:
            answer = self._ask(connection, name, self._give_up)
        except DeadlineError:
            if not connection.open:
                connection.end_statement(forward=False)
            raise
        pool.monitor.responds_again(name)
        return answer

    def _ask_pd(self) -> None:
        """Ask an instance that responds which instances are registered now."""
        pool = self._pool
        if self._pd_asked is not None or self._pd_answered or pool.topology.membership.pd_unresponsive:
            return
        for name in self._responding():
            if connection := pool.idle_connection(name):
                self._pd_asked = time.monotonic()
                pool.start(self._update_members, connection)
                return

    def _update_members(self, connection: Connection) -> None:
        try:
            self._pool.update_members(topology.instances(connection, deadline=self._pd_limit()))
            self._pd_answered = True
        except DeadlineError:
            if not self._over.is_set():
                self._pool.topology.note_pd_unresponsive()
        except TidbMagicError:  # the connection was lost: another one is asked
            self._pd_asked = None
        with self._changed:
            self._changed.notify_all()

    # -- for the person who waits ------------------------------------------------------------------------------

    def _spent(self) -> float:
        return time.monotonic() - self._began

    def _show_progress(self) -> None:
        if self._spent() > self._deadline and not self._answers():
            self._progress.show(
                f"No instance has answered for {self._spent():.0f} s. Still waiting"
                f" ({self._patience * self._deadline:g} s at most); interrupt to stop."
            )
