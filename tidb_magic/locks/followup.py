"""Kills of root blockers, and after them: which sessions no longer wait, and since when. KILL leaves locks a while.

Whether a session got the lock, gave up (innodb_lock_wait_timeout) or ended is not visible from outside.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tidb_magic.cluster.pool import Pool
from tidb_magic.display.frame import counted, keys_of, typed
from tidb_magic.errors import TidbMagicError
from tidb_magic.kill.audit import Audit
from tidb_magic.kill.executor import kill
from tidb_magic.kill.instance_worker import KillOptions
from tidb_magic.kill.model import Outcome, Target
from tidb_magic.kill.report import KillReport
from tidb_magic.kill.resolve import targets
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.locks.reader import locks

WATCHED = 30.0  # seconds; a lock's time to live is about 20 (8.5.6, measured)
_PAUSE = 0.25  # seconds between two readings
_NAMED = 5
_STILL, _UNKNOWN, _NO_LONGER = "still waiting", "not known", "no longer waiting"


@dataclass
class _Waiter:
    """A session that waited for a killed one. `since` is when it was first observed not to wait."""

    name: str
    instance: str | None
    id: int | None
    holder: int
    lock: str
    now: str = _STILL
    seconds: float | None = None
    since: float | None = None

    @property
    def watched(self) -> bool:
        """Whether it is not known yet what becomes of it."""
        return self.now in (_STILL, _UNKNOWN)


def kill_blockers(
    pool: Pool, blockers: LockForest | pd.DataFrame, options: KillOptions, audit: Audit, *, query: bool
) -> KillReport:
    """Kill the sessions for which others still wait, and watch these continue. Raises what `kill` and `locks` raise."""
    rows = blockers.roots if isinstance(blockers, LockForest) else blockers
    if not len(rows):
        return kill(pool, [], options, audit, remarks=["There is no root blocker to kill."])
    blocking = set(keys_of(rows[rows["BEHIND"] > 0] if "BEHIND" in rows.columns else rows))
    now = locks(pool, deadline=options.deadline)
    wanted = [still_blocking(one, now, blocking) for one in targets(rows, pool, query=query)]
    report = kill(pool, wanted, options, audit)
    if not (options.plan or query):
        return follow(pool, report, now, deadline=options.deadline)
    report.remarks = (*report.remarks, *waiters_of(report, now, query=query))
    return report


def still_blocking(target: Target, now: LockForest, blockers: Collection[tuple[str, int]]) -> Target:
    """Return a target as `changed` if it blocked sessions and none waits for it now."""
    if (target.instance or "", int(target.id)) not in blockers or now.holds_up(target.instance, target.id):
        return target
    unheard = "" if now.complete else ", as far as the responding instances show"
    return target.ended(Outcome.CHANGED, f"no session waits for it any more{unheard}: list again")


def waiters_of(report: KillReport, now: LockForest, *, query: bool) -> list[str]:
    """Return remarks on the sessions that wait for the planned targets, or for those whose statement ended."""
    ones = report[report["OUTCOME"].isin([Outcome.PLANNED, Outcome.INTERRUPTED])]
    waiting = len(_waiters(now, set(keys_of(ones))))
    if not waiting:
        return []
    said = f"{counted(waiting, 'session')} {'waits' if waiting == 1 else 'wait'} for them"
    if query:
        return [f"{said} and may continue to wait: QUERY ends the statement, and the transaction keeps its locks."]
    return [f"{said}: tidb_magic watches them for up to {WATCHED:g} s when they go on."]


def follow(pool: Pool, report: KillReport, before: LockForest, *, deadline: float) -> KillReport:
    """Watch for up to 30 s until no session waits for the killed ones, and add the result to the report.

    Ctrl-C ends the watching, and is said.
    """
    killed = report[report["OUTCOME"] == Outcome.KILLED]
    victims = set(keys_of(killed))
    watched = [one for one in _waiters(before, victims) if (one.instance, one.id) not in victims]
    if not watched:
        return report
    rows = zip(before.frame["INSTANCE"], before.frame["ID"], before.frame["TXN_ID"], strict=True)
    gone = {f"transaction {number}" for instance, id_, number in rows if (instance, id_) in victims}
    gone |= {str(id_) for _, id_ in victims}
    ended = _watch(pool, watched, gone, deadline)
    report.remarks = (*report.remarks, _said(watched), *ended)
    report.waiters = _frame(watched)
    return report


def _waiters(forest: LockForest, victims: set[tuple[str, int]]) -> list[_Waiter]:
    found: dict[str, _Waiter] = {}
    for row in forest.waits.to_dict("records"):
        if (row["HOLDER_INSTANCE"], row["HOLDER_ID"]) in victims:
            listed = not pd.isna(row["WAITER_ID"])
            instance, number = (row["WAITER_INSTANCE"], int(row["WAITER_ID"])) if listed else (None, None)
            one = _Waiter(row["WAITER"], instance, number, int(row["HOLDER_ID"]), row["LOCK"])
            found.setdefault(one.name, one)
    return list(found.values())


def _watch(pool: Pool, watched: list[_Waiter], gone: set[str], deadline: float) -> list[str]:
    """Read until no session waits for the killed ones; return remarks on failures, and on new waits for others."""
    began = time.monotonic()
    said: list[str] = []
    others = ""
    try:
        while any(one.watched for one in watched) and time.monotonic() - began < WATCHED:
            try:
                now = locks(pool, deadline=deadline)
            except TidbMagicError as error:
                said = [str(error)]
            else:
                said, others = list(now.remarks), _others(now)
                _note(watched, gone, now, time.monotonic() - began)
            time.sleep(_PAUSE)
    except KeyboardInterrupt:
        return ["Interrupted: the waiting sessions were not watched to the end."]
    return [*(said if any(one.watched for one in watched) else []), *filter(None, [others])]


def _others(now: LockForest) -> str:
    waiting = len(set(now.waits["WAITER"]))
    return (
        f"{counted(waiting, 'session')} {'waits' if waiting == 1 else 'wait'} now: %tidb_ps --locks." if waiting else ""
    )


def _note(watched: list[_Waiter], gone: set[str], now: LockForest, seconds: float) -> None:
    holders: dict[str, list[str]] = {}
    for waiter, holder in zip(now.waits["WAITER"], now.waits["HOLDER"], strict=True):
        holders.setdefault(waiter, []).append(holder)
    for one in watched:
        if not one.watched:
            continue
        above = holders.get(one.name, [])
        if not gone.isdisjoint(above):
            one.now, one.since = _STILL, None
        elif not above and not (now.complete if one.instance is None else one.instance in now.heard):
            one.now, one.since = _UNKNOWN, None
        elif one.since is None:  # a reading can miss a wait: another one has to find the same
            one.since = seconds
        else:
            one.now = f"waiting for {above[0]} now" if above else _NO_LONGER
            one.seconds = one.since


def _said(watched: list[_Waiter]) -> str:
    """Return what happened to the sessions, grouped; a few are named."""
    same: dict[str, list[_Waiter]] = {}
    for one in watched:
        same.setdefault(one.now, []).append(one)
    parts = []
    for now, ones in same.items():
        names = ", ".join(one.name for one in ones) if len(ones) <= _NAMED else counted(len(ones), "session")
        seconds = sorted(f"{one.seconds:.1f}" for one in ones if one.seconds is not None)
        times = sorted({one.seconds for one in ones if one.seconds is not None})
        took = f"{times[0]:.1f} to {times[-1]:.1f}" if len(set(seconds)) > 1 else "".join(seconds[:1])
        parts.append(f"{now}: {names}" + (f" (after {took} s)" if took else ""))
    return f"{counted(len(watched), 'session')} waited; {'; '.join(parts)}."


def _frame(watched: list[_Waiter]) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {
        "WAITER_ID": [one.id for one in watched],
        "WAITER_INSTANCE": [one.instance for one in watched],
        "WAITED_FOR": [one.holder for one in watched],
        "LOCK": [one.lock for one in watched],
        "NOW": [one.now for one in watched],
        "SECONDS": [one.seconds for one in watched],
    }
    return pd.DataFrame(typed(columns, {"WAITER_ID": "Int64", "WAITED_FOR": "Int64", "SECONDS": "Float64"}))
