"""``python -m benchmarks.on_fire``: lists and kills on a cluster whose CPUs are saturated, beside those by hand.

Heavy statements run on three instances, and busy loops beside them. A needless failure is an error, a list that is not
complete though every instance runs, or a kill whose outcome is not ``interrupted``.
"""

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import Any
from unittest.mock import patch

import pymysql

import tidb_magic
from benchmarks.crowd import connect, query
from benchmarks.ratio import HEADER, Ratio
from tests.balancer import Balancer
from tidb_magic import Cluster
from tidb_magic.connection.deadline import DEADLINE
from tidb_magic.kill.instance_worker import TIMEOUT
from tidb_magic.playground import Playground

HEAVY = (
    "SELECT /* on fire */ COUNT(*) FROM INFORMATION_SCHEMA.COLUMNS AS a, INFORMATION_SCHEMA.COLUMNS AS b,"
    " INFORMATION_SCHEMA.COLUMNS AS c"
)
CLUSTER = "SELECT * FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE COMMAND <> 'Sleep'"
ONE_INSTANCE = "SELECT * FROM INFORMATION_SCHEMA.PROCESSLIST WHERE COMMAND <> 'Sleep'"
LOOK = "SELECT * FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {}"
_MOST = 1.5  # times as long as by hand
_TOGETHER = 10  # rows that are killed at once
_ENDING = 30.0  # seconds until a client hears that its statement was killed
_GIVE_UP = 300.0  # seconds for the start of the statements, and for the end of one that was killed


