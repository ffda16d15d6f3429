"""Reading the cluster: its sessions, how many there are by any column, and its instances."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from time import monotonic
from typing import TypeVar

import pandas as pd

from tidb_magic.cluster import topology
from tidb_magic.cluster.pool import Link
from tidb_magic.cluster.topology import Instance, Roll
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE
from tidb_magic.connection.driver import Result, hint, time_left
from tidb_magic.connection.settings import host_port
from tidb_magic.display.frame import Origin, ReadFrame, typed
from tidb_magic.errors import OptionError, ServerError, TidbMagicError
from tidb_magic.queries import query
from tidb_magic.sessions.fanout import Ask, Gathered, gather
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import GRACE, clock, find_itself
from tidb_magic.sessions.processlist import INFO_CUT, LENGTH, OURS, ProcessList, each_once, to_columns, to_frame
from tidb_magic.sessions.summaries import InstanceList, SessionCounts

LIMIT = 200  # rows
ALL = 1_000_000  # rows: no limit
_FEW = 500  # sessions: fewer are read whole, and counted, sorted and cut here
_FITS = 0.75  # of the limit: as _FEW, for a list of all sessions
_NUMBERS = {"bigint", "int", "double"}
Frame = TypeVar("Frame", bound=ReadFrame)
_MOST = 10_000_000  # rows
_ABSENT = "The session that asked is not in its own list: the server leaves sessions out."
_RIGHTS_AGE = 30.0  # seconds after which a list that shows one user only makes us ask again whether it may show others


def read(  # noqa: PLR0913 (what is asked for, and how)
    link: Link,
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
    return read_also(link, filters, None, sort=sort, limit=limit, full=full, deadline=deadline)[0]


def read_also(  # noqa: PLR0913 (as read)
    link: Link,
    filters: Filters | None,
    also: Ask | None,
    *,
    sort: str | None = None,
    limit: int = LIMIT,
    full: bool = False,
    deadline: float = DEADLINE,
) -> tuple[ProcessList, list[list[Result]]]:
    """Read as `read` does, and what `also` asks right after; return that of each instance that was read by itself."""
    filters = filters or Filters()
    _check(limit)
    by = "TIME" if sort is None else _column(link, sort, "sort")
    order = f"{_quoted(by)} {'DESC' if link.columns[by] in _NUMBERS else 'ASC'}"
    statement = "processlist_idle" if filters.everything else "processlist"
    room = max(_FEW, _FITS * limit) if filters.everything else _FEW
    whole = link.sessions is not None and link.sessions < room

    absent: list[Connection] = []  # connections that a list of theirs does not show

    def ask(connection: Connection, instance: str | None, give_up: float) -> list[Result]:
        columns = ", ".join(_selected(name, full=full) for name in connection.columns)
        parts = {"columns": columns, "order": order}
        source = _source(instance, once=not whole)
        name = "processlist_all" if whole else statement
        listing = counting = _run(connection, name, filters, source, give_up, limit=limit, parts=parts)
        found = listing.by_name
        ours = filters.condition == "TRUE" and (whole or len(found["ID"]) < limit)
        if ours and not any(connection.token in (text or "") for text in found["INFO"]):
            absent.append(connection)
        if not (whole or found["ID"] or filters.everything):
            counting = _run(connection, "count", filters, source, give_up)
        if instance is None and connection.proven is None:
            find_itself(connection, listing)
        return [listing, counting, *(also(connection, instance, give_up) if also else ())]

    requested = clock()
    gathered = _gather(link, ask, filters, deadline)
    if absent:
        gathered = _without_ours(gathered)
    found = each_once(Result.joined([results[0] for results in gathered.parts]))
    rows: Sequence[int] = range(len(found.data[0]))
    if whole:
        matching, rows = len(rows), rows if filters.everything else _active(found)
        matched = len(rows)
    else:
        matching, matched = _counts(gathered, filters)
    if whole or len(gathered.parts) > 1:
        rows = _sorted(found, rows, by, link.columns[by])
    listed = to_frame(found.take(rows[:limit]))
    listed.limit, listed.matched, listed.hidden = limit, matched, matching - matched
    if gathered.complete and filters.condition == "TRUE":
        link.sessions = listed.matched + listed.hidden
    _note(link, listed, gathered)
    if len({user for results in gathered.parts for user in set(results[0].by_name["USER"])} - {""}) < 2:
        _check_rights(link)
    listed.origin = Origin(host_port(link.settings.host, link.settings.port), requested)
    return _described(listed, link, gathered), [results[2:] for results in gathered.parts]


def count_by(
    link: Link,
    columns: Sequence[str],
    filters: Filters | None = None,
    *,
    limit: int = LIMIT,
    deadline: float = DEADLINE,
) -> SessionCounts:
    """Count the sessions of the whole cluster by these columns, idle ones included. As `read` for the rest."""
    filters = filters or Filters()
    _check(limit)
    names = list(dict.fromkeys(_column(link, name, "by") for name in columns))
    if not names:
        raise OptionError("by names no column.")
    groups = {name: _grouped(name) for name in names}
    parts = {
        "columns": ", ".join(f"{text} AS {_quoted(name)}" for name, text in groups.items()),
        "groups": ", ".join(groups.values()),
    }

    def ask(connection: Connection, instance: str | None, give_up: float) -> list[Result]:
        return [_run(connection, "count_by", filters, _source(instance, once=True), give_up, parts=parts)]

    gathered = _gather(link, ask, filters, deadline)
    frame = pd.concat([_frame(results[0]) for results in gathered.parts], ignore_index=True)
    if frame.empty and filters.condition == "TRUE":
        gathered = _without_ours(gathered)
    if len(gathered.parts) > 1:
        how = {"SESSIONS": "sum", "ACTIVE": "sum", "LONGEST": "max", "MEMORY": "sum"}
        frame = frame.groupby(names, dropna=False, as_index=False).agg(how)
        frame = frame.sort_values(["SESSIONS", *names], ascending=[False, *[True] * len(names)], ignore_index=True)
    counts = SessionCounts(frame.head(limit))
    counts.groups = len(frame)
    return _described(counts, link, gathered)


def list_instances(link: Link, *, deadline: float = DEADLINE) -> InstanceList:
    """List the registered instances, with the sessions of each. As `read` for the rest."""
    parts = {"columns": "INSTANCE", "groups": "INSTANCE"}

    def ask(connection: Connection, instance: str | None, give_up: float) -> list[Result]:
        if instance is None:
            with suppress(ServerError):
                link.call(topology.instances(connection, deadline=time_left(give_up)))
        return [_run(connection, "count_by", Filters(), _source(instance, once=True), give_up, parts=parts)]

    gathered = _gather(link, ask, Filters(), deadline)
    counts = pd.concat([_frame(results[0]) for results in gathered.parts]).set_index("INSTANCE")
    if counts.empty:
        gathered = _without_ours(gathered)
    if gathered.complete and not link.roll.certain:
        link.roll = Roll(tuple(Instance(name) for name in counts.index))  # no table names them; these were seen
    taken_at = datetime.now().astimezone()
    by_age = sorted(link.roll.instances, key=_uptime, reverse=True)
    latest = {link.name(one): one for one in by_age}  # a restart leaves two with one name
    answering = [one for name, one in latest.items() if name not in gathered.missing]
    rows = [
        {
            "INSTANCE": (name := link.name(one)),
            "ADDRESS": None if one.host is None or one.port is None else host_port(one.host, one.port),
            "STATUS_ADDRESS": one.status_address,
            "VERSION": one.version,
            "SERVER_ID": one.server_id,
            "UP_SINCE": None if one.uptime is None else taken_at - _uptime(one),
            "SESSIONS": counts["SESSIONS"].get(name, 0) if one in answering else None,
            "MEMORY": counts["MEMORY"].get(name, 0) if one in answering else None,
            "ANSWERING": one in answering,
            "GLOBAL_KILL": link.capabilities.global_kill if one.server_id is None else one.server_id != 0,
        }
        for one in sorted(by_age, key=link.name)
    ]
    frame = InstanceList(typed(rows, InstanceList.COLUMNS, InstanceList.DTYPES))
    frame["UP_SINCE"] = pd.to_datetime(frame["UP_SINCE"], utc=True).dt.tz_convert(taken_at.tzinfo).dt.as_unit("s")
    return _described(frame, link, gathered)


def _without_ours(gathered: Gathered) -> Gathered:
    """Return it as not complete: the session that asked is always there."""
    return replace(gathered, complete=False, remarks=(*gathered.remarks, _ABSENT))


def _frame(result: Result) -> pd.DataFrame:
    return pd.DataFrame(to_columns(result, [name for name in result.columns if not name.startswith(OURS)]))


def _check(limit: int) -> None:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= _MOST:
        raise OptionError(f"limit is a whole number of rows from 1 to {_MOST:,}, not {limit!r}.")


def _column(link: Link, name: str, option: str) -> str:
    """Return a column's name as the server writes it: what a person typed never becomes SQL."""
    known = {column.upper(): column for column in link.columns}
    if column := known.get(name.strip().upper()):
        return column
    near = get_close_matches(name.upper(), known, n=1)
    instead = f"Did you mean {known[near[0]]}?" if near else f"There are: {', '.join(link.columns)}."
    raise OptionError(f"{option}: the process list has no column {name!r}. {instead}")


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``').replace('%', '%%')}`"


