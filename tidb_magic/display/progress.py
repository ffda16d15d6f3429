"""One line that says what is being waited for, for the person at a terminal or in a notebook's cell."""

import sys
import threading


class Line:
    """A line on stderr that is rewritten in place.

    It is not shown to programs: without a terminal or IPython, and in other threads than the main one.
    """

    def __init__(self) -> None:
        ipython = sys.modules.get("IPython")
        person = (ipython is not None and ipython.get_ipython() is not None) or (
            sys.stderr is not None and sys.stderr.isatty()
        )
        self._shown = person and threading.current_thread() is threading.main_thread()
        self._text = ""
        self._lock = threading.Lock()

    def show(self, text: str) -> None:
        """Show this text in the place of the one before."""
        with self._lock:
            if self._shown and text != self._text:
                self._write(f"\r{text.ljust(len(self._text))}")
                self._text = text

    def clear(self) -> None:
        """Take the line away, for good."""
        with self._lock:
            if self._text:
                self._write(f"\r{' ' * len(self._text)}\r")
            self._shown, self._text = False, ""

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
