"""Who waited for a killed session, by made-up readings; test_locks has the real ones."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tidb_magic.kill.report import KillReport
from tidb_magic.locks import followup
from tidb_magic.locks.followup import _note, _said, _Waiter

GONE = {"transaction 7", "5"}


@dataclass
class Reading:
    """What of a LockForest is looked at."""

    pairs: list[tuple[str, str]]
    heard: frozenset[str] = frozenset({"a:1"})
    waits: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.waits = pd.DataFrame(self.pairs, columns=["WAITER", "HOLDER"])


def after(*readings: Reading) -> _Waiter:
    one = _Waiter("9", "a:1", 9, 5, "t row 1")
    for second, reading in enumerate(readings, 1):
        reading_: Any = reading
        _note([one], GONE, reading_, float(second))
    return one


WAITS, GOES_ON, UNKNOWN = Reading([("9", "transaction 7")]), Reading([]), Reading([], heard=frozenset({"a:2"}))


@pytest.mark.parametrize(
    ("readings", "now", "seconds"),
    [
        ([], "still waiting", None),
        ([WAITS, WAITS], "still waiting", None),
        ([WAITS, GOES_ON], "still waiting", None),  # one reading can miss a wait
        ([WAITS, GOES_ON, WAITS, WAITS], "still waiting", None),
        ([WAITS, GOES_ON, GOES_ON], "no longer waiting", 2.0),
        ([WAITS, GOES_ON, GOES_ON, WAITS], "no longer waiting", 2.0),  # for another reason
        ([UNKNOWN, UNKNOWN], "not known", None),
        ([UNKNOWN, WAITS], "still waiting", None),
        ([UNKNOWN, GOES_ON, GOES_ON], "no longer waiting", 2.0),
        ([Reading([("9", "4")]), Reading([("9", "4")])], "waiting for 4 now", 1.0),
    ],
)
def test_who_waited_goes_on_when_two_readings_agree(readings: list[Reading], now: str, seconds: float | None) -> None:
    one = after(*readings)
    assert (one.now, one.seconds) == (now, seconds)


def test_many_waiters_are_counted_and_a_few_are_named() -> None:
    watched = [_Waiter(str(number), "a:1", number, 5, "t row 1") for number in range(8)]
    watched[3].now, watched[3].seconds = "no longer waiting", 1.26
    for one in watched[4:]:
        one.now, one.seconds = "waiting for 3 now", float(one.id or 0)
    assert _said(watched) == (
        "8 sessions waited; still waiting: 0, 1, 2; no longer waiting: 3 (after 1.3 s);"
        " waiting for 3 now: 4, 5, 6, 7 (after 4.0 to 7.0 s)."
    )
    for one in watched:
        one.now = "no longer waiting"
    assert _said(watched).startswith("8 sessions waited; no longer waiting: 8 sessions (after 1.3 to 7.0 s)")
    assert len(followup._frame(watched)) == 8


def test_a_waiter_that_was_killed_too_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be said to have gone on."""
    waits = {
        "WAITER": ["6"],
        "WAITER_INSTANCE": ["a:1"],
        "WAITER_ID": [6],
        "HOLDER_INSTANCE": ["a:1"],
        "HOLDER_ID": [5],
    }
    before: Any = SimpleNamespace(
        waits=pd.DataFrame(waits | {"LOCK": ["t row 1"]}), frame=pd.DataFrame(columns=["INSTANCE", "ID", "TXN_ID"])
    )
    monkeypatch.setattr(followup, "locks", lambda *_, **__: pytest.fail("nobody is left to be watched"))
    killed = KillReport({"INSTANCE": ["a:1", "a:1"], "ID": [5, 6], "OUTCOME": ["killed", "killed"]})
    pool: Any = None
    assert followup.follow(pool, killed, before, deadline=1.0).waiters is None
