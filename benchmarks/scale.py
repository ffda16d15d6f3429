"""``python -m benchmarks.scale``: how lists, kills and connecting grow with sessions, instances and distance."""

import asyncio
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import tidb_magic
from benchmarks.crowd import connect, crowd, query
from benchmarks.ratio import HEADER, Ratio, medians, timed
from benchmarks.simulated import Options, simulated
from tidb_magic import Cluster
from tidb_magic.playground import Playground

ACTIVE = 200
_PROCESSES = 4  # that hold sessions open
_COUNT = "SELECT COUNT(*) FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST"
_BARE = (
    "SELECT * FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST"
    " WHERE COMMAND <> 'Sleep' OR TxnStart <> '' OR INFO IS NOT NULL"
    " ORDER BY TIME DESC, INSTANCE, ID LIMIT 200"
)
_DISTANCE = 0.2  # seconds of a round trip
_SIMULATED = Options(instances=1_000, sessions=100_000)


def sessions(few: int = 2_000, many: int = 20_000, *, rounds: int = 20) -> list[Ratio]:
    """Time the default list, and a bare count, of few and of many sessions on three instances."""
    spent = []
    for number in (few, many):
        with ExitStack() as stack:
            playground = stack.enter_context(Playground(instances=3))
            stack.enter_context(_sessions(playground, number))
            cluster = stack.enter_context(tidb_magic.connect(playground.url(0)))
            driver = stack.enter_context(connect(playground, 0))
            pieces: dict[str, Callable[[], Any]] = {
                "list": cluster.processlist,
                "count": partial(query, driver, _COUNT),
            }
            spent.append(medians(pieces, rounds))
    of_few, of_many = spent
    what = f"{ACTIVE} active of {many:,} sessions"
    return [
        Ratio(f"default list, {what}", f"of {few:,}", of_many["list"], of_few["list"], 1.5),
        Ratio(f"bare COUNT(*), {many:,} sessions", f"{few:,}", of_many["count"], of_few["count"]),
        Ratio(f"default list, {many:,} sessions", "bare COUNT(*) of them", of_many["list"], of_many["count"]),
    ]


