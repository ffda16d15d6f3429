"""The list of 2,000 sessions beside PyMySQL, pandas.read_sql and jupysql, and with one instance frozen."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pandas as pd
import pymysql
import sqlalchemy

from benchmarks.crowd import query
from benchmarks.ratio import Ratio, medians, timed
from tidb_magic.playground import Playground

Piece = Callable[[], Any]
EVERYTHING = "SELECT * FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST"


def compare(shell: Any, playground: Playground, sessions: int, *, rounds: int = 40) -> list[Ratio]:
    """Time the lists, in turns, from one IPython shell on the same instance."""
    driver = pymysql.connect(host="127.0.0.1", port=playground.port(0), user="root", autocommit=True)
    alchemy = playground.url(0).replace("mysql://", "mysql+pymysql://")
    engine = sqlalchemy.create_engine(alchemy, isolation_level="AUTOCOMMIT")
    _load(shell, playground, alchemy)
    idle = f"--idle --limit {2 * sessions}"

    def read_sql() -> pd.DataFrame:
        with engine.connect() as connection:
            return pd.read_sql(sqlalchemy.text(EVERYTHING), connection)

    def filtered() -> pd.DataFrame:
        found = read_sql()
        active = (found["COMMAND"] != "Sleep") | (found["TxnStart"] != "")
        return found[active].sort_values("TIME", ascending=False).head(200)

    pieces: dict[str, Piece] = {
        "idle": lambda: shell.run_line_magic("tidb_ps", idle),
        "default": lambda: shell.run_line_magic("tidb_ps", ""),
        "pymysql": lambda: query(driver, EVERYTHING),
        "read_sql": read_sql,
        "filtered": filtered,
        "jupysql": lambda: shell.run_line_magic("sql", EVERYTHING),
    }
    _check(sessions, pieces["idle"](), pieces["default"](), filtered())
    spent = medians(pieces, rounds)
    shell.run_line_magic("unload_ext", "tidb_magic")
    shell.run_line_magic("sql", f"--close {alchemy}")
    engine.dispose()
    driver.close()
    ps_idle = f"%tidb_ps --idle, {sessions:,} sessions, with counts"
    return [
        Ratio(ps_idle, "PyMySQL SELECT *, fetchall", spent["idle"], spent["pymysql"], 1.10),
        Ratio(ps_idle, "pandas.read_sql, SQLAlchemy", spent["idle"], spent["read_sql"], 0.85),
        Ratio(ps_idle, "%sql SELECT *, jupysql with autopandas", spent["idle"], spent["jupysql"], 0.90),
        Ratio("%tidb_ps, with counts", "all of it, filtered in pandas", spent["default"], spent["filtered"], 0.50),
    ]


def frozen(shell: Any, playground: Playground) -> list[Ratio]:
    """Time the list with one instance frozen, at first and later, beside the bare statement at the same time."""
    _load(shell, playground, None)
    driver = pymysql.connect(host="127.0.0.1", port=playground.port(0), user="root", autocommit=True)
    bare: list[float] = []
    thread = threading.Thread(target=lambda: bare.append(timed(lambda: query(driver, EVERYTHING))))
    playground.freeze(1)
    try:
        thread.start()
        first = timed(lambda: shell.run_line_magic("tidb_ps", "--idle"))
        later = timed(lambda: shell.run_line_magic("tidb_ps", "--idle"))
        thread.join()
    finally:
        playground.resume(1)
    shell.run_line_magic("unload_ext", "tidb_magic")
    driver.close()
    return [
        Ratio(
            "%tidb_ps, one instance frozen, at first (at most 4 s)", "the bare statement", first, bare[0], 4 / bare[0]
        ),
        Ratio(
            "... while it is known to be unresponsive (at most 0.5 s)",
            "the bare statement",
            later,
            bare[0],
            0.5 / bare[0],
        ),
    ]


def _load(shell: Any, playground: Playground, alchemy: str | None) -> None:
    shell.run_line_magic("load_ext", "tidb_magic")
    shell.run_line_magic("tidb_connect", playground.url(0))
    if alchemy is not None:
        os.environ.setdefault("PLOOMBER_STATS_ENABLED", "false")  # jupysql reports its use otherwise
        shell.run_line_magic("load_ext", "sql")
        for setting in ("autopandas = True", "feedback = 0", "displaycon = False"):
            shell.run_line_magic("config", f"SqlMagic.{setting}")
        shell.run_line_magic("sql", alchemy)


def _check(sessions: int, idle: Any, default: Any, by_hand: pd.DataFrame) -> None:
    """Make sure that all of them do the same work."""
    if not (sessions <= len(idle) == idle.matched and idle.complete and idle["ID"].is_unique):
        raise RuntimeError(f"The list is not whole: {len(idle)} of {idle.matched}, {sessions} sessions are there.")
    if abs(len(default) - len(by_hand)) > 4 or default.hidden + default.matched < sessions:  # our own come and go
        raise RuntimeError(f"The lists differ: {len(default)} and {len(by_hand)} active ones, {default.hidden} hidden.")
