"""``python -m benchmarks.stop``: cells are interrupted at random moments on a loaded cluster.

Each cell connects, by one of several drivers, and waits for a statement. Afterwards none may run on, the prompt must be
back within 2 seconds, and the sessions of others must all be there.
"""

import argparse
import random
import statistics
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pymysql

from benchmarks.crowd import connect, crowd, query
from benchmarks.on_fire import HEAVY, on_fire
from benchmarks.ratio import HEADER, Ratio, timed
from tests.clients import eventually
from tests.kernels import Kernel, Stopped, running_kernel, text
from tidb_magic.playground import Playground

OTHERS = 200
DRIVERS = ("pymysql", "mysqlconnector", "asyncmy")
_PROMPT = 2.0  # seconds
_MOST = 1.5  # times as long as by hand
_LATEST = 1.0  # seconds after which a cell is interrupted
_LEFT = 30.0  # seconds in which a statement must have ended
_STATEMENTS = ("SELECT /* of a cell */ SLEEP(300)", HEAVY.replace("on fire", "of a cell"))
_RUNNING = "SELECT * FROM INFORMATION_SCHEMA.PROCESSLIST WHERE INFO LIKE CONCAT('%/* of a ', 'cell */%')"
_SETUP = """%load_ext tidb_magic
import pandas, sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
engines = {{
    driver: (create_async_engine if driver == "asyncmy" else sqlalchemy.create_engine)(url, poolclass=NullPool)
    for driver, url in {urls!r}.items()
}}
statements = {statements!r}"""
_CELL = """with engines[{driver!r}].connect() as c:
    c.exec_driver_sql(statements[{number}]).fetchall()"""
_ASYNC_CELL = """async with engines[{driver!r}].connect() as c:
    (await c.exec_driver_sql(statements[{number}])).fetchall()"""


@dataclass
class Counted:
    """What became of the cells."""

    prompts: dict[str, list[float]] = field(default_factory=dict)  # seconds from Stop until the prompt, by driver
    ended: int = 0  # cells whose statement was ended
    again: int = 0  # cells in which Stop was pressed twice
    left: list[str] = field(default_factory=list)  # statements that ran on, with what was printed
    gone: int = 0  # sessions of others that were hit

    def add(self, driver: str, stopped: Stopped) -> None:
        """Count one cell."""
        self.prompts.setdefault(driver, []).append(stopped.seconds)
        self.ended += "Interrupted: your statement" in stopped.printed
        self.again += stopped.presses > 1

    @property
    def lines(self) -> list[str]:
        """What became of all, and a line for each driver."""
        cells = sum(map(len, self.prompts.values()))
        what = (
            f"{cells} cells were interrupted, {self.ended} with a statement to end; {len(self.left)} statements were"
            f" left, {self.gone} sessions of others were hit; Stop was pressed twice in {self.again} cells."
        )
        return [what, *(_prompts(driver, prompts) for driver, prompts in self.prompts.items()), *self.left]


def _prompts(driver: str, prompts: list[float]) -> str:
    late = sum(one > _PROMPT for one in prompts)
    return (
        f"{driver}: the prompt was back after {statistics.median(prompts):.2f} s (median), {max(prompts):.2f} s (most),"
        f" {late} of {len(prompts)} times after more than {_PROMPT:.0f} s"
    )


def _kernel(stack: ExitStack, urls: dict[str, str]) -> Kernel:
    """Start a kernel in which cells can connect with each of the drivers."""
    kernel = stack.enter_context(running_kernel())
    if outputs := kernel.run(_SETUP.format(urls=urls, statements=_STATEMENTS)):
        raise RuntimeError(f"The cells cannot begin: {text(outputs)}")
    return kernel


