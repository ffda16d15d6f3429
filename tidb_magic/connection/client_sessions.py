"""The sessions that programs in this process have open by PyMySQL, or by SQLAlchemy with any driver for MySQL.

So what they run can be found in the cluster.

TiDB does not notice that a client has left while a statement runs (8.5.6, pingcap/tidb 57531), and only the client can
tell which sessions are its own: their connect attributes are not visible to others.
"""

import gc
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

if TYPE_CHECKING:
    from types import FrameType, ModuleType

    from tidb_magic.connection.settings import Settings

_DRIVER = "pymysql.connections"
_SQLALCHEMY = "sqlalchemy"
_DIALECTS = ("mysql", "mariadb")


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
        return driver is None or not getattr(driver, "open", True)  # of other drivers SQLAlchemy tells

    def drop(self) -> bool:
        """Close the client side as PyMySQL does at KeyboardInterrupt while it reads; tell whether that is possible.

        Else a driver reads all rows that are still to come when it is interrupted, or when its cursor is closed.
        """
        driver = self.driver()
        if not hasattr(driver, "_force_close"):
            return False
        if _unread(driver):
            driver._result.unbuffered_active = False  # noqa: SLF001 (PyMySQL has no call for it)
            driver._force_close()  # noqa: SLF001
        return True


