"""Two pieces of work, timed in turns, and how they compare."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How long `work` takes beside `against`, in seconds, and how it should be at most."""

    work: str
    against: str
    seconds: float
    other: float
    most: float | None = None

    @property
    def value(self) -> float:
        """The ratio."""
        return self.seconds / self.other

    @property
    def line(self) -> str:
        """A row of the table."""
        most = "" if self.most is None else f"{self.most:.2f}x"
        verdict = "" if self.most is None else "yes" if self.value <= self.most else "NO"
        times = f"{self.seconds * 1000:.1f} / {self.other * 1000:.1f} ms"
        return f"| {self.work} / {self.against} | {times} | {self.value:.2f}x | {most} | {verdict} |"


HEADER = "| work / against | median | ratio | at most | holds |\n|---|---|---|---|---|"


def medians(pieces: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time each piece once a round, in turns, so that what else the machine does meets all of them."""
    spent: dict[str, list[float]] = {name: [] for name in pieces}
    for number in range(rounds + 2):
        for name, piece in pieces.items():
            began = time.perf_counter()
            piece()
            if number >= 2:  # the first two warm up
                spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in spent.items()}