def _selected(name: str, *, full: bool) -> str:
    if name == "INFO" and not full:
        # As bytes: LEFT of text would replace what is no UTF-8.
        cut = f"LEFT(CAST(INFO AS BINARY), {INFO_CUT}) AS INFO"
        return f"{cut}, IF(LENGTH(INFO) > {INFO_CUT}, LENGTH(INFO), NULL) AS {LENGTH}"
    return _quoted(name)


def _grouped(name: str) -> str:
    if name == "HOST":  # clients differ in their ports
        port = "LENGTH(SUBSTRING_INDEX(HOST, ':', -1)) + 1"
        return f"IF(HOST RLIKE ':[0-9]+$', LEFT(HOST, LENGTH(HOST) - ({port})), HOST)"
    return f"LEFT(CAST(INFO AS BINARY), {INFO_CUT})" if name == "INFO" else _quoted(name)


@dataclass(frozen=True)
class _Source:
    """Which sessions are meant: those of an instance, or of the whole cluster."""

    name: str
    instance: str | None


def _source(instance: str | None, *, once: bool) -> _Source:
    return _Source("here" if instance is not None else "once" if once else "everywhere", instance)


def _run(  # noqa: PLR0913 (a statement and where it runs)
    connection: Connection,
    statement: str,
    filters: Filters,
    source: _Source,
    give_up: float,
    *,
    limit: int = LIMIT,
    parts: Mapping[str, str] | None = None,
) -> Result:
    within = time_left(give_up)
    args = {**filters.parameters, "milliseconds": hint(within), "limit": limit, "instance_name": source.instance}
    sessions = query(source.name, condition=filters.condition)
    # The server is asked to end it by itself; the deadline on our side is for when it cannot.
    grace = GRACE if source.instance is None else 0
    sql = query(statement, sessions=sessions, **(parts or {}))
    return connection.query(sql, args, deadline=within + grace, leave=True)


