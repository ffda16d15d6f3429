"""Asking the whole cluster in one statement or, when that misses its deadline, every instance by itself."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from tidb_magic import routing
from tidb_magic.connection import Connection
from tidb_magic.driver import Result
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
from tidb_magic.link import Link
from tidb_magic.routing import Instance, Roll
from tidb_magic.sessions import silent

# Seconds for reading the instances by themselves, whose connections are opened before the deadline, and for asking who
# is registered: with the deadline before them they stay within 1 s of it.
_APART = 0.45
_ROLL = 0.25
_THREADS = 32
_NO_LIST = "The cluster's own list does not answer."

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


def gather(link: Link, ask: Ask, deadline: float) -> Gathered:
    """Ask the whole cluster in one statement; when that misses its deadline, every instance by itself.

    While the cluster's own list is known not to answer, only the latter, and silent instances are not waited for.

    Raises
    ------
    DeadlineError, ConnectError
        Nobody answered.
    NotConnectedError
        The cluster was closed.
    ServerError, Interrupted
    """
    give_up = time.monotonic() + deadline
    if link.trouble:
        return _Apart(link, ask, give_up).read()
    connection = None
    prepare = threading.Timer(deadline / 2, link.prepare)
    prepare.daemon = True
    prepare.start()
    try:
        was_open = link.open
        try:
            connection = link.connection(within=deadline)
            results = _whole(link, ask, connection, give_up)
        except ConnectError:
            if not was_open:
                raise
            connection = link.connection(within=give_up - time.monotonic())  # it was lost while nobody used it
            results = _whole(link, ask, connection, give_up)
    except (AuthenticationError, NotTidbError):
        raise
    except (DeadlineError, ConnectError) as error:
        link.troubled()
        apart = _Apart(link, ask, time.monotonic() + _APART, error)
        if connection is not None and not connection.open and isinstance(error, DeadlineError):
            apart.dropped.end(apart.executor, connection)
        return apart.read()
    finally:
        prepare.cancel()
    warnings = [warning for result in results for warning in result.warnings]
    if warnings:
        link.troubled()
        link.note_silent(dict.fromkeys(silent(warnings), "TiDB found it silent"))
    return Gathered((results,), complete=not warnings, missing=silent(warnings))


def _whole(link: Link, ask: Ask, connection: Connection, give_up: float) -> list[Result]:
    if link.trouble:  # found when the connection was opened again
        raise DeadlineError("PD did not answer when the connection was opened.")
    return ask(connection, None, give_up)


@dataclass
class _Apart:
    """One reading of the instances by themselves, side by side. `problem` is why the whole could not be read."""

    link: Link
    ask: Ask
    give_up: float
    problem: TidbMagicError | None = None
    heard: dict[str, list[Result]] = field(default_factory=dict)
    unheard: dict[str, str] = field(default_factory=dict)  # name -> why
    left: list[Connection] = field(default_factory=list)  # dropped with a statement that may still run
    dropped: Dropped = field(default_factory=Dropped)
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="tidb_magic-read")
    )

    def read(self) -> Gathered:
        try:
            self._ask_each(self.link.roll)
            roll = self._call_the_roll()
            self._ask_each(roll)  # who came in between
            return self._gathered(roll)
        except KeyboardInterrupt:
            raise Interrupted(" ".join(["Nothing was returned.", *self._left_over()])) from None
        finally:
            self.executor.shutdown(wait=False, cancel_futures=True)

    def _gathered(self, roll: Roll) -> Gathered:
        names = list(dict.fromkeys(self.link.name(one) for one in roll.instances))
        missing = tuple(name for name in names if name not in self.heard)
        reasons = [f"{name}: {self._reason(name)}" for name in missing]
        if not self.heard:
            said = str(self.problem) if self.problem else f"No instance answered. {' '.join(reasons)}"
            raise DeadlineError(" ".join([said, *self._left_over()])) from self.problem
        remarks = [f"{self.problem or _NO_LIST} Each instance was read by itself.", *self._left_over()]
        if roll.pd_silent:
            remarks.append("PD does not answer, so who is registered now is not known; our question ends within 6 s.")
        elif not roll.certain:
            remarks.append("Which instances are registered was not found out.")
        remarks += [f"Answered: {', '.join(sorted(self.heard))}.", *reasons]
        complete = not missing and roll.certain and not roll.pd_silent
        return Gathered(tuple(self.heard.values()), complete, missing, tuple(remarks))

    def _ask_each(self, roll: Roll) -> None:
        """Ask side by side those that were not asked yet and are not known to be silent; note who is."""
        link, known = self.link, {self.link.name(one): one for one in roll.instances}
        asked = {name: one for name, one in known.items() if name not in {*self.heard, *self.unheard, *link.silent}}
        if not asked and not self.heard:  # all are said to be silent: find out
            asked = known
        reached_by = time.monotonic() + _APART
        waiting = {self.executor.submit(self._ask_one, one, reached_by): name for name, one in asked.items()}
        wait(waiting, timeout=max(self.give_up - time.monotonic(), 0))
        refused, silent_ = None, dict[str, str]()
        for future, name in waiting.items():
            try:
                self.heard[name] = future.result(timeout=0)
            except (TimeoutError, ConnectTimeoutError, DeadlineError):
                silent_[name] = "it did not answer in time"
            except ServerError as error:
                refused = error
                self.unheard[name] = str(error)
            except TidbMagicError as error:
                silent_[name] = str(error)
        self.unheard |= silent_
        link.note_silent(silent_)
        if refused is not None and not self.heard:
            raise refused

    def _ask_one(self, instance: Instance, reached_by: float) -> list[Result]:
        link, name = self.link, self.link.name(instance)
        for attempt in (1, 2):
            connection = link.reach(instance, min(reached_by, self.give_up) - time.monotonic(), share=attempt == 1)
            try:
                return self.ask(connection, name, self.give_up)
            except DeadlineError:
                if not connection.open:
                    self.left.append(connection)
                raise
            except ConnectError:
                if attempt == 2:
                    raise
                reached_by = time.monotonic() + _APART
        raise AssertionError("never reached")

    def _call_the_roll(self) -> Roll:
        """Ask somebody who answers which instances are registered now; PD can be silent too."""
        link = self.link
        if link.roll.pd_silent:
            return link.roll
        left = 0 if self.problem else self.give_up - time.monotonic()
        for connection in [kept for name in self.heard if (kept := link.kept(name))]:
            try:
                link.call(routing.instances(connection, deadline=max(_ROLL, min(left, 1.0))))
            except DeadlineError:
                link.pd_is_silent()
            except TidbMagicError:  # it was lost meanwhile
                continue
            return link.roll
        return replace(link.roll, certain=False)

    def _left_over(self) -> list[str]:
        """Say what of ours may still run."""
        return [*self.dropped.said(), *(one.may_still_run for one in self.left)]

    def _reason(self, name: str) -> str:
        why = self.unheard.get(name) or self.link.silent.get(name) or "it did not answer"
        return why if why.endswith((".", "?")) else f"{why}."
