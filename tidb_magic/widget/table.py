"""The table with Kill buttons: it shows a list, plans, kills, and reads again. It needs a kernel and widgets."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

import anywidget
import traitlets

from tidb_magic.api import Cluster
from tidb_magic.display.frame import keys_of, values_of
from tidb_magic.display.render import first_line, statement
from tidb_magic.errors import CopyError, NotConnectedError, TidbMagicError
from tidb_magic.widget.busy import BUSY
from tidb_magic.widget.kill_dialogs import KillDialogs
from tidb_magic.widget.payload import PART, Sent, part
from tidb_magic.widget.settings import TableSettings
from tidb_magic.widget.views import Shown, rows_with, view_of

if TYPE_CHECKING:
    from tidb_magic.sessions.processlist import ProcessList

_KEPT = 5  # snapshots that a click can be about: the browser may not have drawn the last one yet
_REST = 0.5  # seconds between two checks whether the table is watched again
_JOINED = 5.0  # seconds in which a thread ends after its connection was closed
_SHARE = 3  # times as long as a reading takes is the pause after it, at least: an overloaded cluster is left alone
_LONGEST_PAUSE = 30.0  # seconds between two tries while the cluster does not answer
_STATIC = Path(__file__).parent / "static"
# A widget's code is one module, and there is no build step that would join several.
ESM = "\n".join((_STATIC / f"{name}.js").read_text() for name in ("format", "kernel", "kill_dialogs", "table"))


OPEN: "WeakSet[SessionTable]" = WeakSet()


class SessionTable(anywidget.AnyWidget):
    """A list of sessions with Kill buttons, that can be read again, once or all the time.

    `shown` is the list that it shows, `version` the number of that list. It works in threads and on connections of its
    own, which end with `close`.
    """

    _esm = ESM
    _css = _STATIC / "table.css"
    snapshot = traitlets.Dict(help="A list, with its first rows.").tag(sync=True)
    changes = traitlets.Dict(help="A later list, by what differs from the snapshot.").tag(sync=True)
    live = traitlets.Float(0.0, min=0.0, help="Seconds between two readings; 0 reads when asked to.").tag(sync=True)
    pace = traitlets.Float(0.0, help="Seconds between two readings, where each takes long.").tag(sync=True)
    trouble = traitlets.Unicode("").tag(sync=True)
    waiting = traitlets.Int(None, allow_none=True, help="Transactions that wait for locks.").tag(sync=True)

    def _refuse(self, *_: object) -> NoReturn:
        raise CopyError("A table with buttons cannot be copied or pickled. Pass its DataFrame, which is `shown`.")

    __reduce_ex__ = __copy__ = __deepcopy__ = _refuse

    def __init__(self, shown: Shown, settings: TableSettings, *, live: float = 0.0) -> None:
        self._ended = threading.Event()
        self._lock = threading.RLock()
        self._threads: WeakSet[threading.Thread] = WeakSet()
        self._reader: Cluster | None = None
        self._view = view_of(shown)
        frame = self._view.rows(shown)
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
        cut = self._view.can_be_cut and len(frame) != origin.rows
        self._only = set(keys_of(frame)) if cut else None  # a slice stays one when it is read again
        self._kills = KillDialogs(settings, partial(self._twin, "kill"), self.send, self._work)
        self._sign = time.monotonic()
        self._interval = live or settings.interval
        self._turn = 0  # of switching it on
        self._sent = Sent()
        self.version = 0
        super().__init__()
        self._show(shown)
        self.on_msg(self._hear)
        OPEN.add(self)
        if self._view.counts_waiters:
            self._work(self._look_for_waiters)
        if live:
            self._start_live(live)

    def __repr__(self) -> str:
        """Return a line for where no widget is shown."""
        return f"<Table of {len(self._view.rows(self.shown)):,} sessions with Kill buttons, while its kernel lives>"

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
            "kill": self._kills.confirm,
            "yes": self._kills.confirm_again,
            "no": self._kills.cancel,
            "refresh": partial(self._work, self._refresh),
            "whole": partial(self._work, self._send_whole),
            "live": self._switch_live,
        }
        does[said["kind"]](said)

    def _is_here(self, _said: object) -> None:
        self.send({"kind": "here"})

    def _is_watched(self, said: Mapping[str, Any]) -> None:
        if not said["seen"]:
            self._sign -= BUSY.unwatched_after
        self.send({"kind": "here"})

    def _plan(self, said: Mapping[str, Any]) -> None:
        self._kills.plan(said, rows_with(self._frames.get(said["version"]), said["sessions"]))

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
            self.send({"kind": "rows", "version": version, "from": first, "part": rows})

    def _send_text(self, said: Mapping[str, Any]) -> None:
        version, instance, number = said["version"], said["instance"], said["id"]
        rows = rows_with(self._frames.get(version), [(instance, number)])
        if rows is not None and "INFO" in rows.columns:
            (text,) = values_of(rows, "INFO")
            self.send({"kind": "text", "version": version, "instance": instance, "id": number, "text": statement(text)})

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
            if self._view.counts_waiters:
                self.waiting = _count_waiting(cluster, self._deadline) if shown.complete else None
            if self._only is not None:
                shown = shown.loc[[key in self._only for key in keys_of(shown)]]
            self._show(shown)
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

    def _show(self, shown: Shown) -> None:
        """Show a list."""
        self.shown, version = shown, self.version + 1
        self._frames[version] = self._view.rows(shown)
        while len(self._frames) > _KEPT:
            self._frames.popitem(last=False)
        for name, value in self._sent.state(partial(self._view.payload, shown, self._rights, version)).items():
            setattr(self, name, value)
        self.version = version

    def _send_whole(self, _said: object) -> None:
        """Send a snapshot to a page that lacks rows of the last one."""
        with self._refreshing:
            self._sent = Sent()
            self._show(self.shown)

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


def close_all() -> None:
    """Close every table of this kernel."""
    for table in list(OPEN):
        with suppress(Exception):  # a page that is gone; the others are closed all the same
            table.close()
