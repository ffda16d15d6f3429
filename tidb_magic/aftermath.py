"""After root blockers were killed: who waited for them goes on, and when. It is KILL that leaves a lock for a while."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from tidb_magic.errors import TidbMagicError
from tidb_magic.frames import counted
from tidb_magic.link import Link
from tidb_magic.lockforest import LockForest
from tidb_magic.locks import locks
from tidb_magic.processlist import TEXT
from tidb_magic.reports import KillReport
from tidb_magic.targets import Outcome

WATCHED = 30.0  # seconds; a lock's time to live is about 20 (8.5.6, measured)
_PAUSE = 0.25  # seconds between two readings
_NAMED = 5
_STILL, _UNKNOWN, _WENT_ON = "still waits", "was not found", "went on"


@dataclass
class _Waiter:
    """Somebody who waited for a killed session. `since` is when it was not seen to any more."""

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


def waiters(forest: LockForest, victims: Iterable[tuple[str, int]]) -> int:
    """Return how many wait for these sessions directly."""
    return len(_waiters(forest, set(victims)))


def follow(link: Link, report: KillReport, before: LockForest, *, deadline: float) -> KillReport:
    """Watch until everyone who waited for who was killed goes on, 30 s at most, and add that to the report.

    Ctrl-C ends the watching, and is said.
    """
    killed = report[report["OUTCOME"] == Outcome.KILLED]
    victims = set(zip(killed["INSTANCE"], killed["ID"], strict=True))
    watched = [one for one in _waiters(before, victims) if (one.instance, one.id) not in victims]
    if not watched:
        return report
    rows = zip(before.frame["INSTANCE"], before.frame["ID"], before.frame["TXN_ID"], strict=True)
    gone = {f"transaction {number}" for instance, id_, number in rows if (instance, id_) in victims}
    gone |= {str(id_) for _, id_ in victims}
    ended = _watch(link, watched, gone, deadline)
    report.remarks = (*report.remarks, *_said(watched), *ended)
    report.waiters = _frame(watched)
    return report


def _waiters(forest: LockForest, victims: set[tuple[str, int]]) -> list[_Waiter]:
    found: dict[str, _Waiter] = {}
    for row in forest.waits.to_dict("records"):
        if (row["HOLDER_INSTANCE"], row["HOLDER_ID"]) in victims:
            listed = not pd.isna(row["ID"])
            instance, number = (row["INSTANCE"], int(row["ID"])) if listed else (None, None)
            one = _Waiter(row["WAITER"], instance, number, int(row["HOLDER_ID"]), row["LOCK"])
            found.setdefault(one.name, one)
    return list(found.values())


def _watch(link: Link, watched: list[_Waiter], gone: set[str], deadline: float) -> list[str]:
    """Read until nobody waits for those who are gone; return what kept it from that."""
    began = time.monotonic()
    said: list[str] = []
    try:
        while any(one.watched for one in watched) and time.monotonic() - began < WATCHED:
            try:
                now = locks(link, deadline=deadline)
            except TidbMagicError as error:
                said = [str(error)]
            else:
                said = list(now.remarks)
                _note(watched, gone, now, time.monotonic() - began)
            time.sleep(_PAUSE)
    except KeyboardInterrupt:
        return ["Interrupted: what becomes of who waits was not watched to the end."]
    return said if any(one.watched for one in watched) else []


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
        elif not above and not now.complete:  # it may wait where nobody answered
            one.now, one.since = _UNKNOWN, None
        elif one.since is None:  # a reading can miss a wait: another one has to find the same
            one.since = seconds
        else:
            one.now = f"waits for {above[0]} now" if above else _WENT_ON
            one.seconds = one.since


def _said(watched: list[_Waiter]) -> list[str]:
    each = [f"{one.name} {one.now}" + (f" after {one.seconds:.1f} s" if one.seconds else "") for one in watched]
    more = f"; {len(each) - _NAMED} more in .waiters" if len(each) > _NAMED else ""
    return [f"{counted(len(watched), 'session')} waited: {'; '.join(each[:_NAMED])}{more}."]


def _frame(watched: list[_Waiter]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ID": pd.array([one.id for one in watched], dtype="Int64"),
            "INSTANCE": pd.array([one.instance for one in watched], dtype=TEXT),
            "WAITED_FOR": pd.array([one.holder for one in watched], dtype="Int64"),
            "LOCK": pd.array([one.lock for one in watched], dtype=TEXT),
            "NOW": pd.array([one.now for one in watched], dtype=TEXT),
            "SECONDS": pd.array([one.seconds for one in watched], dtype="Float64"),
        }
    )
