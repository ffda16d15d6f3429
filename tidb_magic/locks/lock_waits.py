"""The lock waits that the stores know, and the waiting DDL, asked with a separate deadline.

An unresponsive store must not look like an unresponsive instance, nor keep the list of sessions from being read.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from tidb_magic.cluster.pool import Pool
from tidb_magic.cluster.topology import Instance
from tidb_magic.connection.cleanup import Endings
from tidb_magic.connection.connection import Connection, with_reconnect
from tidb_magic.connection.deadline import Deadline, hint
from tidb_magic.connection.row_reader import Result
from tidb_magic.errors import DeadlineError, Interrupted, ServerError, TidbMagicError
from tidb_magic.queries import query
from tidb_magic.sessions.lookup import GRACE

_THREADS = 32
_NO_PROCESS = 1227
_ALL_WAITS = "Cannot read mysql.tidb_mdl_info; all running DDL is treated as waiting."
_NOT_READABLE = (1142, 1143, 1146, 1227)  # no SELECT, no such table, security-enhanced mode


@dataclass(frozen=True)
class Waits:
    """What was answered: the waits that each instance lists, and the DDL jobs that have not ended.

    `heard` are the instances that listed theirs, `known` is whether every question was answered, `remarks` say which
    were not; `denied` is whether PROCESS is missing.
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
    asking = _Asking(pool, Deadline(deadline))
    try:
        return asking.ask()
    except KeyboardInterrupt:
        raise Interrupted(" ".join(["Nothing was returned.", *asking.interrupted()])) from None
    finally:
        asking.executor.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Asking:
    pool: Pool
    due: Deadline
    at_work: list[Connection] = field(default_factory=list)
    endings: Endings = field(default_factory=Endings)
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="tidb_magic-locks")
    )

    def ask(self) -> Waits:
        pool = self.pool
        registered = pool.topology.registered()
        asked = {name: one for name, one in registered.items() if name not in pool.monitor.unresponsive}
        waits = {name: self._submit(one, "lock_waits") for name, one in asked.items()}
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
        remarks = [] if denied else _problems(problems, none=not results)
        answering = [one for name, one in asked.items() if denied or name not in problems]
        jobs, remark = self._jobs(sorted(answering, key=pool.is_current))  # the main connection last: it can get lost
        remarks += [remark] if remark else []
        known = not problems and jobs is not None and len(asked) == len(registered)
        said = (*remarks, *self.endings.remarks())
        return Waits(tuple(results.values()), jobs, known, denied, said, frozenset(results))

    def _jobs(self, instances: Sequence[Instance]) -> tuple[Result | None, str]:
        """Ask one of these instances for the DDL jobs; return them and a remark."""
        if self.pool.topology.membership.pd_unresponsive:
            return None, "Waiting DDL is not known: PD does not respond."
        why = "No instance answered."
        for instance in instances:
            for name, remark in (("ddl_waits", ""), ("ddl_running", _ALL_WAITS)):
                try:
                    found = self._submit(instance, name).result()
                except ServerError as error:
                    why = str(error)
                    if error.code in _NOT_READABLE:
                        continue  # with the other statement
                except TidbMagicError as error:
                    why = str(error)
                else:
                    return found, remark if found.rows else ""
                break
            if self.due.passed:
                break
        return None, f"Waiting DDL is not known. {why}"

    def _submit(self, instance: Instance, name: str) -> Future[Result]:
        return self.executor.submit(with_reconnect, partial(self._on, instance, name))

    def _on(self, instance: Instance, name: str) -> Result:
        """Ask that instance."""
        connection = self.pool.connect_to(instance, self.due.left)
        self.at_work.append(connection)
        left = self.due.left
        args = {"milliseconds": hint(max(left - GRACE, GRACE))}
        try:
            return connection.query(query(name), args, deadline=left, leave=True)
        except DeadlineError:
            if not connection.open:
                self.endings.end(self.executor, connection)
            raise

    def interrupted(self) -> list[str]:
        """End what is under way after Ctrl-C."""
        with suppress(KeyboardInterrupt):  # a second one
            for connection in self.at_work:
                if connection.busy:
                    connection.close()
                    self.endings.end(self.executor, connection)
            wait(self.endings.running, 2)
        return self.endings.remarks()


def _problems(problems: dict[str, str], *, none: bool) -> list[str]:
    if not problems:
        return []
    why = " ".join(dict.fromkeys(problems.values()))
    if none:
        return [f"Lock waits could not be read; a store or PD may not respond. {why}"]
    return [f"Lock waits of autocommit statements are not known on {', '.join(problems)}. {why}"]
