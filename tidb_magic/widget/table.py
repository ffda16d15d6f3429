"""The table with Kill buttons: it shows a list, plans, kills, and reads again. It needs a kernel and widgets."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

import anywidget
import traitlets

from tidb_magic.api import Cluster
from tidb_magic.display.render import first_line, statement
from tidb_magic.errors import CopyError, NotConnectedError, TidbMagicError
from tidb_magic.kill.report import KillReport
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.sessions.processlist import ProcessList
from tidb_magic.widget.payload import PART, part, snapshot, tree, values_of

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

ASKED_BACK = 5.0  # seconds in which the browser has to say that a click is still meant
_GRACE = 1.0  # seconds that this answer may be under way, else it is asked back again
_KEPT = 5  # snapshots that a click can be about: the browser may not have drawn the last one yet
_UNWATCHED = 15.0  # seconds without a sign from a browser, after which a live table rests
_REST = 0.5  # seconds between two checks whether the table is watched again
_JOINED = 5.0  # seconds in which a thread ends after its connection was closed
_SHARE = 3  # times as long as a reading takes is the pause after it, at least: an overloaded cluster is left alone
_LONGEST_PAUSE = 30.0  # seconds between two tries while the cluster does not answer
_STATIC = Path(__file__).parent / "static"


@dataclass
class Settings:
    """What of %config TidbMagics the buttons need."""

    deadline: float
    max_victims: int
    timeout: float
    interval: float


@dataclass
class _Ask:
    """A kill that was asked for in the browser: the rows as they were seen there, and when the kernel asked back."""

    rows: ProcessList
    query: bool
    asked: float | None = None


class Busy:
    """Whether a cell runs. Only then a browser's signs of life wait, and a live table goes on without them."""

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
        return self.running or time.monotonic() - max(last, self.since) < _UNWATCHED


BUSY = Busy()
Shown = ProcessList | LockForest
OPEN: "WeakSet[SessionTable]" = WeakSet()


