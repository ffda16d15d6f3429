"""The statements of lists: their parts, how they are run, and what is noted of their answers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from typing import TypeVar

import pandas as pd

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import Deadline, hint
from tidb_magic.connection.row_reader import Result
from tidb_magic.display.frame import ReadFrame
from tidb_magic.errors import OptionError, ServerError
from tidb_magic.queries import fragment, query
from tidb_magic.sessions.fanout import Ask, Gathered
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.gather import gather
from tidb_magic.sessions.lookup import GRACE
from tidb_magic.sessions.processlist import INFO_CUT, OURS, to_columns

LIMIT = 200  # rows
Frame = TypeVar("Frame", bound=ReadFrame)
_MOST = 10_000_000  # rows
_ABSENT = "The list lacks the session that read it: the server omits sessions."


def without_own_session(gathered: Gathered) -> Gathered:
    """Return it as not complete: the session that asked is always there."""
    return replace(gathered, complete=False, remarks=(*gathered.remarks, _ABSENT))


def check_limit(limit: int) -> None:
    """Raise OptionError if `limit` is not a possible number of rows."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= _MOST:
        raise OptionError(f"limit is a whole number of rows from 1 to {_MOST:,}, not {limit!r}.")


def column_name(pool: Pool, name: str, option: str) -> str:
    """Return a column's name as the server writes it: what a person typed never becomes SQL."""
    known = {column.upper(): column for column in pool.main.columns}
    if column := known.get(name.strip().upper()):
        return column
    near = get_close_matches(name.upper(), known, n=1)
    instead = f"Did you mean {known[near[0]]}?" if near else f"There are: {', '.join(pool.main.columns)}."
    raise OptionError(f"{option}: the process list has no column {name!r}. {instead}")


def quoted(name: str) -> str:
    """Return the name of a column as an identifier in SQL with parameters."""
    return f"`{name.replace('`', '``').replace('%', '%%')}`"


def selected(name: str, *, full: bool) -> str:
    """Return how a column is selected: INFO is cut off unless `full`, and its length comes with it."""
    return fragment("info_and_length") if name == "INFO" and not full else quoted(name)


def grouped(name: str) -> str:
    """Return how rows are grouped by a column."""
    special = {"HOST": "host_alone", "INFO": "info"}
    return fragment(special[name]) if name in special else quoted(name)


@dataclass(frozen=True)
class Source:
    """Which sessions are meant: those of an instance, or of the whole cluster."""

    name: str
    instance: str | None


def source(instance: str | None, *, once: bool) -> Source:
    """Return the sessions of an instance, or of the cluster; `once` leaves out those that are listed twice."""
    name = "sessions_local" if instance is not None else "sessions_distinct" if once else "sessions_cluster"
    return Source(name, instance)


def run_statement(  # noqa: PLR0913 (a statement and where it runs)
    connection: Connection,
    statement: str,
    filters: Filters,
    source: Source,
    due: Deadline,
    *,
    limit: int = LIMIT,
    parts: Mapping[str, str] | None = None,
) -> Result:
    """Run a statement on the sessions of a source that match the filters. As `read` for what can go wrong."""
    within = due.left
    args = {**filters.parameters, "milliseconds": hint(within), "limit": limit, "info_cut": INFO_CUT}
    args["instance_name"] = source.instance
    sessions = query(source.name, condition=filters.condition)
    # The server ends it by MAX_EXECUTION_TIME; the deadline on our side is for when it cannot.
    grace = GRACE if source.instance is None else 0
    sql = query(statement, sessions=sessions, **(parts or {}))
    return connection.query(sql, args, deadline=within + grace, leave=True)


def gather_lists(pool: Pool, ask: Ask, filters: Filters, deadline: float) -> Gathered:
    """Ask, and name the filter that the server stumbles over."""
    try:
        return gather(pool, ask, deadline)
    except ServerError as error:
        if filters.match is not None and "regexp" in str(error):
            raise OptionError(f"match: TiDB does not accept the pattern {filters.match!r}. {error}") from error
        if filters.where is not None:
            raise OptionError(f"where: TiDB does not accept the condition {filters.where!r}. {error}") from error
        raise


def described(frame: Frame, pool: Pool, gathered: Gathered) -> Frame:
    """Note in a frame when it was read, and what is missing."""
    frame.taken_at = datetime.now().astimezone()
    frame.complete = gathered.complete
    frame.missing = gathered.missing
    frame.remarks = gathered.remarks
    frame.see_others = pool.capabilities.see_others
    return frame


def counts_frame(result: Result) -> pd.DataFrame:
    """Return the rows of count_by.sql."""
    return pd.DataFrame(to_columns(result, [name for name in result.columns if not name.startswith(OURS)]))
