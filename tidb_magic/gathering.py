"""Asking the whole cluster in one statement or, when that misses its deadline, every instance by itself."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tidb_magic import routing
from tidb_magic.connection import Connection
from tidb_magic.driver import Result
from tidb_magic.errors import (
    AuthenticationError,
    ConnectError,
    DeadlineError,
    Interrupted,
    NotTidbError,
    ServerError,
    TidbMagicError,
)
from tidb_magic.link import Link
from tidb_magic.routing import Instance
from tidb_magic.sessions import silent

_APART = 0.5  # seconds for reading the instances by themselves: their connections are opened before the deadline
_LEAST = 0.05  # seconds that any question gets
_ROLL = 0.3  # seconds of these for the question who is registered
_THREADS = 32

_NO_LIST = "The cluster's own list does not answer."

# Asks one connection: for the sessions of that instance if it is named, else for those of the whole cluster, within
# that many seconds.
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


def gather(link: Link, ask: Ask, deadline: float) -> Gathered:
    """Ask the whole cluster in one statement; when that misses its deadline, every instance by itself.

    While the cluster's own list is known not to answer, only the latter, and silent instances are not waited for.

    Raises
    ------
    DeadlineError, ConnectError
        Nobody answered.
    ServerError, Interrupted
    """
    if link.trouble:
        return _apart(link, ask, min(deadline, _APART), None, None)
    give_up = time.monotonic() + deadline
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
            connection = link.connection(within=deadline)  # it was lost while nobody used it
            results = _whole(link, ask, connection, give_up)
    except (AuthenticationError, NotTidbError):
        raise
    except (DeadlineError, ConnectError) as error:
        link.troubled()
        return _apart(link, ask, _APART, error, connection if isinstance(error, DeadlineError) else None)
    finally:
        prepare.cancel()
    warnings = [warning for result in results for warning in result.warnings]
    if warnings:
        link.silent |= dict.fromkeys(silent(warnings), "TiDB found it silent")
        link.troubled()
    return Gathered((results,), complete=not warnings, missing=silent(warnings))


def _whole(link: Link, ask: Ask, connection: Connection, give_up: float) -> list[Result]:
    if link.trouble:  # found when the connection was opened again
        raise DeadlineError("PD did not answer when the connection was opened.")
    return ask(connection, None, max(give_up - time.monotonic(), _LEAST))


def _apart(link: Link, ask: Ask, within: float, problem: TidbMagicError | None, dropped: Connection | None) -> Gathered:
    give_up = time.monotonic() + within
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="tidb_magic-read")
    try:
        cleanup = (
            executor.submit(dropped.end_statement, forward=False) if dropped is not None and not dropped.open else None
        )
        heard: dict[str, list[Result]] = {}
        _ask_each(executor, link, ask, heard, give_up)
        _call_the_roll(link, heard, give_up)
        names = list(dict.fromkeys(link.name(one) for one in link.roll))
        _ask_each(executor, link, ask, heard, give_up)  # who came in between
        if not heard:
            raise problem or DeadlineError(f"No instance answered: {_reasons(link, names)}")
        remarks = [f"{problem or _NO_LIST} Each instance was read by itself."]
        if cleanup is not None:
            remarks += _left_over(cleanup, dropped, give_up)
    except KeyboardInterrupt:
        raise Interrupted("Nothing was returned. What was asked of single instances ends within a second.") from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    missing = tuple(name for name in names if name not in heard)
    if link.pd_silent:
        remarks.append("PD does not answer, so who is registered now is not known; our question to it ends within 6 s.")
    elif not link.roll_is_certain:
        remarks.append("Which instances are registered is not visible here.")
    remarks.append(f"Answered: {', '.join(sorted(heard))}.")
    if missing:
        remarks.append(_reasons(link, missing))
    complete = not missing and link.roll_is_certain and not link.pd_silent
    return Gathered(tuple(heard.values()), complete, missing, tuple(remarks))


def _ask_each(
    executor: ThreadPoolExecutor, link: Link, ask: Ask, heard: dict[str, list[Result]], give_up: float
) -> None:
    """Ask side by side those that were not heard yet and are not known to be silent; note both."""
    waiting: dict[Future[list[Result]], str] = {}
    for name, instance in {link.name(one): one for one in link.roll}.items():
        if name not in heard and name not in link.silent:
            waiting[executor.submit(_ask_one, link, ask, instance, give_up)] = name
    wait(waiting, timeout=max(give_up - time.monotonic(), 0))
    refused = None
    for future, name in waiting.items():
        if not future.done():
            link.silent[name] = "it did not answer in time"
            continue
        try:
            heard[name] = future.result()
        except ServerError as error:
            refused = error
        except TidbMagicError as error:
            link.silent[name] = str(error)
    if refused is not None:
        raise refused  # a statement that one instance does not accept is the statement's fault


def _ask_one(link: Link, ask: Ask, instance: Instance, give_up: float) -> list[Result]:
    connection = link.reach(instance, give_up - time.monotonic())
    return ask(connection, link.name(instance), max(give_up - time.monotonic(), _LEAST))


def _call_the_roll(link: Link, heard: dict[str, list[Result]], give_up: float) -> None:
    """Ask somebody who answers which instances are registered now; PD can be silent too."""
    connection = next((kept for name in heard if (kept := link.kept(name))), None)
    if connection is None or link.pd_silent:
        return
    try:
        roll = routing.instances(connection, deadline=max(min(_ROLL, give_up - time.monotonic()), _LEAST))
    except TidbMagicError:
        link.pd_silent = True
    else:
        link.call(roll)


def _left_over(cleanup: Future[str], dropped: Connection | None, give_up: float) -> list[str]:
    """Say what of ours may still run."""
    wait([cleanup], timeout=max(give_up - time.monotonic(), 0))
    if cleanup.done():
        return [said] if (said := cleanup.result()) else []
    return [] if dropped is None else [dropped.may_still_run]


def _reasons(link: Link, names: Iterable[str]) -> str:
    return " ".join(f"{name}: {link.silent.get(name, 'it did not answer')}." for name in names).replace("..", ".")
