"""ProcessList: the sessions of a cluster as a DataFrame that shows itself."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from tidb_magic.connection.row_reader import Result
from tidb_magic.display.frame import HOW_IT_WAS_READ, TEXT, ReadFrame, Table, counted, keys_of
from tidb_magic.display.render import DISPLAY, ROWS_SHOWN, Bytes, html_table, statement

INFO_CUT = 16_384  # bytes of a statement that are fetched unless all of it is asked for
OURS = "tidb_magic_"  # how the names of columns begin that are not the server's
LENGTH = f"{OURS}length"  # the column that says how long a statement is that was cut
SHOWN = ["ID", "INSTANCE", "USER", "HOST", "DB", "COMMAND", "TIME", "STATE", "MEM", "INFO"]
# Of a lock forest, which adds columns.
_SHOWN_LOCKS = [
    "ID",
    "INSTANCE",
    "USER",
    "TIME",
    "WAITS",
    "WAITS_FOR",
    "HOLDS",
    "BEHIND",
    "FREES",
    "AGE",
    "KEYS",
    "INFO",
]
_TXN_START = re.compile(r"\((\d+)\)$")
_LOGICAL_BITS = 18  # of a timestamp of TiDB; milliseconds of the Unix epoch are above them
_NOTHING: Mapping[tuple[str, int], int] = MappingProxyType({})


class ProcessList(ReadFrame):
    r"""Sessions of a TiDB cluster: the columns of INFORMATION_SCHEMA.CLUSTER_PROCESSLIST, by TiDB's names.

    ID, TIME (seconds), MEM and DISK (bytes) and every other integer column are nullable ``Int64``: the one dtype in
    which ids stay exact through merge, concat and missing values. Text is ``str``; bytes that are no UTF-8 are shown
    as ``\xNN``. INFO ends after 16 KiB unless all of it was asked for. One row a session, unique by (INSTANCE, ID).

    Two columns more are taken out of TxnStart: TXN_ID ``Int64``, the ID of the transaction in CLUSTER_TIDB_TRX, and
    TXN_START_TIME ``datetime64[ms, UTC]``; TiDB's own text is in the instance's time zone and has no year. Both are
    missing where no transaction is open.

    Attributes
    ----------
    taken_at : datetime
        When it was read, in this machine's time zone.
    complete : bool
        Whether every registered instance answered.
    missing : tuple of str
        The instances that did not.
    remarks : tuple of str
        Sentences on how it was read, if not in the usual way.
    see_others : bool
        Whether other users' sessions were visible, which needs PROCESS.
    matched : int
        How many sessions matched what was asked for, those beyond the limit included.
    hidden : int
        How many more matched the filters, but are idle.
    limit : int
        How many were listed at most.
    own : frozenset of (INSTANCE, ID)
        Sessions of tidb_magic itself.
    cut : mapping of (INSTANCE, ID) to int
        The true length in bytes of each statement that was cut.
    """

    matched: int = 0
    hidden: int = 0
    limit: int = 0
    own: frozenset[tuple[str, int]] = frozenset()
    cut: Mapping[tuple[str, int], int] = _NOTHING

    _metadata: ClassVar[list[str]] = [*HOW_IT_WAS_READ, "matched", "hidden", "limit", "own", "cut"]

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return _process_list

    def __repr__(self) -> str:
        """Return an aligned table with a footer that says what is not in it."""
        return super().__repr__() if _has_ids(self) else pd.DataFrame.__repr__(self)

    def _repr_html_(self) -> str | None:
        """Return the same as HTML, with what ends each session where the table with Kill buttons has them."""
        if not _has_ids(self):
            return pd.DataFrame._repr_html_(self)  # type: ignore[attr-defined, no-any-return]
        header, rows, footer = self._table()
        bars = {"TIME": self["TIME"].fillna(0).tolist()} if "TIME" in self.columns else {}
        typed = [[*row, kill] for row, kill in zip(rows, self._kills(rows, header), strict=True)]
        return html_table([*header, "TO END IT"], typed, footer, bars, total=len(self))

    def _kills(self, rows: Sequence[Sequence[object]], header: Sequence[str]) -> Iterator[str]:
        """Return what to type in order to end each statement, or each session that runs none."""
        at = header.index("INFO") if "INFO" in header else None
        for row, instance, number in zip(rows, self["INSTANCE"], self["ID"], strict=False):
            runs = at is not None and row[at]
            end = (
                ""
                if pd.isna(number) or (instance, number) in self.own
                else f"%tidb_kill {'QUERY ' * bool(runs)}{number}"
            )
            yield end

    def _table(self) -> Table:
        shown = [column for column in (_SHOWN_LOCKS if "FREES" in self.columns else SHOWN) if column in self.columns]
        cells = [[_cell(value) for value in self[column].iloc[:ROWS_SHOWN]] for column in shown]
        for at, name in enumerate(shown):
            if name == "INFO":
                cells[at] = [statement(value) for value in cells[at]]
            elif name in {"WAITS_FOR", "HOLDS"} and not DISPLAY.sql:
                cells[at] = [value and "…" for value in cells[at]]
        if "MEM" in shown:
            at = shown.index("MEM")
            cells[at] = [value if value == "" else Bytes(value) for value in cells[at]]
        return shown, [list(row) for row in zip(*cells, strict=True)], self.footer()

    def footer(self) -> list[str]:
        """Return sentences on what is in it, what is not, and how it was read."""
        sessions = counted(len(self), "session")
        if self.matched > len(self):
            sessions = f"{len(self):,} of {counted(self.matched, 'session')}"
        lines = [self.taken(f"{sessions} on {counted(self['INSTANCE'].nunique(), 'instance')}")]
        if self.taken_at is None:
            return lines
        if self.matched > self.limit:
            lines.append(f"{self.limit:,} were listed: --limit {self.matched} lists all.")
        if self.hidden:
            them = "it" if self.hidden == 1 else "them"
            lines.append(f"{counted(self.hidden, 'idle session')} hidden (--idle shows {them}).")
        ids = set(keys_of(self))
        if cut := [length for session, length in self.cut.items() if session in ids]:
            longest = Bytes(max(cut))
            are = f"ends after 16 KiB of {longest}" if len(cut) == 1 else f"end after 16 KiB, the longest has {longest}"
            lines.append(f"{counted(len(cut), 'statement')} {are}: --full brings all of it.")
        if own := len(ids & self.own):
            lines.append(f"{own} of them {'is' if own == 1 else 'are'} tidb_magic's own.")
        return [*lines, *self.how_it_was_read()]


def _cell(value: Any) -> Any:
    if pd.isna(value):
        return ""
    return f"{value:.1f}" if isinstance(value, float) else value


def _process_list(*args: Any, **kwargs: Any) -> pd.DataFrame:
    """Keep the class while ID and INSTANCE identify the rows, else give a plain DataFrame."""
    frame = pd.DataFrame(*args, **kwargs)
    return ProcessList(frame) if _has_ids(frame) else frame


def _has_ids(frame: pd.DataFrame) -> bool:
    names = list(frame.columns)
    if names.count("ID") != 1 or names.count("INSTANCE") != 1:
        return False
    return pd.api.types.is_integer_dtype(frame["ID"].dtype)


def to_frame(result: Result) -> ProcessList:
    """Return the rows of a process list as they come, each session once, without what only counts them."""
    result = each_once(result)
    raw = result.by_name
    columns = to_columns(result, [name for name in result.columns if not name.startswith(OURS)])
    frame = ProcessList(columns | _transactions(raw["TxnStart"]))
    keys = list(zip(raw["INSTANCE"], raw["ID"], strict=True))
    lengths = zip(keys, raw.get(LENGTH, ()), strict=False)
    frame.cut = {session: length for session, length in lengths if length is not None}
    return frame


def each_once(result: Result) -> Result:
    """Return each session once: a restarted instance can be asked twice, and lists its sessions twice then."""
    keys = list(zip(result.by_name["INSTANCE"], result.by_name["ID"], strict=True))
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    return result if len(first) == len(keys) else result.take(sorted(first.values()))


def to_columns(result: Result, names: Sequence[str]) -> dict[str, Any]:
    """Return these columns of an answer: integers as Int64, floats as Float64."""
    columns: dict[str, Any] = {}
    for name in names:
        column = result.by_name[name]
        if name in result.integers:
            columns[name] = _integers(column)
        elif float in set(map(type, column)):
            columns[name] = pd.array(column, dtype="Float64")
        else:
            columns[name] = pd.array(column, dtype=TEXT)
    return columns


def _integers(column: Sequence[int | None]) -> Any:
    """Return Int64; TiDB's unsigned counters can fall below zero, and then are missing."""
    try:
        return pd.array(np.array(column, dtype=np.int64), dtype="Int64")
    except (OverflowError, TypeError):
        return pd.array([None if value is None or value >= 2**63 else value for value in column], dtype="Int64")


def _transactions(starts: Sequence[str]) -> dict[str, Any]:
    """Return TXN_ID and TXN_START_TIME for texts as ``11-24 05:52:43.266(470679437512802307)``.

    >>> found = _transactions(["11-24 05:52:43.266(470679437512802307)", ""])
    >>> int(found["TXN_ID"][0]), found["TXN_START_TIME"][0].isoformat()
    (470679437512802307, '2026-11-24T05:52:43.266000+00:00')
    """
    numbers, missing = np.zeros(len(starts), dtype=np.int64), np.ones(len(starts), dtype=bool)
    for at, text in enumerate(starts):
        if text and (found := _TXN_START.search(text)):
            numbers[at], missing[at] = int(found[1]), False
    moments = (numbers >> _LOGICAL_BITS).astype("datetime64[ms]")
    moments[missing] = np.datetime64("NaT", "ms")
    ids, times = pd.arrays.IntegerArray(numbers, missing), pd.DatetimeIndex(moments).tz_localize("UTC")
    return {"TXN_ID": ids, "TXN_START_TIME": times}