@dataclass
class Victim:
    """A session that runs a heavy statement until it is killed. `address` is INSTANCE in the process list."""

    instance: int
    address: str
    driver: Any
    id: int
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Run the statement, again if it was killed."""
        if self.thread is not None:
            self.thread.join(_ENDING)
            if self.thread.is_alive():  # the kill failed
                return
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with suppress(pymysql.Error):
            query(self.driver, HEAVY)


@dataclass
class Measured:
    """Seconds of each piece of work, and what failed needlessly."""

    spent: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    failed_by_hand: list[str] = field(default_factory=list)

    def time(self, name: str, work: Callable[[], Any], check: Callable[[Any], str] = lambda _: "") -> None:
        """Time a piece of work; `check` returns what is wrong with its result."""
        began = time.monotonic()
        try:
            wrong = check(work())
        except tidb_magic.TidbMagicError as error:
            wrong = f"{type(error).__name__}: {error}"
        except pymysql.Error as error:
            wrong = ""
            self.failed_by_hand.append(f"{name}: {error}")
        seconds = time.monotonic() - began
        self.spent.setdefault(name, []).append(seconds)
        if wrong:
            self.failures.append(f"{name} after {seconds:.1f} s: {wrong}")

    def ratio(self, work: str, against: str) -> Ratio:
        """Return how the medians compare."""
        ours, theirs = (statistics.median(self.spent[name]) for name in (work, against))
        return Ratio(work, against, ours, theirs, _MOST)


@contextmanager
def on_fire(playground: Playground, statements: int, loops: int) -> Iterator[list[Victim]]:
    """Run that many heavy statements, in turn on each instance, and that many busy loops."""
    victims = []
    for instance in islice(cycle(range(playground.options.instances)), statements):
        driver = connect(playground, instance)
        number = int(query(driver, "SELECT CONNECTION_ID()")[0][0])
        victims.append(Victim(instance, playground.status_address(instance), driver, number))
    hand = connect(playground, 0)
    busy = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(loops)]
    try:
        for process in busy:
            process.start()
        for victim in victims:
            victim.start()
        give_up, started = time.monotonic() + _GIVE_UP, 0
        while started < statements:
            if time.monotonic() > give_up:
                raise RuntimeError("Not all of the statements run.")
            with suppress(pymysql.Error):  # the server itself gives up at times
                started = sum("on fire" in str(row) for row in query(hand, CLUSTER))
        yield victims
    finally:
        for process in busy:
            process.kill()
        hand.close()


def _burn() -> None:
    while True:
        pass


def lists(cluster: Cluster, measured: Measured, by_hand: Callable[[], Any], statements: int, rounds: int) -> None:
    """Time the list of the cluster, beside the same by hand. `statements` is how many it lists at least."""

    def check(listed: Any) -> str:
        if listed.matched < statements:
            return f"{listed.matched} of {statements} statements. {' '.join(listed.remarks)}"
        return ""

    for _ in range(rounds):
        measured.time("list by hand", by_hand)
        measured.time("list", cluster.processlist, check)


def _not_interrupted(report: Any) -> str:
    wrong = report[report["OUTCOME"] != "interrupted"]
    return "; ".join(f"{row['OUTCOME']}: {row['REASON']}" for _, row in wrong.iterrows())


def kills(  # noqa: PLR0913 (what is killed, and how)
    cluster: Cluster,
    measured: Measured,
    hands: Sequence[Any],
    victims: Sequence[Victim],
    rounds: int,
    *,
    by_row: bool = False,
) -> None:
    """Time kills by id or by row, beside the same by hand on the instance of the statement.

    After a kill by id the statement begins again, so that the load stays.
    By hand means: look, KILL, look until the statement is not shown any more. The answer to a KILL proves nothing.
    """
    give_up, wanted = time.monotonic() + _GIVE_UP, {victim.id for victim in victims}
    while not wanted <= set((listed := cluster.processlist(limit=5000))["ID"]):
        if time.monotonic() > give_up:
            raise RuntimeError("No list has all of the statements.")

    def by_hand(victim: Victim) -> None:
        hand = hands[victim.instance]
        for sql in (LOOK, "KILL TIDB QUERY {}"):
            query(hand, sql.format(victim.id))
        give_up = time.monotonic() + _GIVE_UP
        while "on fire" in str(query(hand, LOOK.format(victim.id))):
            if time.monotonic() > give_up:
                raise RuntimeError("The statement that was killed by hand does not end.")

    for ours, theirs in islice(zip(cycle(victims[::2]), cycle(victims[1::2]), strict=False), rounds):
        row = listed[(listed["ID"] == ours.id) & (listed["INSTANCE"] == ours.address)]
        whom = row if by_row else ours.id
        measured.time("kill", partial(cluster.kill, whom, query=True), _not_interrupted)
        measured.time("kill by hand", partial(by_hand, theirs))
        if not by_row:  # a statement that began after the list would be `changed`
            ours.start()
            theirs.start()


def kills_by_rows(cluster: Cluster, measured: Measured, victims: Sequence[Victim], number: int) -> None:
    """Time kills by the rows of a list, several at once; their statements begin again."""

    def check(report: Any) -> str:
        ended.update(report.loc[report["OUTCOME"] == "interrupted", "ID"])
        return _not_interrupted(report)

    chosen, ended = cycle(victims), set[int]()
    for _ in range(0, number, _TOGETHER):
        some = list(islice(chosen, _TOGETHER))
        listed = cluster.processlist(limit=5000)
        rows = listed[listed["ID"].isin([victim.id for victim in some])]
        if len(rows) < len(some):
            measured.failures.append(f"a list has {len(rows)} of {len(some)} statements. {' '.join(listed.remarks)}")
        measured.time("kill by rows", partial(cluster.kill, rows, query=True), check)
        for victim in some:
            if victim.id in ended:
                victim.start()
        ended.clear()


def compare(  # noqa: PLR0913 (how the cluster is)
    statements: int,
    *,
    loops: int,
    rounds: int,
    global_kill: bool = True,
    balancer: bool = False,
    frozen: bool = False,
    by_row: bool = False,
    rows: int = 0,
    deadline: float = DEADLINE,
) -> Measured:
    """Measure on a cluster of its own; with one instance `frozen` by hand means the others, one after the other."""
    measured = Measured()
    with ExitStack() as stack:
        playground = stack.enter_context(Playground(instances=3, global_kill=global_kill))
        hands = [connect(playground, instance) for instance in range(3)]
        url = playground.url(0)
        if balancer:
            ports = [playground.port(instance) for instance in range(3)]
            url = stack.enter_context(Balancer(ports)).url()
        cluster = stack.enter_context(tidb_magic.connect(url))
        cluster.processlist()
        victims = stack.enter_context(on_fire(playground, statements, loops))
        running = [0, 1] if frozen else [0, 1, 2]
        if frozen:
            playground.freeze(2)
            stack.callback(playground.resume, 2)
        reached = [one for one in victims if one.instance in running]

        def by_hand() -> None:
            for sql, instance in [(ONE_INSTANCE, at) for at in running] if frozen else [(CLUSTER, 0)]:
                query(hands[instance], sql)

        for name, times in (("processlist", {}), ("kill", {"timeout": max(deadline, TIMEOUT)})):
            given = partial(getattr(cluster, name), deadline=deadline, **times)
            stack.enter_context(patch.object(cluster, name, given))
        lists(cluster, measured, by_hand, len(reached), rounds)
        kills(cluster, measured, hands, reached, rounds, by_row=by_row)
        kills_by_rows(cluster, measured, reached[2 * rounds :] if by_row else reached, rows)
    return measured


def main() -> None:
    """Print the table, and what failed needlessly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_fire", description="On a saturated cluster.")
    parser.add_argument("--statements", type=int, nargs="+", default=[36, 150, 300], help="heavy ones")
    parser.add_argument("--loops", type=int, default=12, help="busy loops beside them (default: 12)")
    parser.add_argument("--rounds", type=int, default=8, help="of each piece (default: 8)")
    parser.add_argument("--no-global-kill", action="store_true", help="switch global kill off")
    parser.add_argument("--balancer", action="store_true", help="connect through a balancer")
    parser.add_argument("--frozen", action="store_true", help="freeze one of the three instances")
    parser.add_argument("--by-row", action="store_true", help="kill by the rows of a list, as without global kill")
    parser.add_argument("--rows", type=int, default=0, help="then kill so many rows, ten of each list at once")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="of lists and kills, and the timeout at least")
    options = parser.parse_args()
    by_row = options.by_row or options.no_global_kill
    if by_row and 2 * options.rounds > min(options.statements):
        parser.error("Kills by row need two statements for each round.")
    how = {
        "global_kill": not options.no_global_kill,
        "balancer": options.balancer,
        "frozen": options.frozen,
        "by_row": by_row,
        "rows": options.rows,
        "deadline": options.deadline,
    }
    for statements in options.statements:
        measured = compare(statements, loops=options.loops, rounds=options.rounds, **how)
        print(f"\n{statements} heavy statements, {options.loops} busy loops, {how}", HEADER, sep="\n")
        print(measured.ratio("list", "list by hand").line, measured.ratio("kill", "kill by hand").line, sep="\n")
        print(f"needless failures: {len(measured.failures)}", *measured.failures, sep="\n", flush=True)
        print(f"failed by hand: {len(measured.failed_by_hand)}", *measured.failed_by_hand, sep="\n", flush=True)


if __name__ == "__main__":
    main()
