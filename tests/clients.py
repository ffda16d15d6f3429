"""Other people's sessions on the playground, and waiting for what should happen."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.request import urlopen

import pymysql
import pytest
from pymysql import _auth
from pymysql.constants import COMMAND, ER

from tidb_magic import Cluster
from tidb_magic.playground import Playground

ROWS = 2000
NOT_YET = (ER.DBACCESS_DENIED_ERROR, ER.ACCESS_DENIED_ERROR)  # an instance hears of users a moment later than another
OTHER_WORK = 30.0  # seconds by which a busy machine may be late
LONG = 100.0  # seconds: a deadline that a test which must not wait for it does not reach, however busy the machine is
# Long without using the processor: SLEEP is called for each row and returns 0.
LONG_SELECT = "SELECT /* {} */ SUM(SLEEP(0.05)) FROM test.numbers"


class Client:
    """A session as any program has one; `start` runs a statement in a thread."""

    def __init__(self, playground: Playground, instance: int = 0, user: str = "root", **options: Any) -> None:
        # Without TLS, for which PyMySQL loads all CAs of the system: 20 ms.
        where = {"host": "127.0.0.1", "port": playground.port(instance), "ssl_disabled": True}

        def connected() -> Any:
            try:
                return pymysql.connect(**{**where, "user": user, "autocommit": True, **options})
            except pymysql.OperationalError as error:
                if error.args[0] not in NOT_YET:
                    raise
                return None

        self._thread: threading.Thread | None = None
        self._result: object = None
        self._driver: Any = eventually(connected)
        self._root: dict[str, Any] = {**where, "user": "root", "read_timeout": 2}
        self.id = int(self.query("SELECT CONNECTION_ID()")[0][0])
        self.playground = playground
        self.instance = playground.status_address(instance)

    def query(self, sql: str | bytes) -> tuple[Any, ...]:
        """Return the rows of a statement; the answer of a started one is read first."""
        if self._thread is not threading.current_thread():
            self._wait()
        with self._driver.cursor() as cursor:
            cursor.execute(sql)
            return tuple(cursor.fetchall())

    def become(self, user: str, password: str) -> None:
        """Send COM_CHANGE_USER, as connection pools do; the driver has no call for it."""
        scrambled = _auth.scramble_native_password(password.encode(), self._driver.salt[:20])
        payload = user.encode() + b"\0" + bytes([len(scrambled)]) + scrambled + b"\0"
        payload += struct.pack("<H", 45) + b"mysql_native_password\0"
        self._driver._execute_command(COMMAND.COM_CHANGE_USER, payload)
        packet = self._driver._read_packet()
        if packet.is_auth_switch_request():
            packet.read_uint8()
            packet.read_string()
            salt = packet.read_all()[:20]
            self._driver.write_packet(_auth.scramble_native_password(password.encode(), salt))
            packet = self._driver._read_packet()
        assert packet.is_ok_packet()

    def start(self, sql: str) -> Self:
        def run() -> None:
            try:
                self._result = self.query(sql)
            except pymysql.Error as error:
                self._result = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        return self

    def result(self) -> Any:
        """Return the rows or the error of the started statement, once it has ended."""
        assert self._thread is not None
        self._wait()
        return self._result

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "the statement still runs"

    def error_code(self) -> int:
        """Return the error number that the started statement ended with."""
        result = self.result()
        assert isinstance(result, pymysql.Error), f"it ended without an error: {result}"
        return int(result.args[0])

    @property
    def idle(self) -> bool:
        """Whether no started statement runs; the server can show the latest one for a moment after its answer."""
        return self._thread is None or not self._thread.is_alive()

    def alive(self) -> bool:
        try:
            return self.query("SELECT 1") == ((1,),)
        except pymysql.Error:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.idle:
            with suppress(pymysql.Error), pymysql.connect(**self._root) as root, root.cursor() as cursor:
                cursor.execute(f"KILL TIDB CONNECTION {self.id}")  # else its statement would run on without it
        sock = self._driver._sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread of a running statement
            if self._thread is not None:
                self._thread.join()
            self._driver._force_close()


class Gate(Client):
    """A session for which the statements of others wait until it opens the gate."""

    def statement(self, tag: str, number: int = 0) -> str:
        """Return a statement that runs until then; it works once for each number."""
        self.query(f"SELECT GET_LOCK('gate {self.id} {number}', 0)")
        return f"SELECT /* {tag} */ GET_LOCK('gate {self.id} {number}', 600)"

    def open(self) -> None:
        self.query("SELECT RELEASE_ALL_LOCKS()")


def noted_calls(monkeypatch: pytest.MonkeyPatch, of: type, *names: str) -> list[str]:
    """Return a list that grows by the name of each call of these methods from now on."""
    calls: list[str] = []

    def note(name: str, method: Callable[..., Any]) -> None:
        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return method(*args, **kwargs)

        monkeypatch.setattr(of, name, noted)

    for name in names:
        note(name, getattr(of, name))
    return calls


def waits_for_its_reader(playground: Playground, instance: int = 0) -> bool:
    """Return whether an instance cannot send a result because its client does not read, by its goroutines' stacks.

    While the buffers between server and client are not full, the statement still runs and can be interrupted.
    """
    address = f"http://{playground.status_address(instance)}/debug/pprof/goroutine?debug=2"
    with urlopen(address) as answer:
        stacks = answer.read().decode().split("\n\n")
    return any("[IO wait" in at and "writeChunks" in at and "poll.(*FD).Write" in at for at in stacks)


@contextmanager
def one_float(playground: Playground, instance: int) -> Iterator[tuple[Client, Client]]:
    """Two sessions of an instance whose IDs are the same number as float64."""
    with ExitStack() as stack:
        one, two = (stack.enter_context(Client(playground, instance)) for _ in range(2))
        while float(one.id) != float(two.id):
            one, two = two, stack.enter_context(Client(playground, instance))
        yield one, two


def eventually(condition: Callable[[], Any], *, within: float = 180) -> Any:
    """Return what `condition` gives as soon as it is true."""
    give_up = time.monotonic() + within
    while True:
        if found := condition():
            return found
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.01)


def wait_for_right(playground: Playground, user: str, password: str, *rights: str) -> None:
    """Wait until every instance knows what another one granted to a user: they hear of it a moment later."""

    def known(instance: int) -> bool:
        with Client(playground, instance, user, password=password) as client:
            grants = str(client.query("SHOW GRANTS"))
        return all(right in grants for right in rights)

    for instance in range(playground.options.instances):
        eventually(partial(known, instance))


def statements(cluster: Cluster) -> list[str]:
    """Return a list that grows by every statement that the cluster's connection sends from now on."""
    asked: list[str] = []
    connection = cluster._pool.connection()
    run = connection._run

    def noted(sql: str, args: Any) -> Any:
        asked.append(sql)
        return run(sql, args)

    connection._run = noted  # type: ignore[method-assign]
    return asked
