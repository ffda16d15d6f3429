"""Deadlines, and acts that are due at a moment, in one thread: starting one for each costs more than a statement."""

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

LEAST = 0.05  # seconds that anything gets, however late it is
DEADLINE = 3.0  # seconds, unless a person sets another
PATIENCE = 10  # deadlines that a statement has on an instance that responds, and a list while none has answered
CHECK = 0.25  # of the deadline: after that time the instances are checked for whether they respond
SPREAD = 4  # times as long as an instance took to respond or to answer the others are waited for
_IDLE = 0.25  # seconds after which the thread ends if nothing waits


@dataclass(order=True)
class Watch:
    """An act at a moment of the monotonic clock."""

    moment: float
    number: int
    act: Callable[[], None] = field(compare=False)
    over: bool = field(default=False, compare=False)


def _nothing() -> None:
    pass


class Watchdog:
    """Acts when the time of a watch is over, in one thread that lives while there are watches. An act must not wait."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget all watches, as in a forked child: the thread is its parent's."""
        self._changed = threading.Condition()
        self._watches: list[Watch] = []
        self._numbers = itertools.count()
        self._awake_at: float | None = None  # None while there is no thread
        self._thread: threading.Thread | None = None
        self._leave = False  # the thread does not wait for another watch

    def watch(self, seconds: float, act: Callable[[], None]) -> Watch:
        """Act after that time, unless it is forgotten before."""
        watch = Watch(time.monotonic() + seconds, next(self._numbers), act)
        with self._changed:
            heapq.heappush(self._watches, watch)
            if self._awake_at is None:
                self._awake_at, self._leave = watch.moment, False
                self._thread = threading.Thread(target=self._run, name="tidb_magic-deadlines", daemon=True)
                self._thread.start()
            elif watch.moment < self._awake_at:
                self._changed.notify()
        return watch

    def forget(self, watch: Watch) -> None:
        """Do not act any more. After that the act is not under way either."""
        with self._changed:
            watch.over, watch.act = True, _nothing  # so that a connection is freed before the moment has come

    def rest(self) -> None:
        """End the thread now, if nothing waits."""
        with self._changed:
            thread = None if any(not watch.over for watch in self._watches) else self._thread
            self._leave = thread is not None
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                while self._watches and (self._watches[0].over or self._watches[0].moment <= now):
                    watch = heapq.heappop(self._watches)
                    if not watch.over:
                        watch.act()
                if all(watch.over for watch in self._watches):
                    self._watches.clear()
                if not self._watches and self._idle():
                    self._awake_at = None
                    return
                if self._watches:
                    self._sleep(self._watches[0].moment)

    def _idle(self) -> bool:
        """Wait a moment for the next watch; tell whether none came."""
        if not self._leave:
            self._sleep(time.monotonic() + _IDLE)
        return not self._watches

    def _sleep(self, until: float) -> None:
        self._awake_at = min(until, time.monotonic() + _IDLE)
        self._changed.wait(self._awake_at - time.monotonic())


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
