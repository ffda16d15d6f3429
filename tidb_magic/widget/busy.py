"""Whether a cell runs, and whether a person may be looking at a table."""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class Busy:
    """Whether a cell runs. Only then a browser's signs of life wait, and a live table goes on without them."""

    unwatched_after = 15.0  # seconds without a sign from a browser, after which a live table rests

    def __init__(self) -> None:
        self.running = False
        self.since = time.monotonic()

    def begins(self, _info: object = None) -> None:
        """Note that a cell begins."""
        self.running = True

    def ends(self, _result: object = None) -> None:
        """Note that a cell has ended."""
        self.running, self.since = False, time.monotonic()

    def watched(self, last: float) -> bool:
        """Tell whether a person may be looking, by the time of the page's last message."""
        return self.running or time.monotonic() - max(last, self.since) < self.unwatched_after

    def follow(self, shell: "InteractiveShell") -> None:
        """Note from now on when cells run. One runs now."""
        if self.begins not in shell.events.callbacks["pre_run_cell"]:
            self.begins()
            shell.events.register("pre_run_cell", self.begins)
            shell.events.register("post_run_cell", self.ends)

    def unfollow(self, shell: "InteractiveShell") -> None:
        """Undo that."""
        if self.begins in shell.events.callbacks["pre_run_cell"]:
            shell.events.unregister("pre_run_cell", self.begins)
            shell.events.unregister("post_run_cell", self.ends)


BUSY = Busy()
