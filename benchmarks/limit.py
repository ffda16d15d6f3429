"""A limit for a whole run: a part that hangs is named, and the process ends."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Run:
    """A run of the benchmarks: the part that it is at, and what stops its servers."""

    def __init__(self, minutes: float) -> None:
        self.part = "The start"
        self.stop: Callable[[], object] = lambda: None
        self._minutes = minutes

    def give_up(self) -> None:
        """Say which part hangs and where each thread is, stop the servers, and end the process.

        No exception would do: a thread that waits for the lock of a file in C code is not interrupted by one.
        """
        print(f"{self.part} did not end: the benchmarks took more than {self._minutes:g} minutes.", file=sys.stderr)
        faulthandler.dump_traceback()
        with suppress(Exception):
            self.stop()
        os._exit(1)


@contextmanager
def limited(minutes: float) -> Iterator[Run]:
    """End the process if the block takes longer."""
    run = Run(minutes)
    timer = threading.Timer(minutes * 60, run.give_up)
    timer.daemon = True
    timer.start()
    try:
        yield run
    finally:
        timer.cancel()
