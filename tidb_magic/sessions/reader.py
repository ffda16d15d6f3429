"""The list of sessions, read from the whole cluster."""

from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE, Deadline
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection.settings import host_port
from tidb_magic.display.frame import Origin
from tidb_magic.errors import TidbMagicError
from tidb_magic.sessions.fanout import Ask, Gathered
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import clock, find_itself
from tidb_magic.sessions.processlist import ProcessList, each_once, to_frame
from tidb_magic.sessions.statements import (
    LIMIT,
    check_limit,
    column_name,
    described,
    gather_lists,
    quoted,
    run_statement,
    selected,
    source,
    without_own_session,
)

ALL = 1_000_000  # rows: no limit
_FEW = 500  # sessions: fewer are read whole, and counted, sorted and cut here
_FITS = 0.75  # of the limit: as _FEW, for a list of all sessions
_NUMBERS = {"bigint", "int", "double"}
_RIGHTS_AGE = 30.0  # seconds after which a list that shows one user only makes us ask again whether it may show others


def read(  # noqa: PLR0913 (what is asked for, and how)
    pool: Pool,
    filters: Filters | None = None,
    *,
    sort: str | None = None,
    limit: int = LIMIT,
    full: bool = False,
    deadline: float = DEADLINE,
) -> ProcessList:
    """Read the sessions of the whole cluster in one statement; in two if none is listed, to count the idle ones.

    Parameters
    ----------
    link
        The cluster.
    filters
        Which sessions; by default those that run something or hold a transaction.
    sort
        The column to sort by: numbers from the largest, text from A. TIME by default.
    limit
        How many to list at most; all are counted.
    full
        Whether statements longer than 16 KiB are read whole.
    deadline
        Seconds after which an incomplete list is accepted: an instance that has not responded by then is not waited
        for once all others have answered. While no instance has answered, the first answer is waited for up to ten
        times as long.

    Raises
    ------
    OptionError
        There is no such column, TiDB does not accept the pattern or the condition, or `limit` is no number.
    DeadlineError, ConnectError
        No instance answered.
    ServerError, Interrupted
    """
    return read_also(pool, filters, None, sort=sort, limit=limit, full=full, deadline=deadline)[0]


def read_also(  # noqa: PLR0913 (as read)
    pool: Pool,
    filters: Filters | None,
    also: Ask | None,
    *,
    sort: str | None = None,
    limit: int = LIMIT,
    full: bool = False,
    deadline: float = DEADLINE,
) -> tuple[ProcessList, list[list[Result]]]:
    """Read as `read` does, and what `also` asks right after; return also the latter, for each separate reading."""
    filters = filters or Filters()
    check_limit(limit)
    by = "TIME" if sort is None else column_name(pool, sort, "sort")
    order = f"{quoted(by)} {'DESC' if pool.main.columns[by] in _NUMBERS else 'ASC'}"
    statement = "processlist_idle" if filters.everything else "processlist"
    room = max(_FEW, _FITS * limit) if filters.everything else _FEW
    whole = pool.sessions is not None and pool.sessions < room

    absent: list[Connection] = []  # connections that a list of theirs does not show

    def ask(connection: Connection, instance: str | None, due: Deadline) -> list[Result]:
        columns = ", ".join(selected(name, full=full) for name in connection.columns)
        parts = {"columns": columns, "order": order}
        sessions = source(instance, once=not whole)
        name = "processlist_all" if whole else statement
        listing = counting = run_statement(connection, name, filters, sessions, due, limit=limit, parts=parts)
        found = listing.by_name
        ours = filters.condition == "TRUE" and (whole or len(found["ID"]) < limit)
        if ours and not any(connection.token in (text or "") for text in found["INFO"]):
            absent.append(connection)
        if not (whole or found["ID"] or filters.everything):
            counting = run_statement(connection, "count", filters, sessions, due)
        if instance is None and connection.proven is None:
            find_itself(connection, listing)
        return [listing, counting, *(also(connection, instance, due) if also else ())]

    requested = clock()
    gathered = gather_lists(pool, ask, filters, deadline)
    if absent:
        gathered = without_own_session(gathered)
    found = each_once(Result.joined([results[0] for results in gathered.parts]))
    rows: Sequence[int] = range(len(found.data[0]))
    if whole:
        matching, rows = len(rows), rows if filters.everything else _active(found)
        matched = len(rows)
    else:
        matching, matched = _counts(gathered, filters)
    if whole or len(gathered.parts) > 1:
        rows = _sorted(found, rows, by, pool.main.columns[by])
    listed = to_frame(found.take(rows[:limit]))
    listed.limit, listed.matched, listed.hidden = limit, matched, matching - matched
    if gathered.complete and filters.condition == "TRUE":
        pool.sessions = listed.matched + listed.hidden
    _note(pool, listed, gathered)
    if len({user for results in gathered.parts for user in set(results[0].by_name["USER"])} - {""}) < 2:
        _check_rights(pool)
    listed.origin = Origin(host_port(pool.settings.host, pool.settings.port), requested)
    return described(listed, pool, gathered), [results[2:] for results in gathered.parts]


def _active(found: Result) -> list[int]:
    """Return the rows of sessions that run something or hold a transaction, as in processlist.sql."""
    columns = found.by_name
    sessions = zip(columns["COMMAND"], columns["TxnStart"], columns["INFO"], strict=True)
    return [
        row
        for row, (command, txn_start, info) in enumerate(sessions)
        if command != "Sleep" or txn_start or info is not None
    ]


def _counts(gathered: Gathered, filters: Filters) -> tuple[int, int]:
    """Return how many sessions match the filters, and how many of them are to be listed, by what the server counted."""
    matched = sum(_first(results[0], "tidb_magic_matched") for results in gathered.parts)
    if filters.everything:
        return matched, matched
    return sum(_first(results[1], "tidb_magic_sessions") for results in gathered.parts), matched


def _sorted(found: Result, rows: Sequence[int], by: str, kind: str) -> list[int]:
    """Return rows in the order in which the server sorts: NULL is the least."""
    columns = found.by_name
    by_id = sorted(rows, key=lambda row: (columns["INSTANCE"][row], columns["ID"][row]))
    values = columns[by]
    return sorted(by_id, key=lambda row: (values[row] is not None, values[row]), reverse=kind in _NUMBERS)


def _first(result: Result, name: str) -> int:
    """Return a count that every row repeats; the count of no listed row is 0, or the only value there is."""
    if name in result.columns:
        return next(iter(result.by_name[name]), 0)
    return int(result.data[0][0])


def _note(pool: Pool, listed: ProcessList, gathered: Gathered) -> None:
    """Note which instances were seen, and which sessions are our own."""
    own, found = pool.own(), set()
    hosts = {host for host, _ in own.opening}
    for columns in (results[0].by_name for results in gathered.parts):
        instances, ids = columns["INSTANCE"], columns["ID"]
        pool.topology.learn(dict(zip(instances, ids, strict=True)))
        aliases = columns.get("SESSION_ALIAS", [""] * len(ids))  # TiDB 6.5 has none
        sessions = zip(instances, ids, columns["HOST"], aliases, strict=True)
        found |= {one for one in sessions if one[1] in own.ids or one[2] in hosts or one[3] in own.aliases}
    listed.own = frozenset(one[:2] for one in found if own.has(*one))


def _check_rights(pool: Pool) -> None:
    """Find out whether a list of one user's sessions is so for want of a privilege that was taken away since."""
    if pool.main.open and not pool.monitor.degraded and monotonic() - pool.refreshed > _RIGHTS_AGE:
        with suppress(TidbMagicError):
            pool.refresh(within=DEADLINE)
