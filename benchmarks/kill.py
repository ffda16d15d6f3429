"""Kills to proof beside looks and KILLs written by hand: a session, a statement, and 200 sessions in a crowd."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.crowd import Client, connect, crowd, query
from benchmarks.ratio import Ratio, medians, timed
from tidb_magic.playground import Playground

HERE = "SELECT * FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {}"
RUNNING = f"{HERE} AND INFO IS NOT NULL"
EVERYWHERE = "SELECT * FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE ID = {}"
AT_ONCE, ONE_BY_ONE = "killed_at_once", "killed_one_by_one"  # users


def single(shell: Any, playground: Playground, *, rounds: int = 40) -> list[Ratio]:
    """Time the kill of one typed id, beside look, KILL, look over a connection to the session's own instance."""
    shell.run_line_magic("load_ext", "tidb_magic")
    shell.run_line_magic("tidb_connect", playground.url(0))
    drivers = [connect(playground, number) for number in range(playground.options.instances)]
    each = math.ceil(rounds / len(drivers))
    ratios = [_sessions(shell, playground, drivers, each), _statements(shell, playground, drivers, each)]
    for driver in drivers:
        driver.close()
    shell.run_line_magic("unload_ext", "tidb_magic")
    return ratios


def many(shell: Any, playground: Playground, *, victims: int = 200, rounds: int = 3) -> list[Ratio]:
    """Time the kill of all sessions of a user, beside look, KILL, look for one after the other in the whole cluster."""
    shell.run_line_magic("load_ext", "tidb_magic")
    shell.run_line_magic("tidb_connect", playground.url(0))
    with connect(playground, 0) as driver:
        for user in (AT_ONCE, ONE_BY_ONE):
            query(driver, f"CREATE USER IF NOT EXISTS {user}")
            query(driver, f"GRANT SELECT ON mysql.* TO {user}")
        spent = [_many(shell, playground, driver, victims) for _ in range(rounds)]
        query(driver, f"DROP USER {AT_ONCE}, {ONE_BY_ONE}")
    shell.run_line_magic("unload_ext", "tidb_magic")
    ours, by_hand = map(statistics.median, zip(*spent, strict=True))
    work = f"%tidb_kill --user, {victims} sessions, to proof"
    return [Ratio(work, "look, KILL, look, one by one, PyMySQL", ours, by_hand, 0.10)]


def _sessions(shell: Any, playground: Playground, drivers: Sequence[Any], each: int) -> Ratio:
    """Kill idle sessions."""
    sessions = 2 * len(drivers) * (each + 1)
    with crowd(playground, sessions, running=0, in_transaction=0) as clients:
        spent = _in_turns(shell, drivers, clients, "", HERE)
        _check_dead(clients)
    return Ratio("%tidb_kill ID, to proof", "look, KILL, look, PyMySQL", *spent, 1.3)


def _statements(shell: Any, playground: Playground, drivers: Sequence[Any], each: int) -> Ratio:
    """Kill running statements."""
    sessions = 2 * len(drivers) * (each + 1)
    with crowd(playground, sessions, running=sessions, in_transaction=0) as clients:
        spent = _in_turns(shell, drivers, clients, "QUERY ", RUNNING)
        if any(len(query(drivers[one.instance], HERE.format(one.id))) != 1 for one in clients):
            raise RuntimeError("KILL QUERY ended a session.")
    return Ratio("%tidb_kill QUERY ID, to proof", "look, KILL, look, PyMySQL", *spent, 1.3)


def _in_turns(
    shell: Any, drivers: Sequence[Any], clients: Sequence[Client], what: str, look: str
) -> tuple[float, float]:
    """Kill a pair on each instance to warm up, then the others; `what` is what TiDB's KILL says before the id."""
    instances, reports = len(drivers), []
    ours = iter([one for at, one in enumerate(clients) if at // instances % 2 == 0])
    others = iter([one for at, one in enumerate(clients) if at // instances % 2 == 1])

    def kill_by_hand() -> None:
        client = next(others)
        _by_hand(drivers[client.instance], look.format(client.id), f"KILL TIDB {what}{client.id}")

    spent = medians(
        {
            "ours": lambda: reports.append(shell.run_line_magic("tidb_kill", f"{what}{next(ours).id}")),
            "by hand": kill_by_hand,
        },
        len(clients) // 2 - instances,
        warm_up=instances,
    )
    _check(reports, "interrupted" if what else "killed", len(clients) // 2)
    return spent["ours"], spent["by hand"]


def _many(shell: Any, playground: Playground, driver: Any, victims: int) -> tuple[float, float]:
    """Kill as many sessions of one user at once, and of another one by one."""
    idle = {"running": 0, "in_transaction": 0}
    line = f"--user {AT_ONCE} --idle --yes --max-victims {victims}"
    reports: list[Any] = []

    def kill_one_by_one() -> None:
        for client in others:
            _by_hand(driver, EVERYWHERE.format(client.id), f"KILL TIDB {client.id}")

    with (
        crowd(playground, victims, user=AT_ONCE, **idle) as ours,
        crowd(playground, victims, user=ONE_BY_ONE, **idle) as others,
    ):
        spent = (
            timed(lambda: reports.append(shell.run_line_magic("tidb_kill", line))),
            timed(kill_one_by_one),
        )
        _check(reports, "killed", victims)
        _check_dead([*ours, *others])
    return spent


def _by_hand(driver: Any, look: str, kill: str) -> None:
    if not query(driver, look):
        raise RuntimeError(f"It is not there: {look}")
    query(driver, kill)
    while query(driver, look):
        pass


def _check(reports: Iterable[Any], outcome: str, count: int) -> None:
    """Make sure that all of them were killed as they should."""
    outcomes = [one for report in reports for one in report["OUTCOME"]]
    if outcomes != [outcome] * count:
        raise RuntimeError(f"Not all of {count} were {outcome}: {outcomes}")


def _check_dead(clients: Iterable[Client]) -> None:
    """Make sure that they are gone, by what their clients see."""
    if living := sum(client.alive for client in clients):
        raise RuntimeError(f"{living} sessions live.")
