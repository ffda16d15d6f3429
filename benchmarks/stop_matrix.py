"""``python -m benchmarks.stop_matrix``: Stop for each driver, in each situation, by each path to the cluster.

Each cell waits for TiDB when it is interrupted. Its statements must have ended when the prompt is back, its locks must
be free, and the sessions of others must all be there.
"""

import argparse
import re
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pymysql

from benchmarks.crowd import connect, crowd, query
from tests.balancer import Balancer, HAProxy
from tests.clients import eventually
from tests.kernels import Stopped, running_kernel, text
from tidb_magic.playground import Playground

OTHERS = 200
MYSQLCLIENT = "SQLAlchemy, mysqlclient"  # installs only where the headers of the C library are
INSTANCE = 1  # of the cells, where a path leads to one
PATHS = ("direct", "balancer", "HAProxy", "the tool elsewhere")
SITUATIONS = ("first row", "fetching", "processing rows", "transaction", "threads")
_ROWS_COME = ("fetching", "processing rows")
_ENDED = re.compile(r"Interrupted: your statement on connection (\d+) \(.* was ended \(")
_WAITS = "SELECT SLEEP(300), 'of a cell'"
ROWS = "SELECT a.COLUMN_NAME, 'of a cell' FROM INFORMATION_SCHEMA.COLUMNS a, INFORMATION_SCHEMA.COLUMNS b"
_CHANGE = "UPDATE test.cells SET n = n + 1"
_FREE = "SELECT n FROM test.cells FOR UPDATE NOWAIT"
_RUNNING = "SELECT ID FROM INFORMATION_SCHEMA.PROCESSLIST WHERE INFO LIKE CONCAT('%of a ', 'cell%')"
_LISTED = "SELECT ID FROM INFORMATION_SCHEMA.PROCESSLIST"


@dataclass(frozen=True)
class Driver:
    """How cells use a driver: the functions connect, change, ask and fetch, defined for a `port`."""

    code: str
    asynchronous: bool = False
    streams: bool = True  # rows come one by one
    threads: bool = True


_PYMYSQL = Driver("""
def connect():
    return pymysql.connect(host="127.0.0.1", port=port, user="root")
def ask(c, sql):
    with c.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()
def fetch(c, sql):
    cursor = c.cursor(pymysql.cursors.SSCursor)
    cursor.execute(sql)
    yield from cursor
change = ask
""")
_ENGINE = """
engine = sqlalchemy.create_engine(f"mysql+{name}://root@127.0.0.1:{{port}}", connect_args={arguments})
def connect():
    return engine.connect()
def change(c, sql):
    c.exec_driver_sql(sql)
def ask(c, sql):
    return c.exec_driver_sql(sql).fetchall()
def fetch(c, sql):
    return c.execution_options(stream_results=True).exec_driver_sql(sql)
"""
_ASYNC = """
from sqlalchemy.ext.asyncio import create_async_engine
engine = create_async_engine(f"mysql+{name}://root@127.0.0.1:{{port}}")
async def connect():
    return await engine.connect()
async def change(c, sql):
    await c.exec_driver_sql(sql)
async def ask(c, sql):
    return (await c.exec_driver_sql(sql)).fetchall()
async def fetch(c, sql):
    async with c.stream(sqlalchemy.text(sql)) as rows:
        async for row in rows:
            yield row
"""


def _engine(name: str = "pymysql", arguments: str = "{}", more: str = "") -> str:
    return _ENGINE.format(name=name, arguments=arguments) + more