def interrupt(times: int, *, statements: int = 0, loops: int = 0, seed: int = 0) -> Counted:
    """Interrupt that many cells, while heavy statements and busy loops run."""
    counted, chance = Counted(), random.Random(seed)  # noqa: S311 (no secret)
    with ExitStack() as stack:
        playground = stack.enter_context(Playground(instances=3))
        hands = [stack.enter_context(connect(playground, instance)) for instance in range(3)]
        others = stack.enter_context(crowd(playground, OTHERS, running=60))
        stack.enter_context(on_fire(playground, statements, loops))
        at = [f"root@127.0.0.1:{playground.port(instance)}" for instance in range(3)]
        urls = {driver: f"mysql+{driver}://{where}" for driver, where in zip(DRIVERS, at, strict=True)}
        kernel = _kernel(stack, urls)
        for number in range(times):
            driver = DRIVERS[number % len(DRIVERS)]
            cell = (_ASYNC_CELL if driver == "asyncmy" else _CELL).format(driver=driver, number=chance.randrange(2))
            stopped = kernel.stop(cell, partial(time.sleep, chance.uniform(0, _LATEST)))
            counted.add(driver, stopped)
            give_up = time.monotonic() + _LEFT
            while left := [row for hand in hands for row in query(hand, _RUNNING)]:
                if time.monotonic() > give_up:
                    counted.left += [f"{driver}: {row[0]} {row[7]}; printed: {stopped.printed!r}" for row in left]
                    for row in left:
                        query(hands[0], f"KILL TIDB CONNECTION {row[0]}")
                    break
        counted.gone = sum(not other.alive for other in others[60:])
        listed = [row[0] for hand in hands for row in query(hand, "SELECT ID FROM INFORMATION_SCHEMA.PROCESSLIST")]
        counted.gone += sum(other.id not in listed for other in others[:60])
    return counted


def compare(rounds: int, *, statements: int, loops: int) -> Ratio:
    """Time Stop beside the same by hand: find the statement in the cluster's list, KILL, look until it is gone."""
    stopping, killing = list[float](), list[float]()
    with ExitStack() as stack:
        playground = stack.enter_context(Playground(instances=3))
        hand, owner = (stack.enter_context(connect(playground, instance)) for instance in (0, 1))
        stack.enter_context(on_fire(playground, statements, loops))
        kernel = _kernel(stack, {"pymysql": f"mysql+pymysql://root@127.0.0.1:{playground.port(1)}"})
        cell = _CELL.format(driver="pymysql", number=1)
        for _ in range(rounds):
            stopped = kernel.stop(cell, lambda: eventually(lambda: query(owner, _RUNNING + " AND TIME > 0")))
            stopping.append(stopped.seconds + timed(lambda: eventually(lambda: not query(owner, _RUNNING))))
            with connect(playground, 1) as driver:
                runs = threading.Thread(target=_run, args=(driver,))
                runs.start()
                eventually(lambda: query(owner, _RUNNING + " AND TIME > 0"))
                killing.append(timed(lambda: _by_hand(hand)))
                runs.join()
    return Ratio("Stop", "by hand", statistics.median(stopping), statistics.median(killing), _MOST)


def _run(driver: Any) -> None:
    with suppress(pymysql.Error):
        query(driver, _STATEMENTS[1])


def _by_hand(hand: Any) -> None:
    """Kill the session of the statement, and look until it is gone; a list that TiDB gives up is asked for again."""
    listed = _RUNNING.replace("PROCESSLIST", "CLUSTER_PROCESSLIST")
    killed = None
    while True:
        with suppress(pymysql.Error):
            found = query(hand, listed)
            if killed and not found:
                return
            if found and not killed:
                killed = query(hand, f"KILL TIDB CONNECTION {found[0][1]}") or True


def main() -> None:
    """Print what was counted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stop", description=__doc__)
    parser.add_argument("--times", type=int, default=300, help="cells (default: 300)")
    parser.add_argument("--statements", type=int, default=12, help="heavy ones that run beside (default: 12)")
    parser.add_argument("--loops", type=int, default=4, help="busy loops beside them (default: 4)")
    parser.add_argument("--by-hand", type=int, default=0, metavar="ROUNDS", help="compare with a kill by hand instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    options = parser.parse_args()
    if options.by_hand:
        print(HEADER, compare(options.by_hand, statements=options.statements, loops=options.loops).line, sep="\n")
        return
    counted = interrupt(options.times, statements=options.statements, loops=options.loops, seed=options.seed)
    print(*counted.lines, sep="\n")


if __name__ == "__main__":
    main()
