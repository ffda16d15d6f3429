"""A small crowd that makes a process list worth reading: ``python -m tidb_magic.playground.workload FOLDER URL...``.

It runs as a process of its own until the playground stops. Whoever is killed comes back after a moment.
"""

import random
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
from pymysql.constants import ER

PASSWORD = "playground"  # noqa: S105 (of throw-away users on loopback)
USERS = {
    "analyst": "no rights but to read the shop",
    "monitor": "PROCESS",
    "oncall": "CONNECTION_ADMIN",
    "app": "reads and writes the shop",
    "batch": "reads and writes the shop",
}
PAUSE = 1.0  # seconds until a killed session comes back

SETUP = [
    "CREATE DATABASE IF NOT EXISTS shop",
    "CREATE TABLE IF NOT EXISTS shop.orders (id BIGINT PRIMARY KEY, region VARCHAR(8), amount DECIMAL(10, 2))",
    "CREATE TABLE IF NOT EXISTS shop.stock (item BIGINT PRIMARY KEY, name VARCHAR(32), quantity INT)",
    *(f"CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{PASSWORD}'" for user in USERS),
    "GRANT SELECT ON shop.* TO analyst, monitor, oncall",
    "GRANT ALL ON shop.* TO app, batch",
    "GRANT PROCESS ON *.* TO monitor",
    "GRANT CONNECTION_ADMIN ON *.* TO oncall",
]
# SLEEP makes them long without using the processor; it returns 0 for each row.
REPORT = (
    "SELECT /* nightly report */ region, COUNT(*) AS orders, SUM(amount) AS revenue, SUM(SLEEP(0.05)) AS waited"
    " FROM orders GROUP BY region ORDER BY revenue DESC"
)
EXPORT = "SELECT /* export for finance */ id, region, amount, SLEEP(0.1) FROM orders WHERE amount > 20 ORDER BY id"
BOOKING = "UPDATE stock SET quantity = quantity - 1 WHERE item = 1"


@dataclass(frozen=True)
class Actor:
    """One session of the crowd: its user, the port of its instance, and the work that it repeats."""

    user: str
    port: int
    work: Callable[[pymysql.Connection], None]


def report(connection: pymysql.Connection) -> None:
    """Run a long SELECT."""
    _run(connection, REPORT)


def export(connection: pymysql.Connection) -> None:
    """Run another long SELECT."""
    _run(connection, EXPORT)


def hold(connection: pymysql.Connection) -> None:
    """Change a row and leave the transaction open, as a program waiting for its user does."""
    _run(connection, "BEGIN")
    _run(connection, BOOKING)
    # Only the socket is watched: a ping would end the idleness that this session is here to show. It turns
    # readable when the server closes the session.
    select.select([connection._sock], [], [])  # type: ignore[attr-defined]  # noqa: SLF001 (the driver offers no other way to watch it)


def book(connection: pymysql.Connection) -> None:
    """Want the row that `hold` holds."""
    _run(connection, "SET innodb_lock_wait_timeout = 3600")
    _run(connection, "BEGIN")  # a waiter in autocommit is listed in DATA_LOCK_WAITS on its own instance only
    _run(connection, BOOKING)
    _run(connection, "COMMIT")
    time.sleep(PAUSE)


def idle(connection: pymysql.Connection) -> None:
    """Wait in a pool."""
    _run(connection, "SELECT 1")
    time.sleep(random.uniform(20, 40))  # noqa: S311 (no secret)


CROWD = [
    ("analyst", report),
    ("batch", report),
    ("analyst", export),
    ("app", hold),
    ("app", book),
    ("batch", book),
    *[("app", idle)] * 6,
]


def main(folder: Path, urls: list[str]) -> None:
    """Set the shop up, let the crowd in, and stay until the folder is gone."""
    ports = [urlsplit(url).port or 0 for url in urls]
    with connect("root", ports[0]) as root:
        for statement in SETUP:
            _run(root, statement)
        with root.cursor() as cursor:
            rows = [(i, random.choice(("north", "south", "east", "west")), i % 997 / 7) for i in range(4000)]  # noqa: S311
            cursor.executemany("INSERT IGNORE INTO shop.orders VALUES (%s, %s, %s)", rows)
            cursor.executemany(
                "INSERT IGNORE INTO shop.stock VALUES (%s, %s, %s)", [(i, f"item {i}", 100) for i in range(50)]
            )
    arrived = []
    for number, (user, work) in enumerate(CROWD):
        first = threading.Event()
        arrived.append(first)
        actor = Actor(user, ports[number % len(ports)], work)
        threading.Thread(target=_live, args=(actor, first), daemon=True).start()
        first.wait(30)  # in this order, so that `hold` holds before anybody waits for it
    (folder / "workload.ready").touch()
    while folder.exists():
        time.sleep(1)


def connect(user: str, port: int) -> pymysql.Connection:
    """Open a session of the crowd."""
    password = "" if user == "root" else PASSWORD
    return pymysql.connect(
        host="127.0.0.1", port=port, user=user, password=password, autocommit=True, ssl_disabled=True
    )


def _live(actor: Actor, first: threading.Event) -> None:
    while True:
        with suppress(pymysql.Error, OSError), connect(actor.user, actor.port) as connection:
            connection.select_db("shop")
            first.set()
            while True:
                try:
                    actor.work(connection)
                except pymysql.OperationalError as error:
                    if error.args[0] != ER.QUERY_INTERRUPTED:  # KILL QUERY leaves the session
                        raise
                    time.sleep(PAUSE)
        time.sleep(PAUSE)


def _run(connection: pymysql.Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