DRIVERS = {
    "PyMySQL": _PYMYSQL,
    "SQLAlchemy, PyMySQL": Driver(_engine()),
    "SQLAlchemy, mysql-connector": Driver(_engine("mysqlconnector", "{'use_pure': True}"), streams=False),
    "SQLAlchemy, mysql-connector in C": Driver(_engine("mysqlconnector", "{'use_pure': False}"), streams=False),
    MYSQLCLIENT: Driver(_engine("mysqldb", more="fetch = ask"), streams=False),
    "SQLAlchemy, asyncmy": Driver(_ASYNC.format(name="asyncmy"), asynchronous=True),
    "SQLAlchemy, aiomysql": Driver(_ASYNC.format(name="aiomysql"), asynchronous=True),
    "pandas": Driver(
        _engine(
            more="""
import pandas
def ask(c, sql):
    return pandas.read_sql(sqlalchemy.text(sql), c)
def fetch(c, sql):
    return pandas.read_sql(sqlalchemy.text(sql), c.execution_options(stream_results=True), chunksize=1)
"""
        )
    ),
    "polars": Driver(
        _engine(
            more="""
import polars
def ask(c, sql):
    return polars.read_database(sql, c)
def fetch(c, sql):
    return polars.read_database(sql, c.execution_options(stream_results=True), iter_batches=True, batch_size=1)
"""
        )
    ),
    "jupysql": Driver(
        """
%reload_ext sql
%config SqlMagic.autocommit = False
%config SqlMagic.feedback = 0
%config SqlMagic.displaycon = False
def connect():
    global engine
    engine = sqlalchemy.create_engine(f"mysql+pymysql://root@127.0.0.1:{port}")
    get_ipython().run_line_magic("sql", "engine")
def ask(c, sql):
    return get_ipython().run_line_magic("sql", sql)
def fetch(c, sql):
    return list(ask(c, sql))
change = ask
""",
        streams=False,
        threads=False,
    ),
}
_BEGIN = """import mysql.connector  # after pyarrow there is no room for its C library on some machines
import asyncio, pathlib, pymysql, sqlalchemy, time
from concurrent.futures import ThreadPoolExecutor
%load_ext tidb_magic"""


@dataclass(frozen=True)
class Cell:
    """What became of a cell: the seconds until its prompt was back, and what was wrong."""

    driver: str
    situation: str
    path: str
    seconds: float
    wrong: tuple[str, ...]


def _cell(situation: str, *, asynchronous: bool) -> str:
    """Return the code that waits."""
    wait = "await " if asynchronous else ""
    if situation in _ROWS_COME:
        work = f"; {wait}{'asyncio' if asynchronous else 'time'}.sleep(300)" if situation == "processing rows" else ""
        return f"{'async ' * asynchronous}for row in fetch(c, {ROWS!r}):\n    fetched.touch(){work}"
    if situation != "threads":
        return f"{wait}ask(c, {_WAITS!r})"
    if asynchronous:
        return f"await asyncio.gather(ask(c, {_WAITS!r}), ask(d, {_WAITS!r}))"
    return f"with ThreadPoolExecutor(2) as pool:\n    list(pool.map(ask, [c, d], [{_WAITS!r}] * 2))"


