"""Two pieces of work, timed in turns, and how they compare."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How long `work` takes beside `against`, in seconds, and how it should be at most; or how many MB it takes."""

    work: str
    against: str
    seconds: float
    other: float
    most: float | None = None
    unit: str = "ms"

    @property
    def value(self) -> float:
        """The ratio."""
        return self.seconds / self.other

    @property
    def line(self) -> str:
        """A row of the table."""
        most = "" if self.most is None else f"{self.most:.2f}x"
        verdict = "" if self.most is None else "yes" if self.value <= self.most else "NO"
        scale = 1000 if self.unit == "ms" else 1
        both = f"{self.seconds * scale:.1f} / {self.other * scale:.1f} {self.unit}"
        return f"| {self.work} / {self.against} | {both} | {self.value:.2f}x | {most} | {verdict} |"


HEADER = "| work / against | median | ratio | at most | holds |\n|---|---|---|---|---|"


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(pieces: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2) -> dict[str, float]:
    """Time each piece once a round, in turns, so that what else the machine does meets all of them.

    The rounds that warm up come before, and do not count.
    """
    spent: dict[str, list[float]] = {name: [] for name in pieces}
    for _ in range(warm_up + rounds):
        for name, piece in pieces.items():
            spent[name].append(timed(piece))
    return {name: statistics.median(times[warm_up:]) for name, times in spent.items()}
