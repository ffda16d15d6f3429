"""End sessions or their statements, and see that it happened: plan, check, send, verify.

Targets are grouped by their instances, and the groups are worked on side by side.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

from tidb_magic.cluster.pool import Pool
from tidb_magic.errors import AuditError, Interrupted
from tidb_magic.kill.audit import Audit
from tidb_magic.kill.instance_worker import InstanceWorker, KillJob, KillOptions
from tidb_magic.kill.locate import Located, locate_known, search_cluster
from tidb_magic.kill.model import Outcome, Target
from tidb_magic.kill.report import KillReport, report
from tidb_magic.sessions.lookup import ANYTHING, Condition

_THREADS = 32
_NAMED = 10  # ids of each kind, of which Ctrl-C says what became of them
_WAKE = (0.3, 4.0)  # seconds after Ctrl-C: for a thread to end by itself, and to end what it left on the server


def kill(  # noqa: PLR0913 (the targets, the options, the report)
    pool: Pool,
    targets: Sequence[Target],
    options: KillOptions,
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
    pool.check()
    wanted, said = list(dict.fromkeys(targets)), list(remarks)
    too_many = len(wanted) > options.max_victims and not options.plan
    options = replace(options, plan=options.plan or too_many)
    audit.check()
    work = _Work(pool, wanted, options, audit, condition)
    try:
        work.run()
        audit.ended(work.targets.values(), plan=options.plan)
    except KeyboardInterrupt as error:
        raise Interrupted(work.interrupted(error)) from None
    except AuditError as error:
        said.append(str(error))
    finally:
        work.close()
    known = list(work.targets.values())
    if too_many and any(target.outcome is Outcome.PLANNED for target in known):
        said.append(
            f"Nothing was sent: {len(wanted):,} are more than max_victims ({options.max_victims:,})."
            f" --max-victims {len(wanted)} allows them."
        )
    return report(known, said, audit.cluster)


class _Work:
    """The groups of a kill, each in a thread."""

    def __init__(
        self, pool: Pool, targets: Sequence[Target], options: KillOptions, audit: Audit, condition: Condition
    ) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="tidb_magic-kill")
        self.targets = dict(enumerate(targets))
        self._job = KillJob(pool, self.targets, options, audit, condition, threading.Event(), self._executor.submit, {})
        self._groups: dict[Future[None], InstanceWorker] = {}

    def run(self) -> None:
        pool = self._job.pool
        found, others = locate_known(pool, self.targets)
        self._begin(found)
        if others:
            self._begin(search_cluster(pool, others, deadline=self._job.options.deadline))
        wait(self._groups)
        for at, left in self._left().items():
            if self.targets[at].outcome is Outcome.UNCONFIRMED:
                self.targets[at] = replace(self.targets[at], reason=f"{self.targets[at].reason} {left}")

    def _begin(self, found: Located) -> None:
        self.targets.update(found.targets)
        for location, positions in found.locations.items():
            group = InstanceWorker(self._job, location, positions)
            self._groups[self._executor.submit(group.run)] = group

    def _left(self) -> dict[int, str]:
        """Return what of our own KILLs may still run on a server, or that it was ended."""
        endings = self._job.endings
        wait(endings.values(), _WAKE[1])
        return {
            at: (ending.result() or "Our KILL was ended.") if ending.done() else "Our KILL may still run."
            for at, ending in endings.items()
        }

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False)

    def interrupted(self, error: KeyboardInterrupt) -> str:
        """Stop the threads, end what they left on the servers, and say what was sent and what is known of it."""
        self._job.stop.set()
        by_itself, at_most = _WAKE
        left: dict[int, str] = {}
        try:
            _, busy = wait(self._groups, by_itself)
            for future in busy:
                for route in self._groups[future].routes:
                    route.connection.close()
            wait(busy, at_most)
            left = self._left()
        except KeyboardInterrupt:  # a second one
            left[-1] = "tidb_magic did not wait for the statements that still run."
        said = [str(error)] if isinstance(error, Interrupted) else []
        known, ended, not_sent = [], [], []
        for target in self.targets.values():
            if target.outcome is None and target.sent is None:
                not_sent.append(str(int(target.id)))
                continue
            if target.outcome is None:
                said.append(f"{target.statement.sql} was sent; its effect was not observed: check with %tidb_ps.")
                known.append(target.ended(Outcome.UNCONFIRMED, "interrupted before its effect was observed"))
            else:
                ended.append(f"{int(target.id)}: {target.outcome}.")
                known.append(target)
        with suppress(AuditError):
            self._job.audit.ended(known, plan=self._job.options.plan)
        said += ended[:_NAMED]
        if len(ended) > _NAMED:
            said.append(f"{len(ended) - _NAMED:,} more have ended: %tidb_ps --history shows how.")
        if not_sent:
            more = f" and {len(not_sent) - _NAMED:,} more" if len(not_sent) > _NAMED else ""
            said.append(f"Nothing was sent for {', '.join(not_sent[:_NAMED])}{more}.")
        return " ".join([*said, *left.values()])
