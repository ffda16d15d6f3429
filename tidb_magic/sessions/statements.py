"""The statements of lists: their parts, how they are run, and what is noted of their answers."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches
from typing import TypeVar

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
from tidb_magic.sessions.processlist import INFO_CUT, OURS

LIMIT = 200  # rows
# How many sessions there are, and how many different IDs they have: columns of statements that count.
COUNTED, IDS = f"{OURS}sessions", f"{OURS}ids"
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


def selected(names: Iterable[str], *, full: bool) -> list[str]:
    """Return how columns are selected: INFO is cut off unless `full`, and its length comes with it."""
    cut = [f"{fragment('info')} AS INFO", fragment("info_length")]
    return [column for name in names for column in (cut if name == "INFO" and not full else [quoted(name)])]


def grouped(name: str) -> str:
    """Return how rows are grouped by a column."""
    special = {"HOST": "host_alone", "INFO": "info"}
    return fragment(special[name]) if name in special else quoted(name)


def run_statement(  # noqa: PLR0913 (a statement and where it runs)
    connection: Connection,
    statement: str,
    filters: Filters,
    instance: str | None,
    due: Deadline,
    *,
    once: bool = False,
    limit: int = LIMIT,
    parts: Mapping[str, str] | None = None,
) -> Result:
    """Run a statement on the sessions that match the filters: those of the named instance, or of the whole cluster.

    With `once` a session that is listed twice is taken once. As `read` for what can go wrong.
    """
    within = due.left
    args = {**filters.parameters, "milliseconds": hint(within), "limit": limit, "info_cut": INFO_CUT}
    args["instance_name"] = instance
    source = "sessions_local" if instance is not None else "sessions_distinct" if once else "sessions_cluster"
    sql = query(statement, sessions=query(source, condition=filters.condition), **(parts or {}))
    # The server ends it by MAX_EXECUTION_TIME; the deadline on our side is for when it cannot.
    grace = GRACE if instance is None else 0
    return connection.query(sql, args, deadline=within + grace, leave=True)


def counts_twice(answer: Result, counts: str = COUNTED) -> bool:
    """Tell whether a statement counted sessions twice, as an instance was restarted and is listed twice."""
    return list(answer.by_name[counts]) != list(answer.by_name[IDS])


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
