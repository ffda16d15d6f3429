"""The sessions that programs in this process have open by PyMySQL, so that what they run can be found in the cluster.

TiDB does not notice that a client has left while a statement runs (8.5.6, pingcap/tidb 57531), and only the client can
tell which sessions are its own: their connect attributes are not visible to others.
"""

import gc
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from types import FrameType, ModuleType

    from tidb_magic.connection.settings import Settings

_DRIVER = "pymysql.connections"


@dataclass(frozen=True)
class ClientSession:
    """A session as it was when it was opened.

    `id` and `host` are ID and HOST in the process list; `settings` are those of its connection. `driver` is a weak
    reference.
    """

    id: int
    host: str
    settings: "Settings"
    driver: Callable[[], Any]

    @property
    def dropped(self) -> bool:
        """Whether its client side is gone, though it was not closed: as PyMySQL leaves it after KeyboardInterrupt."""
        driver = self.driver()
        return driver is None or not driver.open


class ClientSessions:
    """Notes each connection of PyMySQL to a TiDB cluster, those that are open at `follow` too, until it is closed.

    One statement for each new connection asks what the process list has of it: the driver's ID is the proxy's where
    there is one. Other servers are left alone: their greeting tells. `opened` is called with each session.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a handler of signals asks too
        self._sessions: list[ClientSession] = []
        self._undo: list[Callable[[], None]] = []
        self.opened: Callable[[ClientSession], object] = lambda _: None

    @property
    def followed(self) -> bool:
        """Whether connections are noted."""
        return bool(self._undo)

    def follow(self) -> None:
        """Begin. The driver is not imported for that."""
        if module := sys.modules.get(_DRIVER):
            self._wrap(module)
            used = _in_use(sys._current_frames())  # noqa: SLF001 (the only way)
            for one in gc.get_objects():
                if issubclass(type(one), module.Connection) and one.open and id(one) not in used and not _unread(one):
                    self._note(one)
        else:
            finder = _AfterImport(_DRIVER, self._wrap)
            sys.meta_path.insert(0, finder)
            self._undo.append(finder.remove)

    def unfollow(self) -> None:
        """End, and put the driver's functions back."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._sessions.clear()

    def all(self) -> list[ClientSession]:
        """Return the sessions that were not closed."""
        with self._lock:
            return list(self._sessions)

    def used_by(self, threads: Collection[int | None]) -> list[ClientSession]:
        """Return the sessions that these threads use now."""
        used = _in_use(threads)
        return [one for one in self.all() if id(one.driver()) in used and not one.dropped]

    def left(self, used: Collection[ClientSession]) -> list[ClientSession]:
        """Return the sessions whose client side is gone, once, and those of `used` that no thread uses now.

        A driver that is interrupted before it waits for the answer stays open, and would take the late answer for that
        of its next statement.
        """
        with self._lock:
            gone = [one for one in self._sessions if one.dropped]
            self._sessions = [one for one in self._sessions if one not in gone]
            busy = _in_use(sys._current_frames())  # noqa: SLF001 (the only way)
            return gone + [one for one in self._sessions if one in used and id(one.driver()) not in busy]

    def _wrap(self, module: "ModuleType") -> None:
        kind = module.Connection
        connect, close = kind.connect, kind.close

        def connect_and_note(driver: Any, *args: Any, **options: Any) -> None:
            connect(driver, *args, **options)
            self._note(driver)
            if not driver.open:  # our statement took longer than the driver's timeout
                connect(driver, *args, **options)

        def forget_and_close(driver: Any) -> None:
            if driver.open:  # else it was dropped before, and SQLAlchemy tidies up
                self._forget(driver)
            close(driver)

        def undo() -> None:
            kind.connect, kind.close = connect, close

        kind.connect, kind.close = connect_and_note, forget_and_close
        self._undo.append(undo)

    def _note(self, driver: Any) -> None:
        if type(driver).__module__.startswith("tidb_magic.") or "TiDB" not in driver.get_server_info():
            return
        from tidb_magic.connection.settings import Secret
        from tidb_magic.connection.sources import settings_of_pymysql
        from tidb_magic.queries import query

        try:
            settings = settings_of_pymysql(driver, "a connection of PyMySQL")
            driver.query(query("own_session"))
            ((number, host),) = driver._result.rows  # noqa: SLF001 (a cursor could be of any kind)
        except Exception:  # noqa: BLE001 (whatever it is, the program that connects must not notice)
            return
        settings = replace(settings, password=settings.password or Secret(""))  # which is not asked for then
        session = ClientSession(int(number), host.decode() if isinstance(host, bytes) else host, settings, ref(driver))
        self._forget(driver)  # one that has connected again
        with self._lock:
            self._sessions.append(session)
        self.opened(session)

    def _forget(self, driver: Any) -> None:
        with self._lock:
            self._sessions = [one for one in self._sessions if one.driver() is not driver]


def _in_use(threads: Collection[int | None]) -> set[int]:
    """Return the identities of the objects whose methods run now in these threads."""
    found = set()
    for thread, frame in sys._current_frames().items():  # noqa: SLF001 (the only way)
        above: FrameType | None = frame if thread in threads else None
        while above is not None:
            found.add(id(above.f_locals.get("self")))
            above = above.f_back
    return found


def _unread(driver: Any) -> bool:
    """Tell whether a connection has rows that are not read yet, of a cursor that does not fetch them at once."""
    return bool(getattr(driver._result, "unbuffered_active", False))  # noqa: SLF001 (the driver does not tell)


class _AfterImport(MetaPathFinder):
    """Calls a function with a module when that has been imported."""

    def __init__(self, name: str, act: Callable[["ModuleType"], None]) -> None:
        self._name, self._act = name, act

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        """Find the module as others do, and be called once it has run."""
        if name != self._name:
            return None
        self.remove()
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_act(module: "ModuleType") -> None:
                run(module)
                self._act(module)

            spec.loader.exec_module = run_and_act  # type: ignore[method-assign]
        return spec

    def remove(self) -> None:
        """Find nothing any more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


CLIENT_SESSIONS = ClientSessions()
