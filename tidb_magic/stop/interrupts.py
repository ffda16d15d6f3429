"""Noticing that a cell or a script is interrupted, or that the process ends."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tidb_magic.connection.client_sessions import CLIENT_SESSIONS, ClientSession
from tidb_magic.connection.deadline import Deadline
from tidb_magic.connection.orphans import ORPHANS
from tidb_magic.errors import TimeLimitError
from tidb_magic.stop.statements import SEARCH, Statements

if TYPE_CHECKING:
    import asyncio

_AGAIN = 0.3  # seconds between two looks at what an interrupted cell waits for
_NOTICED = 0.1  # seconds in which Python notices an interrupt, unless it waits in C
_PROMPT = 1.5  # seconds after which the prompt comes back
LATE = "Interrupted: what your cell left running is still being ended; the next cell says the outcome."


class Stop:
    """Ends the statements of an interrupted cell: those on connections that the interrupt left without a reader.

    While the cell waits for threads that it started, also those that these run; their connections stay usable.

    `mode` returns ``end``, ``ask``, which only says what still runs, or ``off``. `write` prints a line. What is ended
    is waited for `patience` seconds; if that takes longer, `late` is printed.
    """

    def __init__(
        self,
        mode: Callable[[], str],
        write: Callable[[str], object] = print,
        patience: float = _PROMPT,
        late: str = LATE,
    ) -> None:
        self._wanted, self._write, self._patience, self._late = mode, write, patience, late
        self._limited = False  # the cell has a limit of time, after which all is ended
        self._statements = Statements(self._mode)
        self._interrupted = False
        self._due = Deadline(patience)  # when the prompt comes back; runs from the interrupt
        self._used: list[ClientSession] = []  # in use by the cell when it was interrupted
        self._unread: list[ClientSession] = []  # had rows to send before the cell began
        self._ended = set[tuple[int, str]]()  # ID and HOST of those that were ended at the interrupt
        self._over = threading.Event()  # the cell has ended
        self._ending = threading.Lock()  # held while a statement is ended that a thread waits for
        self._others: set[threading.Thread] = set()  # threads that were there before the cell
        self._before: Any = None  # how SIGINT was handled
        self._wakes: socket.socket | None = None  # is written to when a signal arrives, also while the cell waits in C
        self._woken = -1  # what was written to before
        self._loop: asyncio.AbstractEventLoop | None = None  # that runs the cell
        self._at_term: Any = None  # how SIGTERM was handled
        self._said: list[str] = []  # what became of statements, and is not printed yet

    def _mode(self) -> str:
        return "end" if self._limited else self._wanted()

    def follow(self, folder: Path | None = None) -> None:
        """Begin. In the folder is a record of what is open, for the case that this process is ended by force."""
        CLIENT_SESSIONS.opened = lambda session: self._mode() != "off" and self._statements.open(session)
        if folder is not None:
            CLIENT_SESSIONS.changed = ORPHANS.note
            ORPHANS.follow(folder)
        CLIENT_SESSIONS.follow()
        if count := len(ORPHANS.left):
            where = ", ".join(sorted({one.address for one in ORPHANS.left}))
            what = "a connection" if count == 1 else f"{count} connections"
            self._write(
                f"A kernel that was ended by force had {what} to {where}: a statement there may still run."
                " To list it: %tidb_ps --orphans"
            )
        if _in_main_thread():
            self._at_term = signal.signal(signal.SIGTERM, self._terminated)
            reads, self._wakes = socket.socketpair()
            self._wakes.settimeout(0)
            threading.Thread(target=self._watch, args=(reads,), name="tidb_magic-stop", daemon=True).start()
            # While threads can still be started, unlike those of the module atexit.
            threading._register_atexit(self._exits)  # type: ignore[attr-defined]  # noqa: SLF001

    def unfollow(self) -> None:
        """End, and put everything back."""
        if signal.getsignal(signal.SIGTERM) == self._terminated and _in_main_thread():
            signal.signal(signal.SIGTERM, self._at_term or signal.SIG_DFL)
        self._let_go()
        if self._wakes is not None:
            self._wakes.close()
            self._wakes = None
        CLIENT_SESSIONS.unfollow()
        ORPHANS.unfollow()
        self._statements.close()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Interrupt what runs in the main thread after that time, and end its statements whatever `mode` is.

        Raises
        ------
        TimeLimitError
            In the place of what was raised then.
        """
        reached = threading.Event()

        def interrupt() -> None:
            reached.set()
            os.kill(os.getpid(), signal.SIGINT)

        timer, self._limited = threading.Timer(seconds, interrupt), True
        timer.daemon = True
        timer.start()
        try:
            try:
                yield
            finally:
                timer.cancel()
                timer.join()
        except BaseException:
            if not reached.is_set():
                raise
            raise TimeLimitError(f"The cell reached its limit of {seconds:g} s and was interrupted.") from None

    # -- cells -------------------------------------------------------------------------------------------------

    def begins(self, _info: object = None) -> None:
        """Follow what a cell does, which begins when no KILL for the one before it is on its way."""
        self._settled(SEARCH)
        self._print()
        self._interrupted, self._used, self._unread = False, [], CLIENT_SESSIONS.unread()
        self._ended = set()
        self._over, self._others = threading.Event(), set(threading.enumerate())
        before = signal.getsignal(signal.SIGINT)
        if self._wakes is not None and _in_main_thread() and callable(before) and before != self._note:
            self._before = signal.signal(signal.SIGINT, self._note)
            self._woken = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
            self._loop = _running_loop()

    def _let_go(self) -> None:
        """Put the handling of SIGINT back."""
        if signal.getsignal(signal.SIGINT) == self._note and _in_main_thread():
            signal.signal(signal.SIGINT, self._before)
            signal.set_wakeup_fd(self._woken)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Note that the cell is interrupted: a library may catch the exception, or wait for its threads."""
        __tracebackhide__ = True  # the traceback of the cell ends where the cell was
        if not self._interrupted:
            self._interrupted, self._due = True, Deadline(self._patience)
            used = CLIENT_SESSIONS.used_by({threading.get_ident()})
            self._used = used + [one for one in CLIENT_SESSIONS.unread() if one not in [*used, *self._unread]]
            if self._mode() == "end":
                others = [one for one in self._used if not one.drop()]
                self._used = [one for one in self._used if one not in others]
                if others and self._wait(others, self._due):
                    self._ended = {(one.id, one.host) for one in others}
        self._before(number, frame)

    def _watch(self, reads: socket.socket) -> None:
        """Wait for signals. A handler in Python does not run while the cell waits in a driver that is written in C."""
        with reads:
            while numbers := reads.recv(64):
                if self._woken != -1:
                    with suppress(OSError):
                        os.write(self._woken, numbers)
                if self._loop is not None:  # else an asynchronous cell is not cancelled before the next message comes
                    self._loop.call_soon_threadsafe(lambda: None)
                if {signal.SIGINT, signal.SIGTERM} & set(numbers) and self._mode() == "end":
                    self._end_in_threads(self._over, self._others)

    def _end_in_threads(self, over: threading.Event, others: set[threading.Thread]) -> None:
        """End the statements of threads that the cell started, until it has ended: it waits for them.

        Also the statement of the cell itself, until it has noticed the signal.
        """
        wait = _NOTICED
        while not over.wait(wait):
            wait = _AGAIN
            threads = {thread.ident for thread in threading.enumerate() if thread not in others}
            if not self._interrupted:
                threads.add(threading.main_thread().ident)
            with self._ending:
                for ones in _by_address(CLIENT_SESSIONS.used_by(threads)):
                    self._said += self._statements.end(ones, query=True)

    def ends(self, error: BaseException | None) -> None:
        """End what the cell has left, which ends now: with this error, or without one."""
        self._over.set()
        self._let_go()
        left = [one for one in CLIENT_SESSIONS.left(self._used) if (one.id, one.host) not in self._ended]
        if (self._interrupted or _is_interrupt(error)) and self._mode() != "off":
            with suppress(KeyboardInterrupt):  # another Stop: nothing is waited for any more
                seconds = max(self._due.left, _AGAIN) if self._interrupted else self._patience
                self._wait(left, Deadline(seconds))
        self._interrupted = False
        self._limited = False
        self._print()

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """End what all connections of this process run: Jupyter restarts a busy kernel, or shuts it down."""
        if self._mode() == "end":
            self._wait(CLIENT_SESSIONS.all(), Deadline(self._patience))
        signal.signal(signal.SIGTERM, self._at_term or signal.SIG_DFL)
        if callable(self._at_term):
            self._at_term(number, frame)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def _exits(self) -> None:
        """End what threads run when the process ends: nothing tells later that it was left."""
        if self._wakes is None:
            return
        used = CLIENT_SESSIONS.used_by({thread.ident for thread in threading.enumerate()})
        if used and self._mode() == "end":
            self._wait(used, Deadline(self._patience))
        ORPHANS.unfollow()

    def _wait(self, sessions: list[ClientSession], due: Deadline) -> bool:
        """End what still runs, and print what became of it; what takes long is printed before the next cell.

        Return whether all is known by then.
        """
        threads = [
            threading.Thread(target=self._end, args=(ones,), name="tidb_magic-stop", daemon=True)
            for ones in _by_address(sessions)
        ]
        for thread in threads:
            thread.start()
        late = True
        try:
            for thread in threads:
                thread.join(due.left)
            late = not self._settled(due.left) or any(thread.is_alive() for thread in threads)
        finally:  # also after another Stop
            if late:
                self._said.append(self._late)
            self._print()
        return not late

    def _settled(self, seconds: float) -> bool:
        """Wait until no statement is being ended that a thread waits for, and return whether that is so."""
        settled = self._ending.acquire(timeout=seconds)
        if settled:
            self._ending.release()
        return settled

    def _end(self, sessions: list[ClientSession]) -> None:
        self._said += self._statements.end(sessions, query=False)

    def _print(self) -> None:
        while self._said:
            self._write(self._said.pop(0))


@contextmanager
def stop_on_interrupt() -> Iterator[None]:
    """End in TiDB what a script leaves running there when it is interrupted, as `%load_ext tidb_magic` does for cells.

    For connections of PyMySQL, and for engines of SQLAlchemy. What became of the statements is printed to stderr. It is
    for the main thread; a kernel that has loaded tidb_magic needs none.

    Examples
    --------
    >>> import tidb_magic
    >>> with tidb_magic.stop_on_interrupt():
    ...     pass  # pd.read_sql(query, engine), and Ctrl-C
    """
    if CLIENT_SESSIONS.followed:
        yield
        return
    late = f"Interrupted: what was running may still run: it did not end within {SEARCH:.0f} s."
    stop = Stop(lambda: "end", partial(print, file=sys.stderr), SEARCH, late)
    stop.follow()
    try:
        stop.begins()
        try:
            yield
        except BaseException as error:
            stop.ends(error)
            raise
        stop.ends(None)
    finally:
        stop.unfollow()


def _by_address(sessions: list[ClientSession]) -> Iterable[list[ClientSession]]:
    """Return the sessions of each user at each address."""
    groups: dict[str, list[ClientSession]] = {}
    for one in sessions:
        groups.setdefault(one.settings.address, []).append(one)
    return groups.values()


def _in_main_thread() -> bool:
    """Tell whether signals can be handled here."""
    return threading.current_thread() is threading.main_thread()


def _running_loop() -> "asyncio.AbstractEventLoop | None":
    """Return the event loop that runs in this thread; importing asyncio takes as long as loading the extension."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.get_running_loop() if asyncio else None
    except RuntimeError:
        return None


def _is_interrupt(error: BaseException | None) -> bool:
    """Tell whether an error is KeyboardInterrupt, or was raised in its place.

    >>> _is_interrupt(ValueError()), _is_interrupt(KeyboardInterrupt())
    (False, True)
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
