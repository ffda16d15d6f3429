"""Who waited for a killed session, by made-up readings; test_locks has the real ones."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest

from tidb_magic import aftermath
from tidb_magic.aftermath import _note, _said, _Waiter

GONE = {"transaction 7", "5"}


@dataclass
class Reading:
    """What of a LockForest is looked at."""

    pairs: list[tuple[str, str]]
    complete: bool = True
    waits: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.waits = pd.DataFrame(self.pairs, columns=["WAITER", "HOLDER"])


def after(*readings: Reading) -> _Waiter:
    one = _Waiter("9", "a:1", 9, 5, "t row 1")
    for second, reading in enumerate(readings, 1):
        reading_: Any = reading
        _note([one], GONE, reading_, float(second))
    return one


WAITS, GOES_ON, UNKNOWN = Reading([("9", "transaction 7")]), Reading([]), Reading([], complete=False)


@pytest.mark.parametrize(
    ("readings", "now", "seconds"),
    [
        ([], "still waits", None),
        ([WAITS, WAITS], "still waits", None),
        ([WAITS, GOES_ON], "still waits", None),  # one reading can miss a wait
        ([WAITS, GOES_ON, WAITS, WAITS], "still waits", None),
        ([WAITS, GOES_ON, GOES_ON], "went on", 2.0),
        ([WAITS, GOES_ON, GOES_ON, WAITS], "went on", 2.0),  # for another reason
        ([UNKNOWN, UNKNOWN], "was not found", None),
        ([UNKNOWN, WAITS], "still waits", None),
        ([UNKNOWN, GOES_ON, GOES_ON], "went on", 2.0),
        ([Reading([("9", "4")]), Reading([("9", "4")])], "waits for 4 now", 1.0),
    ],
)
def test_who_waited_goes_on_when_two_readings_agree(readings: list[Reading], now: str, seconds: float | None) -> None:
    one = after(*readings)
    assert (one.now, one.seconds) == (now, seconds)


def test_many_waiters_are_counted_and_a_few_are_named() -> None:
    watched = [_Waiter(str(number), "a:1", number, 5, "t row 1") for number in range(8)]
    (said,) = _said(watched)
    assert said.startswith("8 sessions waited: 0 still waits; 1 still waits; ")
    assert said.endswith("; 3 more in .waiters.")
    assert len(aftermath._frame(watched)) == 8
