"""``python -m benchmarks.tools``: what the usual tools see and kill on a cluster, beside tidb_magic."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pandas as pd
import pymysql
import sqlalchemy

import tidb_magic
from benchmarks.crowd import Client, connect, crowd, query
from tidb_magic.playground import Playground

HEADER = "| | the usual tools | tidb_magic |\n|---|---|---|"
_LIST = "SELECT * FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST"
_LONG = "SELECT /* {} */ SLEEP(600)"
_STARTED = 30.0  # seconds until a statement runs


@dataclass(frozen=True)
class Row:
    """What was tried, and what came of it."""

    what: str
    theirs: str
    ours: str

    @property
    def line(self) -> str:
        """A row of the table."""
        return f"| {self.what} | {self.theirs} | {self.ours} |"


def compare() -> list[Row]:
    """Try everything, on playgrounds of its own."""
    with Playground(instances=3, connection_ids=64) as playground:
        rows = [seen(playground), absent(playground), replaced(playground), rounded(playground)]
    with Playground(instances=3, global_kill=False, compatible_kill_query=True) as playground:
        return [*rows, elsewhere(playground)]


def seen(playground: Playground) -> Row:
    """List 30 sessions on three instances."""
    with crowd(playground, 30, running=0, in_transaction=0) as clients, connect(playground, 0) as driver:
        ids = {client.id for client in clients}
        there = len(ids & {row[0] for row in query(driver, "SHOW FULL PROCESSLIST")})
        with tidb_magic.connect(playground.url(0)) as cluster:
            here = len(ids & set(cluster.processlist(idle=True)["ID"]))
    return Row("30 sessions on three instances, listed", f"`SHOW PROCESSLIST`: {there}", f"{here}")


def absent(playground: Playground) -> Row:
    """Kill a session that has gone already."""
    with connect(playground, 1) as gone:
        number = query(gone, "SELECT CONNECTION_ID()")[0][0]
    with connect(playground, 0) as driver, tidb_magic.connect(playground.url(0)) as cluster:
        query(driver, f"KILL {number}")
        (warning,) = [row[2] for row in query(driver, "SHOW WARNINGS")] or ["no warning"]
        report = cluster.kill([number])
    return Row("`KILL` of a session that has gone", f"`OK`, {warning}", f"`{report['OUTCOME'].iloc[0]}`")


def replaced(playground: Playground) -> Row:
    """Kill a statement that was listed, after its session went on to another one."""
    theirs = _replaced(playground, lambda frame, _: _kill_query(playground, frame["ID"].iloc[0]))
    ours = _replaced(playground, lambda frame, cluster: cluster.kill(frame, query=True)["OUTCOME"].iloc[0])
    return Row("`KILL QUERY` of a listed statement that has ended since, while the next one runs", theirs, ours)


def _replaced(playground: Playground, kill: Callable[[Any, Any], str]) -> str:
    with tidb_magic.connect(playground.url(0)) as cluster, _running(playground, 1, "listed") as (client, again):
        frame = cluster.processlist(match="listed")
        frame = frame[frame["ID"] == client.id]
        _kill_query(playground, client.id)
        following = again("the next one")
        said = kill(frame, cluster)
        time.sleep(0.5)  # a KILL that was sent has arrived
        state = "the next one runs on" if following.is_alive() else "**the next one was ended**"
    return f"`{said}`, {state}"


def rounded(playground: Playground) -> Row:
    """Take ids through a DataFrame with a missing value."""
    engine = sqlalchemy.create_engine(playground.url(0).replace("mysql:", "mysql+pymysql:"))
    with crowd(playground, 6, running=0, in_transaction=0), tidb_magic.connect(playground.url(0)) as cluster:
        wrong = []
        for frame in (pd.read_sql(_LIST, engine), pd.DataFrame(cluster.processlist(idle=True))):
            ids = set(frame["ID"])
            widened = frame.reindex([*frame.index, len(frame)])["ID"].dropna()
            wrong.append(f"{sum(int(number) not in ids for number in widened)} of {len(ids)}")
    engine.dispose()
    return Row("64-bit ids that are wrong after a `reindex` in pandas", f"`pandas.read_sql`: {wrong[0]}", f"{wrong[1]}")


def elsewhere(playground: Playground) -> Row:
    """Kill a session of another instance where ids are not unique (global kill off, compatible-kill-query on)."""
    results = []
    for kill in (_kill_by_hand, _kill_with_us):
        with _twins(playground) as (meant, stranger):
            said = kill(playground, meant)
            time.sleep(0.5)
            hit = (
                "**a stranger was killed**" if not stranger.alive else "it" if not meant.alive else "nobody was killed"
            )
            results.append(f"{said}, {hit}" if hit != "it" else f"{said}, and only it was killed")
    return Row("`KILL` of a session on another instance, without global kill", *results)


def _kill_by_hand(playground: Playground, meant: Client) -> str:
    with connect(playground, 0) as driver:
        query(driver, f"KILL {meant.id}")
    return "`OK`"


def _kill_with_us(playground: Playground, meant: Client) -> str:
    with tidb_magic.connect(playground.url(0)) as cluster:
        rows = cluster.processlist(idle=True, instance=playground.status_address(meant.instance))
        report = cluster.kill(rows[rows["ID"] == meant.id])
    return f"`{report['OUTCOME'].iloc[0]}`"


def _kill_query(playground: Playground, number: int) -> str:
    with connect(playground, 0) as driver:
        query(driver, f"KILL QUERY {number}")
    return "OK"


@contextmanager
def _running(playground: Playground, instance: int, name: str) -> Iterator[tuple[Client, Callable[[str], Thread]]]:
    """Hold a session that runs a statement, and a function that runs another in it."""
    with connect(playground, instance) as driver, connect(playground, instance) as watcher:
        client = Client(driver, query(driver, "SELECT CONNECTION_ID()")[0][0], instance)
        threads: list[Thread] = []

        def run(text: str) -> Thread:
            for thread in threads:
                thread.join(_STARTED)
            threads.append(Thread(target=_run, args=(driver, text), daemon=True))
            threads[-1].start()
            give_up = time.monotonic() + _STARTED
            while not query(watcher, f"{_HERE} WHERE ID = {client.id} AND INFO LIKE '%{text}%'"):
                if time.monotonic() > give_up:
                    raise TimeoutError(text)
            return threads[-1]

        run(name)
        try:
            yield client, run
        finally:
            query(watcher, f"KILL {client.id}")


_HERE = "SELECT ID FROM INFORMATION_SCHEMA.PROCESSLIST"


def _run(driver: Any, text: str) -> None:
    try:
        query(driver, _LONG.format(text))
    except pymysql.Error as error:
        logging.getLogger(__name__).debug("%s: %s", text, error)


@contextmanager
def _twins(playground: Playground) -> Iterator[tuple[Client, Client]]:
    """Hold two sessions with one id: one on the second instance, and a stranger on the first."""
    held: dict[int, dict[int, Client]] = {0: {}, 1: {}}
    while not (both := held[0].keys() & held[1].keys()):
        behind = min(held, key=lambda instance: max(held[instance], default=0))
        driver = connect(playground, behind)
        client = Client(driver, query(driver, "SELECT CONNECTION_ID()")[0][0], behind)
        held[behind][client.id] = client
    number = max(both)
    try:
        yield held[1][number], held[0][number]
    finally:
        for client in (*held[0].values(), *held[1].values()):
            if client.driver.open:
                client.driver.close()


if __name__ == "__main__":
    print(HEADER, *(row.line for row in compare()), sep="\n")
