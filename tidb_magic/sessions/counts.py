"""How many sessions there are, by any column."""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE, Deadline, hint
from tidb_magic.connection.row_reader import Result
from tidb_magic.errors import OptionError
from tidb_magic.queries import query
from tidb_magic.sessions.fanout import Gathered
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import GRACE
from tidb_magic.sessions.processlist import OURS, to_columns
from tidb_magic.sessions.statements import (
    LIMIT,
    check_limit,
    column_name,
    counts_twice,
    described,
    gather_lists,
    grouped,
    quoted,
    run_statement,
    without_own_session,
)
from tidb_magic.sessions.summaries import SessionCounts

Before = Callable[[Connection, str | None, Deadline], object]


def count(
    pool: Pool, names: Sequence[str], filters: Filters, deadline: float, before: Before | None = None
) -> tuple[pd.DataFrame, Gathered]:
    """Count the sessions of the whole cluster by these columns. `before` does something on each connection first."""
    groups = {name: grouped(name) for name in names}
    parts = {
        "columns": ", ".join(f"{text} AS {quoted(name)}" for name, text in groups.items()),
        "groups": ", ".join(groups.values()),
    }

    def ask(connection: Connection, instance: str | None, due: Deadline) -> list[Result]:
        if before is not None:
            before(connection, instance, due)
        run = partial(run_statement, connection, "count_by", filters, instance, due, parts=parts)
        answer = run()
        return [run(once=True) if counts_twice(answer, "SESSIONS") else answer]

    gathered = gather_lists(pool, ask, filters, deadline)
    found = Result.joined([results[0] for results in gathered.parts])
    frame = pd.DataFrame(to_columns(found, [name for name in found.columns if not name.startswith(OURS)]))
    if frame.empty and filters.condition == "TRUE":
        gathered = without_own_session(gathered)
    if len(gathered.parts) > 1:
        how = {"SESSIONS": "sum", "ACTIVE": "sum", "LONGEST": "max", "MEMORY": "sum"}
        frame = frame.groupby(list(names), dropna=False, as_index=False).agg(how)
        frame = frame.sort_values(["SESSIONS", *names], ascending=[False, *[True] * len(names)], ignore_index=True)
    return frame, gathered


def count_by(
    pool: Pool,
    columns: Sequence[str],
    filters: Filters | None = None,
    *,
    limit: int = LIMIT,
    deadline: float = DEADLINE,
) -> SessionCounts:
    """Count the sessions of the whole cluster by these columns, idle ones included. As `read` for the rest."""
    check_limit(limit)
    names = list(dict.fromkeys(column_name(pool, name, "by") for name in columns))
    if not names:
        raise OptionError("by names no column.")
    frame, gathered = count(pool, names, filters or Filters(), deadline)
    counts = SessionCounts(frame.head(limit))
    counts.groups = len(frame)
    return described(counts, pool, gathered)


def count_waiting(pool: Pool, *, deadline: float) -> int | None:
    """Count the transactions that wait for locks, anywhere in the cluster; None without PROCESS, which hides most.

    Raises
    ------
    DeadlineError, ConnectError, ServerError, Interrupted
    """
    if not pool.capabilities.see_others:
        return None
    connection = pool.connection(within=deadline)
    counted = connection.query(query("waiting"), {"milliseconds": hint(deadline)}, deadline=deadline + GRACE)
    ((number,),) = counted.rows
    return int(number)