class ClientSessions:
    """Notes each connection to a TiDB cluster until it is closed.

    Those of PyMySQL, which may be open at `follow`; and those of engines of SQLAlchemy when they are taken from a pool.
    One statement for each new connection asks what the process list has of it: the driver's ID is the proxy's where
    there is one. Other servers are left alone: the greeting of PyMySQL tells, or the answer. `opened` is called with
    each session, `changed` with all of them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a handler of signals asks too
        self._sessions: list[ClientSession] = []
        self._others: WeakSet[Any] = WeakSet()  # dialects of SQLAlchemy and drivers that are left alone
        self._undo: list[Callable[[], None]] = []
        self.opened: Callable[[ClientSession], object] = lambda _: None
        self.changed: Callable[[list[ClientSession]], object] = lambda _: None

    @property
    def followed(self) -> bool:
        """Whether connections are noted."""
        return bool(self._undo)

    def follow(self) -> None:
        """Begin. Neither PyMySQL nor SQLAlchemy is imported for that."""
        for name, act in ((_SQLALCHEMY, self._listen), (_DRIVER, self._wrap)):
            if module := sys.modules.get(name):
                act(module)
            else:
                finder = _AfterImport(name, act)
                sys.meta_path.insert(0, finder)
                self._undo.append(finder.remove)
        if module := sys.modules.get(_DRIVER):
            used = _in_use(sys._current_frames())  # noqa: SLF001 (the only way)
            for one in gc.get_objects():
                if issubclass(type(one), module.Connection) and one.open and id(one) not in used and not _unread(one):
                    self._note(one)

    def unfollow(self) -> None:
        """End, and put the driver's functions back."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._sessions.clear()
        self._others.clear()

    def all(self) -> list[ClientSession]:
        """Return the sessions that were not closed."""
        with self._lock:
            return list(self._sessions)

    def used_by(self, threads: Collection[int | None]) -> list[ClientSession]:
        """Return the sessions that these threads use now."""
        used = _in_use(threads)
        return [one for one in self.all() if id(one.driver()) in used and not one.dropped]

    def unread(self) -> list[ClientSession]:
        """Return the sessions that still send the rows of a cursor which does not fetch them at once."""
        return [one for one in self.all() if _unread(one.driver())]

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
            if driver.open:  # else it was dropped before
                self._forget(driver)
            close(driver)

        def undo() -> None:
            kind.connect, kind.close = connect, close

        kind.connect, kind.close = connect_and_note, forget_and_close
        self._undo.append(undo)

    def _note(self, driver: Any) -> None:
        if type(driver).__module__.startswith("tidb_magic.") or not _is_tidb(driver.get_server_info()):
            self._others.add(driver)
            return
        from tidb_magic.connection.sources import settings_of_pymysql
        from tidb_magic.queries import query

        try:
            settings = settings_of_pymysql(driver, "a connection of PyMySQL")
            driver.query(query("own_session"))
            self._add(driver, settings, driver._result.rows)  # noqa: SLF001 (a cursor could be of any kind)
        except Exception:  # noqa: BLE001 (whatever it is, the program that connects must not notice)
            return

    def _listen(self, module: "ModuleType") -> None:
        """Be told what the engines of SQLAlchemy do, those that exist too."""
        event = module.event
        for kind, name, act in (
            (module.Engine, "engine_connect", self._taken),
            (module.pool.Pool, "invalidate", self._invalidated),
            (module.pool.Pool, "close", self._closed),
        ):
            event.listen(kind, name, act)
            self._undo.append(partial(event.remove, kind, name, act))

    def _taken(self, connection: Any) -> None:
        """Note a connection that was taken from its pool."""
        driver = connection.connection.driver_connection
        if connection.dialect.name not in _DIALECTS or connection.dialect in self._others or driver in self._others:
            return
        if any(one.driver() is driver for one in self.all()):
            return
        from tidb_magic.connection.sources import settings_of_engine
        from tidb_magic.queries import query

        def ask(name: str) -> Any:
            cursor = connection.connection.cursor()
            cursor.execute(query(name))
            rows = cursor.fetchall()
            cursor.close()
            return rows

        try:
            if not self._add(driver, settings_of_engine(connection.engine), ask("own_session")):
                self._others.add(connection.dialect)
        except Exception:  # noqa: BLE001 (whatever it is, the program that connects must not notice)
            self._others.add(driver)
            with suppress(Exception):
                ((version,),) = ask("version")
                if not _is_tidb(_text(version)):
                    self._others.add(connection.dialect)

    def _invalidated(self, _connection: object, record: Any, error: BaseException | None) -> None:
        """Note that a connection is dropped if it was interrupted: KeyboardInterrupt, CancelledError."""
        if error is not None and not isinstance(error, Exception):
            with self._lock:
                self._sessions = [
                    replace(one, driver=_no_driver) if one.driver() is record.driver_connection else one
                    for one in self._sessions
                ]

    def _closed(self, _connection: object, record: Any) -> None:
        self._forget(record.driver_connection)

    def _add(self, driver: Any, settings: "Settings", rows: Any) -> bool:
        """Note the session that a connection says to have, if the server is TiDB; tell whether it is."""
        from tidb_magic.connection.settings import Secret

        ((number, host, version),) = rows
        if not _is_tidb(_text(version)):
            return False
        settings = replace(settings, password=settings.password or Secret(""))  # which is not asked for then
        session = ClientSession(int(number), _text(host), settings, ref(driver))
        with self._lock:  # without the one that the driver had, if it has connected again
            self._sessions = [*(one for one in self._sessions if one.driver() is not driver), session]
            self.changed(self._sessions)
        self.opened(session)
        return True

    def _forget(self, driver: Any) -> None:
        with self._lock:
            kept = [one for one in self._sessions if one.driver() is not driver]
            if kept != self._sessions:  # the driver and SQLAlchemy tell both
                self._sessions = kept
                self.changed(kept)


def _no_driver() -> None:
    """Return nothing, as a weak reference to a driver that is gone."""


def _is_tidb(version: str) -> bool:
    return "TiDB" in version


def _text(value: str | bytes) -> str:
    """Return what a driver gives as text, or as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _in_use(threads: Collection[int | None]) -> set[int]:
    """Return the identities of the objects whose methods run now in these threads, and of cursors' connections."""
    found = set()
    for thread, frame in sys._current_frames().items():  # noqa: SLF001 (the only way)
        above: FrameType | None = frame if thread in threads else None
        while above is not None:
            one = above.f_locals.get("self")
            found |= {id(one), id(getattr(one, "__dict__", {}).get("connection"))}
            above = above.f_back
    return found


def _unread(driver: Any) -> bool:
    """Tell whether a connection has rows that are not read yet, of a cursor that does not fetch them at once.

    As PyMySQL, asyncmy and aiomysql tell, or mysql-connector.
    """
    result = getattr(driver, "_result", None)
    return bool(getattr(result, "unbuffered_active", False) or getattr(driver, "unread_result", False))


class _AfterImport:
    """Calls a function with a module when that has been imported; a finder for `sys.meta_path`."""

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
