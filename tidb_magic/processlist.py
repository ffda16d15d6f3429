"""The sessions of the whole cluster, read in one statement, as a DataFrame that shows itself."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import pandas as pd

from tidb_magic.connection import Connection, Result, decoded, is_own, own_ids
from tidb_magic.errors import OptionError, ServerError, TidbMagicError
from tidb_magic.filters import Filters
from tidb_magic.queries import query
from tidb_magic.render import html_table, text_table

DEADLINE = 3.0  # seconds
LIMIT = 200  # sessions
_COUNTS = ("tidb_magic_sessions", "tidb_magic_matched")
_GRACE = 0.5  # seconds that the server may take to say that its own deadline has passed
_SHOWN = ["ID", "INSTANCE", "USER", "HOST", "DB", "COMMAND", "TIME", "STATE", "INFO"]
_SILENT = re.compile(r"^\[([^\]]*(?:\[[^\]]*\][^\]]*)?)\]\(\d+\)")


@dataclass(frozen=True)
class Session:
    """One session as the list shows it. `time` is in seconds; `info` is its statement, None while it runs none."""

    instance: str
    id: int
    user: str
    host: str
    command: str
    time: int
    info: str | None
    txn_start: str

    @property
    def runs(self) -> bool:
        """Whether it runs a statement."""
        return self.command != "Sleep" and self.info is not None


@dataclass(frozen=True)
class Look:
    """What one reading of the cluster saw.

    `here` is the INSTANCE and `user` the USER of the connection that looked; both None if it did not see itself.
    `missing` are instances that did not answer; it is empty if every registered one did.
    """

    sessions: tuple[Session, ...]
    here: str | None
    user: str | None
    missing: tuple[str, ...]


class ProcessList(pd.DataFrame):
    r"""Sessions of a TiDB cluster: the columns of INFORMATION_SCHEMA.CLUSTER_PROCESSLIST, by TiDB's names.

    ID, TIME (seconds), MEM and DISK (bytes) and every other integer column are nullable ``Int64``: the one dtype in
    which ids stay exact through merge, concat and missing values. Text is ``str``; bytes that are no UTF-8 are shown
    as ``\xNN``. One row a session, unique by (INSTANCE, ID). Longest running first.

    Attributes
    ----------
    taken_at : datetime
        When it was read, in this machine's time zone.
    matched : int
        How many sessions matched what was asked for, those beyond the limit included.
    hidden : int
        How many more matched the filters, but are idle.
    limit : int
        How many were listed at most.
    see_others : bool
        Whether other users' sessions were visible, which needs PROCESS.
    complete : bool
        Whether every registered instance answered.
    missing : tuple of str
        The instances that did not.
    own : frozenset of (INSTANCE, ID)
        Sessions of tidb_magic itself.
    """

    taken_at: datetime | None = None
    matched: int = 0
    hidden: int = 0
    limit: int = 0
    see_others: bool = True
    complete: bool = False
    missing: tuple[str, ...] = ()
    own: frozenset[tuple[str, int]] = frozenset()

    _metadata: ClassVar[list[str]] = [
        "taken_at",
        "matched",
        "hidden",
        "limit",
        "see_others",
        "complete",
        "missing",
        "own",
    ]

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return _process_list

    def __repr__(self) -> str:
        """Return an aligned table with a footer that says what is not in it."""
        return text_table(*self._table()) if _has_ids(self) else super().__repr__()

    def _repr_html_(self) -> str | None:
        return html_table(*self._table()) if _has_ids(self) else super()._repr_html_()  # type: ignore[misc]

    def _table(self) -> tuple[list[str], list[list[object]], list[str]]:
        shown = [column for column in _SHOWN if column in self.columns]
        values = [[None if pd.isna(value) else value for value in self[column]] for column in shown]
        rows = [["" if value is None else value for value in row] for row in zip(*values, strict=True)]
        return shown, rows, self._footer()

    def _footer(self) -> list[str]:
        instances = self["INSTANCE"].nunique()
        part = f"{len(self):,} of {self.matched:,}" if self.matched > len(self) else f"{len(self):,}"
        counted = f"{part} session{'s' * (len(self) != 1)} on {instances} instance{'s' * (instances != 1)}"
        if self.taken_at is None:
            return [f"{counted}."]
        lines = [f"{counted}, taken {self.taken_at:%Y-%m-%d %H:%M:%S %Z}."]
        if self.matched > self.limit:
            lines.append(f"{self.limit:,} were listed: --limit {self.matched} lists all.")
        if self.hidden:
            lines.append(f"{self.hidden:,} idle sessions are not in it: --idle lists them too.")
        if not self.see_others:
            lines.append("Only your own sessions are visible: PROCESS is needed to see the others'.")
        if own := sum((i, n) in self.own for i, n in zip(self["INSTANCE"], self["ID"], strict=True)):
            lines.append(f"{own} of them {'is' if own == 1 else 'are'} tidb_magic's own.")
        if not self.complete:
            lines.append(f"NOT COMPLETE: no answer from {', '.join(self.missing) or 'an instance'}.")
        return lines


def _process_list(*args: Any, **kwargs: Any) -> pd.DataFrame:
    """Keep the class while rows can be told apart, else give a plain DataFrame."""
    frame = pd.DataFrame(*args, **kwargs)
    return ProcessList(frame) if _has_ids(frame) else frame


def _has_ids(frame: pd.DataFrame) -> bool:
    names = list(frame.columns)
    if names.count("ID") != 1 or names.count("INSTANCE") != 1:
        return False
    return pd.api.types.is_integer_dtype(frame["ID"].dtype)


def read(
    connection: Connection,
    filters: Filters | None = None,
    *,
    limit: int = LIMIT,
    see_others: bool = True,
    deadline: float = DEADLINE,
) -> ProcessList:
    """Read the sessions of the whole cluster in one statement; in two if none is listed, to count the idle ones.

    Parameters
    ----------
    connection
        Any session on the cluster.
    filters
        Which sessions; by default those that run something or hold a transaction.
    limit
        How many to list at most; all are counted.
    see_others
        Whether this user sees other users' sessions; if not, the list says so.
    deadline
        Seconds.

    Raises
    ------
    OptionError
        TiDB does not accept the pattern or the condition, or `limit` is no number of sessions.
    DeadlineError, ConnectError, ServerError, Interrupted
    """
    filters = filters or Filters()
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise OptionError(f"limit is a whole number of sessions from 1 on, not {limit!r}.")
    try:
        args = {**filters.parameters, "everything": filters.everything, "limit": limit}
        result = _ask(connection, "processlist", args, deadline, filters.condition)
        if result.rows:
            matching, matched = (int(result.rows[0][result.columns.index(name)]) for name in _COUNTS)
        else:
            ((matching,),) = _ask(connection, "count", filters.parameters, deadline, filters.condition).rows
            matched = 0
    except ServerError as error:
        raise _blamed(error, filters) from error
    listed = to_frame(result)
    for name in _COUNTS:
        del listed[name]
    listed.taken_at = datetime.now().astimezone()
    listed.limit = limit
    listed.matched = matched
    listed.hidden = matching - matched
    listed.see_others = see_others
    listed.missing = silent(result.warnings)
    listed.complete = not result.warnings
    _itself(connection, result)
    ours = sessions(result, own_ids())
    listed.own = frozenset((one.instance, one.id) for one in ours if is_own(one.instance, one.id))
    return listed


def _blamed(error: ServerError, filters: Filters) -> TidbMagicError:
    """Name the filter that the server stumbled over."""
    if filters.match is not None and "regexp" in str(error):
        return OptionError(f"match: TiDB does not accept the pattern {filters.match!r}. {error}")
    if filters.where is not None:
        return OptionError(f"where: TiDB does not accept the condition {filters.where!r}. {error}")
    return error


def look(connection: Connection, ids: Sequence[int], *, deadline: float = DEADLINE) -> Look:
    """Look at the sessions with these ids, wherever they are. As `read` for what can go wrong."""
    own = () if connection.id is None else (int(connection.id),)
    result = _ask(connection, "sessions", {"ids": (*ids, *own)}, deadline)
    itself = _itself(connection, result)
    missing = silent(result.warnings) or (("an instance",) if result.warnings else ())
    return Look(sessions(result, ids), itself.instance if itself else None, itself.user if itself else None, missing)


def sessions(result: Result, ids: Collection[int]) -> tuple[Session, ...]:
    """Return the rows with these ids as sessions, each once (a restarted instance can be listed twice)."""
    names = ("INSTANCE", "ID", "USER", "HOST", "COMMAND", "TIME", "INFO", "TxnStart")
    at = [result.columns.index(name) for name in names]
    found: dict[tuple[str, int], Session] = {}
    for row in result.rows:
        if row[at[1]] in ids:
            session = Session(*(decoded(row[column]) for column in at))
            found.setdefault((session.instance, session.id), session)
    return tuple(found.values())


def silent(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return the instances that TiDB's warnings name as not answering.

    >>> silent(["[127.0.0.1:10081](1) rpc error: code = Unavailable desc = connection error"])
    ('127.0.0.1:10081',)
    """
    return tuple(match[1] for warning in warnings if (match := _SILENT.match(warning)))


def _ask(connection: Connection, name: str, args: Mapping[str, object], deadline: float, condition: str = "") -> Result:
    # The server is asked to end it by itself; the deadline on our side is for when it cannot.
    args = {**args, "milliseconds": max(1, round(deadline * 1000))}
    return connection.query(query(name).replace("{condition}", condition), args, deadline=deadline + _GRACE)


def _itself(connection: Connection, result: Result) -> Session | None:
    """Return the session that asked, known by the token in its statement; with global kill off ids are not unique."""
    for session in sessions(result, () if connection.id is None else {connection.id}):
        if session.info is not None and connection.token in session.info:
            connection.instance = session.instance
            return session
    return None


def to_frame(result: Result) -> ProcessList:
    """Return the rows of a process list as they come, each session once."""
    columns: dict[str, object] = {}
    for at, name in enumerate(result.columns):
        values = [row[at] for row in result.rows]
        if name in result.integers:
            # No id and no memory is that large: TiDB's unsigned counters can fall below zero.
            columns[name] = pd.array([None if v is None or v >= 2**63 else v for v in values], dtype="Int64")
        else:
            columns[name] = [decoded(value) for value in values]
    return ProcessList(columns).drop_duplicates(["INSTANCE", "ID"], ignore_index=True)
