"""Deadlines, and acts that are due at a moment, in one thread: starting one for each costs more than a statement."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LEAST = 0.05  # seconds that anything gets, however late it is
DEADLINE = 3.0  # seconds, unless a person sets another
PATIENCE = 10  # deadlines that a statement has on an instance that responds, and a list while none has answered
CHECK = 0.25  # of the deadline: after that time the instances are checked for whether they respond
_IDLE = 0.25  # seconds after which the thread ends if nothing waits


@dataclass(eq=False)
class _Watch:
    """An act at a moment of the monotonic clock."""

    moment: float
    act: Callable[[], object]


class Watchdog:
    """Acts when the time of a watch is over, in one thread that lives while there are watches. An act must not wait."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget all watches, as in a forked child: the thread is its parent's."""
        self._changed = threading.Condition()
        self._watches: set[_Watch] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0
        self._leave = False  # the thread does not wait for another watch

    @contextmanager
    def watch(self, seconds: float, act: Callable[[], object]) -> Iterator[None]:
        """Act after that time, unless the block has ended before. After the block the act is not under way either."""
        watch = _Watch(time.monotonic() + seconds, act)
        with self._changed:
            self._watches.add(watch)
            if self._thread is None:
                self._leave = False
                self._thread = threading.Thread(target=self._run, name="tidb_magic-deadlines", daemon=True)
                self._thread.start()
            elif watch.moment < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watches.discard(watch)

    def rest(self) -> None:
        """End the thread now, if nothing waits."""
        with self._changed:
            thread = None if self._watches else self._thread
            self._leave = thread is not None
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while self._thread is not None:
                now = time.monotonic()
                for watch in [one for one in self._watches if one.moment <= now]:
                    self._watches.discard(watch)
                    watch.act()
                idle = not self._watches
                if not self._leave:
                    self._wakes_at = min([now + _IDLE, *(one.moment for one in self._watches)])
                    self._changed.wait(self._wakes_at - now)
                if idle and not self._watches:
                    self._thread = None


WATCHDOG = Watchdog()
os.register_at_fork(after_in_child=WATCHDOG.start_over)


class Deadline:
    """The moment by which something must be done, by the seconds until then."""

    def __init__(self, seconds: float) -> None:
        self.moment = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """The seconds until then, and a few hundredths once it has passed."""
        return max(self.moment - time.monotonic(), LEAST)

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() > self.moment


def hint(deadline: float) -> int:
    """Return a deadline as the hint takes it. 0 would be none."""
    return max(1, round(deadline * 1000))
