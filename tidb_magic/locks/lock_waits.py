"""Who waits for a lock, as the stores know it, and which DDL waits: asked with a deadline of its own.

An unresponsive store must not look like an unresponsive instance, nor keep the list of sessions from being read.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

from tidb_magic.cluster.pool import Pool
from tidb_magic.cluster.topology import Instance
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import hint, time_left
from tidb_magic.connection.row_reader import Result
from tidb_magic.errors import ConnectError, DeadlineError, Interrupted, ServerError, TidbMagicError
from tidb_magic.queries import query
from tidb_magic.sessions.fanout import Dropped
from tidb_magic.sessions.lookup import GRACE

_THREADS = 32
_NO_PROCESS = 1227
_ALL_WAITS = "Cannot read mysql.tidb_mdl_info; all running DDL is treated as waiting."
_NOT_READABLE = (1142, 1143, 1146, 1227)  # no SELECT, no such table, security-enhanced mode


@dataclass(frozen=True)
class Waits:
    """What was answered: the waits that each instance lists, and the DDL jobs that have not ended.

    `heard` are the instances that listed theirs, `known` is whether all was answered, `remarks` say what was not;
    `denied` is whether PROCESS is missing.
    """

    waits: tuple[Result, ...]
    jobs: Result | None
    known: bool
    denied: bool
    remarks: tuple[str, ...]
    heard: frozenset[str] = frozenset()


def ask_stores(pool: Pool, *, deadline: float) -> Waits:
    """Ask each instance for the waits that it lists, side by side, and one of them for DDL.

    Raises
    ------
    Interrupted
    """
    asking = _Asking(pool, time.monotonic() + deadline)
    try:
        return asking.ask()
    except KeyboardInterrupt:
        raise Interrupted(" ".join(["Nothing was returned.", *asking.interrupted()])) from None
    finally:
        asking.executor.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Asking:
    pool: Pool
    give_up: float
    at_work: list[Connection] = field(default_factory=list)
    dropped: Dropped = field(default_factory=Dropped)
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="tidb_magic-locks")
    )

    def ask(self) -> Waits:
        pool = self.pool
        registered = pool.topology.registered()
        asked = {name: one for name, one in registered.items() if name not in pool.monitor.unresponsive}
        waits = {name: self.executor.submit(self._on, one, "lock_waits") for name, one in asked.items()}
        wait(waits.values())
        results, problems, denied = {}, {}, False
        for name, future in waits.items():
            try:
                results[name] = future.result()
            except ServerError as error:
                denied = denied or error.code == _NO_PROCESS
                problems[name] = str(error)
            except TidbMagicError as error:
                problems[name] = str(error)
        remarks = [] if denied else _problems(problems, nobody=not results)
        answering = [one for name, one in asked.items() if denied or name not in problems]
        jobs, remark = self._jobs(sorted(answering, key=pool.is_current))  # the main connection last: it can get lost
        remarks += [remark] if remark else []
        known = not problems and jobs is not None and len(asked) == len(registered)
        said = (*remarks, *self.dropped.said())
        return Waits(tuple(results.values()), jobs, known, denied, said, frozenset(results))

    def _jobs(self, instances: Sequence[Instance]) -> tuple[Result | None, str]:
        """Ask one of these instances for the DDL jobs; return them and a remark."""
        if self.pool.topology.membership.pd_unresponsive:
            return None, "Waiting DDL is not known: PD does not respond."
        why = "No instance answered."
        for instance in instances:
            for name, remark in (("ddl_waits", ""), ("ddl_running", _ALL_WAITS)):
                try:
                    found = self.executor.submit(self._on, instance, name).result()
                except ServerError as error:
                    why = str(error)
                    if error.code in _NOT_READABLE:
                        continue  # with the other statement
                except TidbMagicError as error:
                    why = str(error)
                else:
                    return found, remark if found.rows else ""
                break
            if time.monotonic() > self.give_up:
                break
        return None, f"Waiting DDL is not known. {why}"

    def _on(self, instance: Instance, name: str) -> Result:
        """Ask that instance."""
        for attempt in (1, 2):
            connection = self.pool.connect_to(instance, time_left(self.give_up))
            self.at_work.append(connection)
            left = time_left(self.give_up)
            args = {"milliseconds": hint(max(left - GRACE, GRACE))}
            try:
                return connection.query(query(name), args, deadline=left, leave=True)
            except DeadlineError:
                if not connection.open:
                    self.dropped.end(self.executor, connection)
                raise
            except ConnectError:  # it was lost while it was not used
                if attempt == 2:
                    raise
        raise AssertionError("never reached")

    def interrupted(self) -> list[str]:
        """End what is under way after Ctrl-C."""
        with suppress(KeyboardInterrupt):  # a second one
            for connection in self.at_work:
                if connection.busy:
                    connection.close()
                    self.dropped.end(self.executor, connection)
            wait(self.dropped.ending, 2)
        return self.dropped.said()


def _problems(problems: dict[str, str], *, nobody: bool) -> list[str]:
    if not problems:
        return []
    why = " ".join(dict.fromkeys(problems.values()))
    if nobody:
        return [f"Lock waits could not be read; a store or PD may not respond. {why}"]
    return [f"Lock waits of autocommit statements are not known on {', '.join(problems)}. {why}"]
