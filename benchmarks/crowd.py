"""Many real sessions on a playground."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pymysql

from tidb_magic.playground import Playground

RUNNING, IN_TRANSACTION = 60, 20
STATEMENT = "SELECT /* report {}: " + "the text of a usual statement, " * 6 + "*/ SLEEP(3600)"


@contextmanager
def crowd(playground: Playground, sessions: int) -> Iterator[None]:
    """Hold that many sessions open, spread over the instances: some run a statement, some hold a transaction."""

    def connect(number: int) -> Any:
        port = playground.port(number % playground.options.instances)
        return pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True, database="mysql")

    with ThreadPoolExecutor(8) as executor:
        drivers = list(executor.map(connect, range(sessions)))
    ids = [query(driver, "SELECT CONNECTION_ID()")[0][0] for driver in drivers[:RUNNING]]
    for number, driver in enumerate(drivers[:RUNNING]):
        threading.Thread(target=_run, args=(driver, STATEMENT.format(number)), daemon=True).start()
    for driver in drivers[RUNNING : RUNNING + IN_TRANSACTION]:
        query(driver, "BEGIN")
        query(driver, "SELECT COUNT(*) FROM mysql.user")
    try:
        yield
    finally:
        for number in ids:  # a statement would run on after its connection was closed
            query(drivers[-1], f"KILL TIDB CONNECTION {number}")
        for driver in drivers:
            with suppress(pymysql.Error):
                driver.close()


def query(driver: Any, sql: str) -> Any:
    """Run a statement and fetch all rows."""
    with driver.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def _run(driver: Any, sql: str) -> None:
    with suppress(pymysql.Error):
        query(driver, sql)