@contextmanager
def _sessions(playground: Playground, number: int) -> Iterator[None]:
    """Hold that many sessions open, by several processes: each has a limit of open files."""
    spawn = multiprocessing.get_context("spawn")
    stop, ready = spawn.Event(), spawn.Semaphore(0)
    given = (playground, number // _PROCESSES, ACTIVE // _PROCESSES, ready, stop)
    processes = [spawn.Process(target=_hold, args=given, daemon=True) for _ in range(_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        while not ready.acquire(timeout=1):
            if process.exitcode:
                raise RuntimeError("A process could not open its sessions.")
    try:
        yield
    finally:
        stop.set()
        for process in processes:
            process.join()


def _hold(playground: Playground, number: int, running: int, ready: Any, stop: Any) -> None:
    with crowd(playground, number, running=running, in_transaction=0):
        ready.release()
        stop.wait()


def instances(few: int = 3, many: int = 16, *, number: int = 600, rounds: int = 20) -> list[Ratio]:
    """Time lists, locks and kills of the same sessions on few and on many instances."""
    spent = []
    for count in (few, many):
        with ExitStack() as stack:
            playground = stack.enter_context(Playground(instances=count))
            clients = iter(stack.enter_context(crowd(playground, number)))
            cluster = stack.enter_context(tidb_magic.connect(playground.url(0)))
            for _ in range(80):  # those that run a statement, or hold a transaction
                next(clients)
            pieces: dict[str, Callable[[], Any]] = {
                "list": cluster.processlist,
                "locks": cluster.locks,
                "bare": partial(query, stack.enter_context(connect(playground, 0)), _BARE),
            }
            times = medians(pieces, rounds)
            kills = [_kill(cluster, [next(clients).id for _ in range(60)]) for _ in range(6)]
            spent.append(times | {"kills": statistics.median(kills[1:])})
    of_few, of_many = spent
    names = {"list": "default list", "locks": "locks", "kills": "60 kills at once", "bare": "bare statement of a list"}
    ratios = [
        Ratio(f"{name}, {number} sessions on {many} instances", f"on {few}", of_many[what], of_few[what], 1.2)
        for what, name in names.items()
    ]
    return [*ratios[:-1], replace(ratios[-1], most=None)]


def _kill(cluster: Cluster, ids: list[int]) -> float:
    reports: list[Any] = []
    seconds = timed(lambda: reports.append(cluster.kill(ids, max_victims=len(ids))))
    if set(reports[0]["OUTCOME"]) != {"killed"}:
        raise RuntimeError(f"Not all were killed:\n{reports[0]}")
    return seconds


def connecting(*, rounds: int = 3) -> list[Ratio]:
    """Time connecting, and connecting with the first list, to a server that is far away."""
    with Playground(instances=1) as playground, _far_away(playground.port(0)) as url:

        def listed() -> None:
            with tidb_magic.connect(url) as cluster:
                cluster.processlist()

        spent = medians({"connect": lambda: tidb_magic.connect(url).close(), "listed": listed}, rounds, warm_up=1)
    against = f"one round trip of {_DISTANCE * 1000:.0f} ms"
    return [
        Ratio("connect: five", against, spent["connect"], _DISTANCE, 5.25),
        Ratio("connect and the first list", against, spent["listed"], _DISTANCE),
    ]


@contextmanager
def _far_away(port: int) -> Iterator[str]:
    """Forward a port, half of `_DISTANCE` later in each direction."""

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            loop.call_later(_DISTANCE / 2, target.write, data)
        loop.call_later(_DISTANCE / 2, target.close)

    async def accept(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(1.5 * _DISTANCE)  # SYN, its answer, ACK: then the server greets
        with suppress(asyncio.CancelledError):
            await asyncio.gather(pump(source, writer), pump(reader, target))

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        ready.set_result((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
        await over.wait()

    ready, over = Future[tuple[asyncio.AbstractEventLoop, int]](), asyncio.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, listens = ready.result()
    try:
        yield f"mysql://root@127.0.0.1:{listens}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def large(options: Options = _SIMULATED) -> list[Ratio]:
    """Time lists of a simulated cluster: in one statement, and with each instance read separately.

    The memory, and the threads, are those of the process at most.
    """
    one = Options(options.instances, options.sessions, silent=frozenset({options.instances // 2}))
    with simulated(options) as url:
        whole = _in_a_process(url)
    with simulated(one) as url:
        separately = _in_a_process(url)
    what = f"{options.instances:,} simulated instances, {options.sessions:,} sessions"
    return [
        Ratio(f"default list, {what}", "1.5 s", whole["list"], 1.5, 1.0),
        Ratio(
            f"... with one of them silent, which is known: {options.instances:,} are read",
            "1.5 s",
            separately["list"],
            1.5,
        ),
        Ratio(f"all sessions, {what}", "1.5 s", whole["all"], 1.5),
        Ratio("... memory for these", "300 MB", max(whole["memory"], separately["memory"]), 300, 1.0, "MB"),
        Ratio("... threads", "instances", separately["threads"], options.instances, 0.1, "threads"),
    ]


def _in_a_process(url: str) -> dict[str, float]:
    """Return what `lists` returns in a new process, whose memory is that of a script."""
    code = f"import json; from benchmarks.scale import lists; print(json.dumps(lists({url!r})))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def lists(url: str) -> dict[str, float]:
    """Return the medians of lists in seconds, and the most memory (MB) and threads of this process."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            most.append(max(most.pop(), threading.active_count()))

    threading.Thread(target=look, daemon=True).start()
    with tidb_magic.connect(url) as cluster:
        pieces: dict[str, Callable[[], Any]] = {"list": cluster.processlist}
        if cluster.processlist().complete:
            pieces["all"] = partial(cluster.processlist, idle=True, limit=1_000_000)
        spent = medians(pieces, 5)
    over.set()
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return spent | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, "threads": float(most[0])}


def main() -> None:
    """Print the table."""
    print(HEADER)
    for part in (connecting, large, instances, sessions):
        print(*(ratio.line for ratio in part()), sep="\n", flush=True)


if __name__ == "__main__":
    main()
