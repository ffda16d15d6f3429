"""How many sessions there are, by any column."""

from collections.abc import Sequence

import pandas as pd

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE, Deadline, hint
from tidb_magic.connection.row_reader import Result
from tidb_magic.errors import OptionError
from tidb_magic.queries import query
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import GRACE
from tidb_magic.sessions.statements import (
    LIMIT,
    check_limit,
    column_name,
    counts_frame,
    described,
    gather_lists,
    grouped,
    quoted,
    run_statement,
    source,
    without_own_session,
)
from tidb_magic.sessions.summaries import SessionCounts


def count_by(
    pool: Pool,
    columns: Sequence[str],
    filters: Filters | None = None,
    *,
    limit: int = LIMIT,
    deadline: float = DEADLINE,
) -> SessionCounts:
    """Count the sessions of the whole cluster by these columns, idle ones included. As `read` for the rest."""
    filters = filters or Filters()
    check_limit(limit)
    names = list(dict.fromkeys(column_name(pool, name, "by") for name in columns))
    if not names:
        raise OptionError("by names no column.")
    groups = {name: grouped(name) for name in names}
    parts = {
        "columns": ", ".join(f"{text} AS {quoted(name)}" for name, text in groups.items()),
        "groups": ", ".join(groups.values()),
    }

    def ask(connection: Connection, instance: str | None, due: Deadline) -> list[Result]:
        return [run_statement(connection, "count_by", filters, source(instance, once=True), due, parts=parts)]

    gathered = gather_lists(pool, ask, filters, deadline)
    frame = pd.concat([counts_frame(results[0]) for results in gathered.parts], ignore_index=True)
    if frame.empty and filters.condition == "TRUE":
        gathered = without_own_session(gathered)
    if len(gathered.parts) > 1:
        how = {"SESSIONS": "sum", "ACTIVE": "sum", "LONGEST": "max", "MEMORY": "sum"}
        frame = frame.groupby(names, dropna=False, as_index=False).agg(how)
        frame = frame.sort_values(["SESSIONS", *names], ascending=[False, *[True] * len(names)], ignore_index=True)
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
