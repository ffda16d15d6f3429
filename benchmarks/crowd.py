"""Many real sessions on a playground."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pymysql

from tidb_magic.playground import Playground

RUNNING, IN_TRANSACTION = 60, 20
STATEMENT = "SELECT /* report {}: " + "the text of a usual statement, " * 6 + "*/ SLEEP(3600)"
_STARTED = 30.0  # seconds until all of them run their statements


@dataclass(frozen=True)
class Client:
    """A session as a program holds it open."""

    driver: Any
    id: int
    instance: int

    @property
    def alive(self) -> bool:
        """Whether its session answers."""
        try:
            return bool(query(self.driver, "SELECT 1"))
        except pymysql.Error:
            return False


@contextmanager
def crowd(
    playground: Playground,
    sessions: int,
    *,
    user: str = "root",
    running: int = RUNNING,
    in_transaction: int = IN_TRANSACTION,
) -> Iterator[list[Client]]:
    """Hold that many sessions open, in turn on each instance: some run a statement, some hold a transaction."""
    with ThreadPoolExecutor(8) as executor:
        clients = list(executor.map(partial(_client, playground, user), range(sessions)))
    for number, client in enumerate(clients[:running]):
        threading.Thread(target=_run, args=(client.driver, STATEMENT.format(number)), daemon=True).start()
    for client in clients[running : running + in_transaction]:
        query(client.driver, "BEGIN")
        query(client.driver, "SELECT COUNT(*) FROM mysql.user")
    with ExitStack() as stack:
        hands = [stack.enter_context(connect(playground, number)) for number in range(playground.options.instances)]
        try:
            _wait(hands[0], clients[:running])
            yield clients
        finally:
            for client in clients[:running]:  # a statement would run on after its connection was closed
                query(hands[client.instance], f"KILL TIDB CONNECTION {client.id}")
            for client in clients:
                hang_up(client.driver)


def connect(playground: Playground, instance: int, user: str = "root") -> Any:
    """Open a session on an instance."""
    port = playground.port(instance)
    return pymysql.connect(host="127.0.0.1", port=port, user=user, autocommit=True, database="mysql", ssl_disabled=True)


def hang_up(driver: Any) -> None:
    """End the connection, also while another thread reads from it.

    That thread holds the lock of the file that `close` of the driver closes, so the socket is shut down first, which
    ends the read.
    """
    if driver.open:
        with suppress(OSError):
            driver._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001 (the driver has no call for it)
        driver._force_close()  # noqa: SLF001


def query(driver: Any, sql: str) -> Any:
    """Run a statement and fetch all rows."""
    with driver.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def _client(playground: Playground, user: str, number: int) -> Client:
    instance = number % playground.options.instances
    driver = connect(playground, instance, user)
    return Client(driver, query(driver, "SELECT CONNECTION_ID()")[0][0], instance)


def _run(driver: Any, sql: str) -> None:
    with suppress(pymysql.Error):
        query(driver, sql)


def _wait(driver: Any, clients: list[Client]) -> None:
    """Wait until all of them run their statements."""
    ids, give_up = ", ".join(str(client.id) for client in clients), time.monotonic() + _STARTED
    sql = f"SELECT ID FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE INFO IS NOT NULL AND ID IN ({ids or 0})"
    while len(query(driver, sql)) < len(clients):
        if time.monotonic() > give_up:
            raise RuntimeError("Not all of the statements run.")
        time.sleep(0.1)
