"""The list of sessions, read from the whole cluster."""

from contextlib import suppress
from functools import partial
from time import monotonic

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE, Deadline
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection.settings import host_port
from tidb_magic.display.frame import Origin
from tidb_magic.errors import TidbMagicError
from tidb_magic.queries import fragment
from tidb_magic.sessions.fanout import Ask, Gathered
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import clock, find_itself
from tidb_magic.sessions.processlist import OURS, ProcessList, each_once, to_frame
from tidb_magic.sessions.statements import (
    COUNTED,
    IDS,
    LIMIT,
    check_limit,
    column_name,
    counts_twice,
    described,
    gather_lists,
    quoted,
    run_statement,
    selected,
    without_own_session,
)

ALL = 1_000_000  # rows: no limit
_FEW = 500  # sessions: fewer are read whole, and counted, sorted and cut here
_FITS = 0.75  # of the limit: as _FEW, for a list of all sessions
_NUMBERS = {"bigint", "int", "double"}
_OF_INSTANCE = {quoted("INSTANCE"): "INSTANCE", quoted("ID"): "MIN(ID)"}  # what a row of counts has
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
    room = max(_FEW, _FITS * limit) if filters.everything else _FEW
    whole = pool.sessions is not None and pool.sessions < room

    absent: list[Connection] = []  # connections that a list of theirs does not show

    def ask(connection: Connection, instance: str | None, due: Deadline) -> list[Result]:
        columns = selected(connection.columns, full=full)
        parts = {
            "columns": ", ".join(columns),
            "of_instance": ", ".join(_OF_INSTANCE.get(column, "NULL") for column in columns),
            "order": order,
            "shown": "TRUE" if filters.everything else fragment("active"),
        }
        name = "processlist_all" if whole else "processlist"
        run = partial(run_statement, connection, name, filters, instance, due, limit=limit, parts=parts)
        answer = run()
        if not whole and counts_twice(answer) and answer.by_name[COUNTED].count(None) == limit:
            answer = run(once=True)
        pool.topology.learn(dict(zip(answer.by_name["INSTANCE"], answer.by_name["ID"], strict=True)))
        listing, matched, matching = _listed(answer, limit, everything=filters.everything)
        if (
            matched <= limit
            and filters.condition == "TRUE"
            and not any(connection.token in (text or "") for text in listing.by_name["INFO"])
        ):
            absent.append(connection)
        if instance is None and connection.proven is None:
            find_itself(connection, listing)
        counts = Result(("matched", "matching"), frozenset(), ([matched], [matching]))
        return [listing, counts, *(also(connection, instance, due) if also else ())]

    requested = clock()
    gathered = gather_lists(pool, ask, filters, deadline)
    if absent:
        gathered = without_own_session(gathered)
    found = Result.joined([results[0] for results in gathered.parts])
    rows = _sorted(found, by, pool.main.columns[by])
    matched, matching = (sum(column) for column in Result.joined([results[1] for results in gathered.parts]).data)
    listed = to_frame(found.take(rows[:limit]))
    listed.limit, listed.matched, listed.hidden = limit, matched, max(matching - matched, 0)
    if gathered.complete and filters.condition == "TRUE":
        pool.sessions = matching
    _note_own(pool, listed, gathered)
    if len({user for results in gathered.parts for user in set(results[0].by_name["USER"])} - {""}) < 2:
        _check_rights(pool)
    listed.origin = Origin(host_port(pool.settings.host, pool.settings.port), requested)
    return described(listed, pool, gathered), [results[2:] for results in gathered.parts]


def _listed(answer: Result, limit: int, *, everything: bool) -> tuple[Result, int, int]:
    """Return the sessions to list, how many those are without the limit, and how many match, idle ones included."""
    if COUNTED not in answer.columns:
        found = each_once(answer)
        listing = found if everything else found.take(_active(found))
        return listing, len(listing.data[0]), len(found.data[0])
    named = answer.by_name
    listing = each_once(answer.take([row for row, count in enumerate(named[COUNTED]) if count is None]))
    shown = len(listing.data[0])
    return listing, shown if shown < limit else sum(filter(None, named[f"{OURS}shown"])), sum(filter(None, named[IDS]))


def _active(found: Result) -> list[int]:
    """Return the rows of sessions that run something or hold a transaction, as in fragments.sql."""
    columns = (found.by_name[name] for name in ("COMMAND", "TxnStart", "INFO"))
    return [
        row
        for row, (command, txn_start, info) in enumerate(zip(*columns, strict=True))
        if command != "Sleep" or txn_start or info is not None
    ]


def _sorted(found: Result, by: str, kind: str) -> list[int]:
    """Return the rows in the order in which the server sorts: NULL is the least. UNION ALL keeps no order."""
    columns = found.by_name
    by_id = sorted(range(len(columns["ID"])), key=lambda row: (columns["INSTANCE"][row], columns["ID"][row]))
    values = columns[by]
    return sorted(by_id, key=lambda row: (values[row] is not None, values[row]), reverse=kind in _NUMBERS)


def _note_own(pool: Pool, listed: ProcessList, gathered: Gathered) -> None:
    """Note which sessions are our own."""
    own, found = pool.own(), set()
    hosts = {host for host, _ in own.opening}
    for columns in (results[0].by_name for results in gathered.parts):
        ids = columns["ID"]
        aliases = columns.get("SESSION_ALIAS", [""] * len(ids))  # TiDB 6.5 has none
        sessions = zip(columns["INSTANCE"], ids, columns["HOST"], aliases, strict=True)
        found |= {one for one in sessions if one[1] in own.ids or one[2] in hosts or one[3] in own.aliases}
    listed.own = frozenset(one[:2] for one in found if own.has(*one))


def _check_rights(pool: Pool) -> None:
    """Find out whether a list of one user's sessions is so for want of a privilege that was taken away since."""
    if pool.main.open and not pool.monitor.degraded and monotonic() - pool.refreshed > _RIGHTS_AGE:
        with suppress(TidbMagicError):
            pool.refresh(within=DEADLINE)
