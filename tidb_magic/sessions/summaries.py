"""SessionCounts and InstanceList: the cluster at a glance, as DataFrames that show themselves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import pandas as pd

from tidb_magic.display.frame import HOW_IT_WAS_READ, ReadFrame, ShownFrame, Table, by_column, counted, typed
from tidb_magic.display.render import Bytes, Seconds, statement


class SessionCounts(ReadFrame):
    """How many sessions there are, by one column or several, most first.

    The columns that were asked for, then SESSIONS ``Int64``, idle ones included; ACTIVE ``Int64``, those that run
    something or hold a transaction; LONGEST ``Int64``, the largest TIME of these in seconds, missing where there is
    none; MEMORY ``Int64``, bytes that their statements use (MEM). `groups` is how many there are without the limit,
    `taken_at`, `complete`, `missing`, `remarks`, `see_others` are as in ProcessList.
    """

    groups: int = 0

    _metadata: ClassVar[list[str]] = [*HOW_IT_WAS_READ, "groups"]
    _bars: ClassVar[tuple[str, ...]] = ("SESSIONS", "ACTIVE", "LONGEST", "MEMORY")

    def _table(self) -> Table:
        header = list(self.columns)
        lines = [self.taken(f"{counted(int(self['SESSIONS'].sum()), 'session')} in {counted(len(self), 'group')}")]
        if self.groups > len(self):
            lines.append(f"{len(self):,} of {counted(self.groups, 'group')} are listed: --limit {self.groups} for all.")
        return header, _rows(self, header), [*lines, *self.how_it_was_read()]


class InstanceList(ReadFrame):
    """The instances that are registered with PD, one row each.

    INSTANCE as the process list has it; ADDRESS where SQL clients connect; STATUS_ADDRESS; VERSION; SERVER_ID
    ``Int64``, which the ids of its sessions hold; UP_SINCE ``datetime64[s]`` in this machine's time zone; SESSIONS
    and MEMORY ``Int64``, as in SessionCounts; ANSWERING, whether it answered; GLOBAL_KILL, whether that is on there.

    What cannot be seen is missing: SESSIONS and MEMORY of one that does not answer; SERVER_ID and UP_SINCE without
    PROCESS; the addresses in security-enhanced mode. For about a minute after a restart an instance has two rows; the
    older one does not answer.
    """

    COLUMNS = (
        "INSTANCE",
        "ADDRESS",
        "STATUS_ADDRESS",
        "VERSION",
        "SERVER_ID",
        "UP_SINCE",
        "SESSIONS",
        "MEMORY",
        "ANSWERING",
        "GLOBAL_KILL",
    )
    DTYPES: ClassVar[dict[str, str]] = {
        "SERVER_ID": "Int64",
        "UP_SINCE": "object",  # until its time zone is known
        "SESSIONS": "Int64",
        "MEMORY": "Int64",
        "ANSWERING": "bool",
        "GLOBAL_KILL": "boolean",
    }

    def _table(self) -> Table:
        header = list(self.columns)
        rows = _rows(self, header)
        return header, rows, [self.taken(counted(len(self), "instance")), *self.how_it_was_read()]


class ConnectionList(ShownFrame):
    """What is connected by ``%tidb_connect``, one row each; no secrets.

    ALIAS, which is empty for the one without; CURRENT ``bool``; ADDRESS as ``user@host:port``; SOURCE, where that was
    found, empty if it was typed; VERSION; INSTANCES ``Int64``, how many are registered; GLOBAL_KILL ``boolean``,
    missing if the cluster does not say; SEES and MAY_END, ``all`` sessions or ``own``; TLS; CAUTIONS. As last known.
    """

    COLUMNS = (
        "ALIAS",
        "CURRENT",
        "ADDRESS",
        "SOURCE",
        "VERSION",
        "INSTANCES",
        "GLOBAL_KILL",
        "SEES",
        "MAY_END",
        "TLS",
        "CAUTIONS",
    )
    DTYPES: ClassVar[dict[str, str]] = {"CURRENT": "bool", "INSTANCES": "Int64", "GLOBAL_KILL": "boolean"}

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, object]]) -> Self:
        """Return these rows."""
        return cls(typed(by_column(list(rows), cls.COLUMNS), cls.DTYPES))

    def _table(self) -> Table:
        header = list(self.columns)
        how = "" if len(self) else " Type: %tidb_connect mysql://user@host:4000"
        return header, _rows(self, header), [f"{counted(len(self), 'connection')}.{how}"]


_UNITS: dict[str, Any] = {"MEMORY": Bytes, "LONGEST": Seconds, "INFO": statement}


def _rows(frame: pd.DataFrame, header: Sequence[str]) -> list[list[object]]:
    columns = []
    for name in header:
        show = _UNITS.get(name, lambda value: value)
        columns.append(["" if pd.isna(value) else show(value) for value in frame[name]])
    return [list(row) for row in zip(*columns, strict=True)]