class SessionTable(anywidget.AnyWidget):
    """A list of sessions with Kill buttons, that can be read again, once or all the time.

    `shown` is what it shows, as it was last read. It works in threads and on connections of its own, which end with
    `close`.
    """

    _esm = _STATIC / "sessions.js"
    _css = _STATIC / "sessions.css"
    snapshot = traitlets.Dict().tag(sync=True)
    live = traitlets.Float(0.0, min=0.0, help="Seconds between two readings; 0 reads when asked to.").tag(sync=True)
    pace = traitlets.Float(0.0, help="Seconds between two readings, where each takes long.").tag(sync=True)
    trouble = traitlets.Unicode("").tag(sync=True)
    waiting = traitlets.Int(None, allow_none=True, help="Transactions that wait for locks.").tag(sync=True)

    def _refuse(self, *_: object) -> NoReturn:
        raise CopyError("A table with buttons cannot be copied or pickled. Pass its DataFrame, which is `shown`.")

    __reduce_ex__ = __copy__ = __deepcopy__ = _refuse

    def __init__(self, shown: Shown, settings: Settings, *, live: float = 0.0) -> None:
        self._ended = threading.Event()
        self._lock = threading.RLock()
        self._threads: WeakSet[threading.Thread] = WeakSet()
        self._reader: Cluster | None = None
        frame = frame_of(shown)
        origin = frame.origin
        cluster = origin.cluster() if origin is not None else None
        if origin is None or origin.reload is None or cluster is None:
            raise NotConnectedError("This list has no cluster: list again.")
        self._cluster: Callable[[], Cluster | None] = origin.cluster
        self._reload = origin.reload
        self._settings = settings
        self._rights = cluster.rights
        self._refreshing = threading.Lock()
        self._next = threading.Lock()  # held while one waits for its turn to read
        self._frames: OrderedDict[int, ProcessList] = OrderedDict()
        whole = isinstance(shown, LockForest) or len(frame) == origin.rows
        self._only = None if whole else set(_keys(frame))  # a slice stays one when it is read again
        self._asks: dict[str, _Ask] = {}
        self._sign = time.monotonic()
        self._interval = live or settings.interval
        self._turn = 0  # of switching it on
        self.shown = shown
        super().__init__(snapshot=self._numbered(shown))
        self.on_msg(self._hear)
        OPEN.add(self)
        if isinstance(shown, ProcessList):
            self._work(self._look_for_waiters)
        if live:
            self._start_live(live)

    def __repr__(self) -> str:
        """Return a line for where no widget is shown."""
        return f"<Table of {len(frame_of(self.shown)):,} sessions with Kill buttons, while its kernel lives>"

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._ended.is_set()

    def close(self) -> None:
        """End what it does, and take it out of the page."""
        self._ended.set()
        with self._lock:
            threads, clone = list(self._threads), self._reader
        if clone is not None:
            clone.close()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOINED)
        OPEN.discard(self)
        super().close()

    # -- what the browser says ---------------------------------------------------------------------------------

    def _hear(self, _widget: object, said: Mapping[str, Any], _buffers: object) -> None:
        """Note what was said, and leave the work to a thread: here the kernel waits."""
        self._sign = time.monotonic()
        does: dict[str, Callable[[Mapping[str, Any]], object]] = {
            "here": self._is_here,
            "watching": self._is_watched,
            "rows": self._send_rows,
            "text": self._send_text,
            "plan": partial(self._work, self._plan),
            "kill": self._ask_back,
            "yes": self._yes,
            "no": self._no,
            "refresh": partial(self._work, self._refresh),
            "live": self._switch_live,
        }
        does[said["kind"]](said)

    def _is_here(self, _said: object) -> None:
        self.send({"kind": "here"})

    def _is_watched(self, said: Mapping[str, Any]) -> None:
        if not said["seen"]:
            self._sign -= _UNWATCHED
        self.send({"kind": "here"})

    def _work(self, job: Callable[..., object], *args: object) -> None:
        thread = threading.Thread(target=job, args=args, name="tidb_magic-table", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _send_rows(self, said: Mapping[str, Any]) -> None:
        version, first = said["version"], said["from"]
        frame = self._frames.get(version)
        if frame is not None:
            rows = part(frame.iloc[first : first + PART], frame, self._rights)
            self.send({"kind": "rows", "version": version, "part": rows})

    def _send_text(self, said: Mapping[str, Any]) -> None:
        version, instance, number = said["version"], said["instance"], said["id"]
        frame = self._frames.get(version)
        rows = None if frame is None else _rows(frame, [(instance, number)])
        if rows is not None and "INFO" in rows.columns:
            (text,) = values_of(rows, "INFO")
            self.send({"kind": "text", "version": version, "instance": instance, "id": number, "text": statement(text)})

    # -- kill --------------------------------------------------------------------------------------------------

    def _plan(self, said: Mapping[str, Any]) -> None:
        """Plan the kill of the selected sessions. Sends no KILL."""
        ask = said["ask"]
        frame = self._frames.get(said["version"])
        rows = None if frame is None else _rows(frame, said["sessions"])
        if rows is None:
            error = "This list is out of date: refresh it first."
            self.send({"kind": "planned", "ask": ask, "error": error})
            return
        if len(rows) > (most := self._settings.max_victims):
            error = f"{len(rows):,} sessions are more than max_victims ({most:,}): %config TidbMagics.max_victims."
            self.send({"kind": "planned", "ask": ask, "error": error})
            return
        self._asks[ask] = _Ask(rows, query=bool(said["query"]))
        answer = self._carefully(lambda: self._twin("kill").plan(rows, query=said["query"], deadline=self._deadline))
        age = 0.0 if rows.taken_at is None else time.time() - rows.taken_at.timestamp()
        self.send({"kind": "planned", "ask": ask, "age": max(age, 0.0)} | answer)

    def _no(self, said: Mapping[str, Any]) -> None:
        self._asks.pop(said["ask"], None)

    def _ask_back(self, said: Mapping[str, Any]) -> None:
        """Answer a confirmed kill with a question: it may have waited here while a cell ran."""
        ask = said["ask"]
        if ask not in self._asks:
            self.send({"kind": "killed", "ask": ask, "error": "This was cancelled. Nothing was sent."})
            return
        self._asks[ask].asked = time.monotonic()
        self.send({"kind": "asked", "ask": ask})

    def _yes(self, said: Mapping[str, Any]) -> None:
        """Kill, if the browser was asked back just now."""
        ask = said["ask"]
        asked = self._asks.get(ask)
        if asked is None or asked.asked is None:
            self.send({"kind": "killed", "ask": ask, "error": "This was cancelled. Nothing was sent."})
        elif time.monotonic() - asked.asked > min(max(said["after"], 0), ASKED_BACK) + _GRACE:
            self._ask_back(said)  # the answer waited here, while a cell ran
        else:
            del self._asks[ask]
            self.send({"kind": "sending", "ask": ask})
            self._work(self._kill, ask, asked)

    def _kill(self, ask: str, asked: _Ask) -> None:
        def kill() -> KillReport:
            chosen = self._settings
            return self._twin("kill").kill(
                asked.rows,
                query=asked.query,
                deadline=chosen.deadline,
                timeout=chosen.timeout,
                max_victims=chosen.max_victims,
            )

        answer = self._carefully(kill)
        self.send({"kind": "killed", "ask": ask} | answer)

    def _carefully(self, job: Callable[[], KillReport]) -> dict[str, Any]:
        """Return what a kill or a plan reports; an error as a line, since exceptions of a thread are not displayed."""
        try:
            return _report(job())
        except NotConnectedError as error:
            return {"error": f"{error} Nothing was sent.", "sent": False}
        except TidbMagicError as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001 (see above)
            return {"error": f"{type(error).__name__}: {first_line(error)}"}

    @property
    def _deadline(self) -> float:
        return self._settings.deadline

    # -- read again --------------------------------------------------------------------------------------------

    def _refresh(self, _said: object = None) -> bool:
        """Read the list again, after a reading that is under way. Return whether that worked."""
        if not self._next.acquire(blocking=False):
            return True  # another one waits to read: it reads later than now
        with self._refreshing:
            self._next.release()
            return self._read_again()

    def _read_again(self) -> bool:
        try:
            cluster = self._reader = self._twin(f"list {id(self)}")
            shown = self._reload(cluster, deadline=self._deadline)
            self._rights = cluster.rights
            if isinstance(shown, ProcessList):
                self.waiting = _count_waiting(cluster, self._deadline) if shown.complete else None
            if self._only is not None:
                shown = shown.loc[[key in self._only for key in _keys(shown)]]
            self.shown = shown
            self.snapshot = self._numbered(shown)
            self.trouble = ""
        except Exception as error:  # noqa: BLE001 (exceptions of a thread are not displayed)
            known = isinstance(error, TidbMagicError)
            if isinstance(error, NotConnectedError):
                self.live = 0.0  # that does not come back
            if not self._ended.is_set():
                self.trouble = str(error) if known else f"{type(error).__name__}: {first_line(error)}"
            return False
        return True

    def _look_for_waiters(self) -> None:
        """Add to what is shown how many wait for locks, which is asked when the list is there already."""
        with suppress(TidbMagicError):
            waiting = _count_waiting(self._twin("count"), self._deadline)
            if not self.closed:
                self.waiting = waiting  # a message could arrive before the page listens

    def _switch_live(self, said: Mapping[str, Any]) -> None:
        if said["on"]:
            self._start_live(self._interval)
        else:
            self.live = 0.0

    def _start_live(self, seconds: float) -> None:
        self.live = seconds
        self._turn += 1
        self._work(self._go_on, self._turn)

    def _go_on(self, turn: int) -> None:
        """Read repeatedly, while the table is watched, until live is switched off or on again."""
        pause = self.live
        while not self._ended.wait(pause) and self.live and turn == self._turn:
            began = time.monotonic()
            if not BUSY.watched(self._sign):
                pause = _REST
            elif self._refresh():
                pause = self.pace = max(self.live, round(_SHARE * (time.monotonic() - began), 1))
            else:
                pause = min(max(2 * pause, 1.0), _LONGEST_PAUSE)

    # -- small things ------------------------------------------------------------------------------------------

    def _numbered(self, shown: Shown) -> dict[str, Any]:
        version = next(reversed(self._frames), 0) + 1
        self._frames[version] = frame_of(shown)
        while len(self._frames) > _KEPT:
            self._frames.popitem(last=False)
        if isinstance(shown, LockForest):
            return tree(shown, self._rights, version)
        return snapshot(shown, self._rights, version)

    def _twin(self, role: str) -> Cluster:
        """Return a cluster with connections of its own, for this role, while the one of the list is open."""
        cluster = self._cluster()
        if cluster is None or cluster.closed:
            raise NotConnectedError("The cluster of this list was closed: connect and list again.")
        if self.closed:
            raise NotConnectedError("This table was closed: list again.")
        return cluster.clone(role)


def _count_waiting(cluster: Cluster, deadline: float) -> int | None:
    """Return how many transactions wait for locks, None if that cannot be seen."""
    with suppress(TidbMagicError):
        return cluster.waiting(deadline=deadline)
    return None


def _rows(frame: ProcessList, sessions: list[tuple[str, str]]) -> ProcessList | None:
    """Return the rows of these sessions, None unless each is there."""
    wanted = {(instance, int(number)) for instance, number in sessions}
    keys = _keys(frame)
    return frame.loc[[key in wanted for key in keys]] if wanted <= set(keys) else None


def _keys(frame: ProcessList) -> list[tuple[str, int]]:
    return list(zip(frame["INSTANCE"], frame["ID"], strict=True))


def frame_of(shown: Shown) -> ProcessList:
    """Return the rows of a list, or of a lock forest."""
    return shown.frame if isinstance(shown, LockForest) else shown


def _report(report: KillReport) -> dict[str, Any]:
    """Return what the browser shows of a report; ids as text."""
    names = {
        name: values_of(report, name.upper()) for name in ("instance", "outcome", "reason", "seconds", "statement")
    }
    ids = [str(number) for number in values_of(report, "ID")]
    rows = [dict(zip(("id", *names), row, strict=True)) for row in zip(ids, *names.values(), strict=True)]
    return {"rows": rows, "remarks": list(report.remarks)}


# -- where a frame is shown ------------------------------------------------------------------------------------


def watch(shell: "InteractiveShell") -> None:
    """Note from now on when cells run. One runs now."""
    if BUSY.begins not in shell.events.callbacks["pre_run_cell"]:
        BUSY.begins()
        shell.events.register("pre_run_cell", BUSY.begins)
        shell.events.register("post_run_cell", BUSY.ends)


def close_all(shell: "InteractiveShell") -> None:
    """Close every table of this kernel."""
    for event, callback in (("pre_run_cell", BUSY.begins), ("post_run_cell", BUSY.ends)):
        if callback in shell.events.callbacks[event]:
            shell.events.unregister(event, callback)
    for table in list(OPEN):
        with suppress(Exception):  # a page that is gone; the others are closed all the same
            table.close()