def _gather(link: Link, ask: Ask, filters: Filters, deadline: float) -> Gathered:
    """Ask, and name the filter that the server stumbles over."""
    try:
        return gather(link, ask, deadline)
    except ServerError as error:
        if filters.match is not None and "regexp" in str(error):
            raise OptionError(f"match: TiDB does not accept the pattern {filters.match!r}. {error}") from error
        if filters.where is not None:
            raise OptionError(f"where: TiDB does not accept the condition {filters.where!r}. {error}") from error
        raise


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
    """Return a count that stands in every row; the count of no listed row is 0, or the only value there is."""
    if name in result.columns:
        return next(iter(result.by_name[name]), 0)
    return int(result.data[0][0])


def _note(link: Link, listed: ProcessList, gathered: Gathered) -> None:
    """Note which instances were seen, and which sessions are our own."""
    own, found = link.own(), set()
    hosts = {host for host, _ in own.opening}
    for columns in (results[0].by_name for results in gathered.parts):
        instances, ids = columns["INSTANCE"], columns["ID"]
        link.learn(dict(zip(instances, ids, strict=True)))
        sessions = zip(instances, ids, columns["HOST"], strict=True)
        found |= {one for one in sessions if one[1] in own.ids or one[2] in hosts}
    listed.own = frozenset(one[:2] for one in found if own.has(*one))


def _check_rights(link: Link) -> None:
    """Find out whether a list of one user's sessions is so for want of a privilege that was taken away since."""
    if link.open and not link.trouble and monotonic() - link.refreshed > _RIGHTS_AGE:
        with suppress(TidbMagicError):
            link.refresh(within=DEADLINE)


def _described(frame: Frame, link: Link, gathered: Gathered) -> Frame:
    frame.taken_at = datetime.now().astimezone()
    frame.complete = gathered.complete
    frame.missing = gathered.missing
    frame.remarks = gathered.remarks
    frame.see_others = link.capabilities.see_others
    return frame


def _uptime(instance: Instance) -> pd.Timedelta:
    return pd.Timedelta(instance.uptime or 0)


def count_waiting(link: Link, *, deadline: float) -> int | None:
    """Count the transactions that wait for locks, anywhere in the cluster; None without PROCESS, which hides most.

    Raises
    ------
    DeadlineError, ConnectError, ServerError, Interrupted
    """
    if not link.capabilities.see_others:
        return None
    connection = link.connection(within=deadline)
    counted = connection.query(query("waiting"), {"milliseconds": hint(deadline)}, deadline=deadline + GRACE)
    ((number,),) = counted.rows
    return int(number)