class Matrix:
    """Runs cells on a playground, by one path to it."""

    def __init__(self, playground: Playground, path: str, stack: ExitStack) -> None:
        self.playground, self.path = playground, path
        self.kernel = stack.enter_context(running_kernel())
        self.fetched = Path(stack.enter_context(TemporaryDirectory())) / "fetched"
        instances = range(playground.options.instances)
        self.hands = [stack.enter_context(connect(playground, instance)) for instance in instances]

    @contextmanager
    def port(self) -> Iterator[int]:
        """Give the port that the cells connect to."""
        ports = [self.playground.port(instance) for instance in range(len(self.hands))]
        if self.path == "direct":
            yield ports[INSTANCE]
        elif self.path == "the tool elsewhere":
            with Balancer([ports[INSTANCE], *[ports[0]] * 1000]) as balancer:
                yield balancer.port
        else:
            with (Balancer if self.path == "balancer" else HAProxy)(ports) as balancer:
                yield balancer.port

    def running(self) -> set[tuple[int, int]]:
        """Return instance and ID of the sessions that run statements of cells."""
        return self.sessions(_RUNNING)

    def sessions(self, sql: str) -> set[tuple[int, int]]:
        """Return instance and ID of what a statement lists on each instance."""
        return {(instance, row[0]) for instance, hand in enumerate(self.hands) for row in query(hand, sql)}

    def run(self, code: str) -> None:
        """Run a cell; it can print what drivers say of connections that were ended."""
        outputs = self.kernel.run(code)
        if any("ename" in one for one in outputs):
            raise RuntimeError(f"{self.path}: {text(outputs)}")

    def interrupt(self, name: str, situation: str) -> Cell:
        """Interrupt one cell of a driver."""
        driver, seen = DRIVERS[name], set[tuple[int, int]]()
        wait, number = "await " if driver.asynchronous else "", 2 if situation == "threads" else 1
        self.fetched.unlink(missing_ok=True)
        with self.port() as port:
            self.run(f"port, fetched = {port}, pathlib.Path({str(self.fetched)!r})\n{driver.code}")
            self.run("; ".join(f"{one} = {wait}connect()" for one in "cd"[:number]))
            if situation == "transaction":
                self.run(f"_ = {wait}change(c, {_CHANGE!r})")

            def when() -> None:
                nonlocal seen
                seen = eventually(lambda: len(found := self.sessions(_RUNNING + " AND TIME > 0")) == number and found)
                if driver.streams and situation in _ROWS_COME:
                    eventually(self.fetched.exists)

            stopped = self.kernel.stop(_cell(situation, asynchronous=driver.asynchronous), when)
            wrong = tuple(self._wrong(stopped, seen, situation))
        for instance, session in self.running():
            query(self.hands[instance], f"KILL TIDB CONNECTION {session}")
        eventually(lambda: not self.running())
        return Cell(name, situation, self.path, stopped.seconds, wrong)

    def _wrong(self, stopped: Stopped, seen: set[tuple[int, int]], situation: str) -> Iterator[str]:
        streams = situation in _ROWS_COME  # TiDB itself ends a statement whose rows it cannot send any more
        if left := self.running():
            yield f"{left} still run"
        lines = [line for line in stopped.printed.splitlines() if line.startswith("Interrupted:")]
        proven = {int(found[1]) for line in lines if (found := _ENDED.match(line))}
        if len(lines) != len(proven) or not (proven == {number for _, number in seen} or (streams and not lines)):
            yield f"of {seen} it says: {stopped.printed!r}"
        if stopped.presses > 1:
            yield f"Stop was pressed {stopped.presses} times"
        if situation == "transaction":
            try:
                query(self.hands[0], _FREE)
            except pymysql.Error as error:
                yield f"its lock is held: {error}"


def drivers() -> list[str]:
    """Return the names of the drivers that are installed."""
    return [name for name in DRIVERS if name != MYSQLCLIENT or find_spec("MySQLdb")]


def _possible(driver: Driver, situation: str) -> bool:
    if situation == "processing rows":
        return driver.streams
    return driver.threads or situation != "threads"


def matrix(playground: Playground, path: str, names: Sequence[str]) -> Iterator[Cell]:
    """Interrupt cells of these drivers in each situation, beside many sessions of others."""
    with ExitStack() as stack:
        others = stack.enter_context(crowd(playground, OTHERS))
        one = Matrix(playground, path, stack)
        query(one.hands[0], "CREATE TABLE IF NOT EXISTS test.cells (n INT)")
        query(one.hands[0], "REPLACE INTO test.cells VALUES (1)")
        one.run(_BEGIN)
        for name in names:
            for situation in SITUATIONS:
                if _possible(DRIVERS[name], situation):
                    yield one.interrupt(name, situation)
        there = one.sessions(_LISTED)
        if hit := [other.id for other in others if (other.instance, other.id) not in there]:
            raise RuntimeError(f"Sessions of others were hit: {hit}")


def main() -> None:
    """Print each cell with which something was wrong, and a line for each path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stop_matrix", description="Stop, for each driver.")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=PATHS, help="to the cluster (default: all)")
    parser.add_argument("--drivers", nargs="+", choices=drivers(), default=drivers(), help="(default: all)")
    parser.add_argument("--no-global-kill", action="store_true", help="switch global kill off")
    options = parser.parse_args()
    with Playground(instances=3, global_kill=not options.no_global_kill) as playground:
        for path in options.paths:
            seconds, failed = [], 0
            for cell in matrix(playground, path, options.drivers):
                seconds.append(cell.seconds)
                if cell.wrong:
                    failed += 1
                    print(f"{cell.path}, {cell.driver}, {cell.situation}: {'; '.join(cell.wrong)}", flush=True)
            print(
                f"{path}: {len(seconds)} cells were interrupted, {failed} wrongly; the prompt was back after"
                f" {statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s (most)",
                flush=True,
            )


if __name__ == "__main__":
    main()
