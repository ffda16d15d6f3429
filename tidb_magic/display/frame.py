"""DataFrames that show themselves with a footer, and say how they were read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from tidb_magic.display.render import html_table, text_table

HOW_IT_WAS_READ = ["taken_at", "complete", "missing", "remarks", "see_others", "origin"]
# The dtype of text: str, or object before pandas 3. Kept by Python, also where pyarrow is installed: in Arrow's memory,
# where pandas then keeps it, a text from a server that is no valid UTF-8 cannot be.
TEXT: Any = pd.Series(["text"]).dtype
if isinstance(TEXT, pd.StringDtype):
    TEXT = pd.StringDtype("python", na_value=np.nan)
Table = tuple[Sequence[str], Sequence[Sequence[object]], Sequence[str]]  # header, rows, footer


class ShownFrame(pd.DataFrame):
    """A DataFrame that shows itself as `_table` says; what is cut out of it is a plain one."""

    _widths: ClassVar[Mapping[str, int]] = MappingProxyType({})  # of columns in text
    _bars: ClassVar[tuple[str, ...]] = ()  # columns that are drawn as bars in HTML

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def _table(self) -> Table:
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return an aligned table with its footer."""
        return text_table(*self._table(), widths=self._widths, total=len(self))

    def _repr_html_(self) -> str | None:
        return html_table(*self._table(), bars={name: self[name].fillna(0).tolist() for name in self._bars})


@dataclass(frozen=True)
class Origin:
    """The origin of a list: the address of its cluster, and when it was requested, by `sessions.lookup.clock`.

    `reload` reads the list again from a cluster, `cluster` is a weak reference to its own, `rows` is its length. They
    and the clock are of this process only, so a pickled copy has none of them.
    """

    address: str
    requested: float | None = None
    cluster: Callable[[], Any] = lambda: None
    reload: Callable[..., Any] | None = None
    rows: int = 0

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Leave the clock and the cluster behind."""
        return type(self), (self.address,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Stay the same in a copy of the frame."""
        return self


class ReadFrame(ShownFrame):
    """A frame that was read from the cluster; ProcessList says what the attributes are."""

    taken_at: datetime | None = None
    complete: bool = False
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    see_others: bool = True
    origin: Origin | None = None

    _metadata: ClassVar[list[str]] = HOW_IT_WAS_READ

    def taken(self, counted: str) -> str:
        """Return a sentence on what was counted, and when it was read."""
        return f"{counted}." if self.taken_at is None else f"{counted}, taken {self.taken_at:%Y-%m-%d %H:%M:%S %Z}."

    def how_it_was_read(self) -> list[str]:
        """Return sentences on what is missing and how it was read."""
        if self.taken_at is None:
            return []
        lines = [] if self.see_others else ["Only your own sessions are visible: PROCESS is needed to see the others'."]
        if self.complete:
            return [*lines, *self.remarks, "Complete: every registered instance answered."]
        no_answer = f": no answer from {', '.join(self.missing)}" if self.missing else ""
        return [*lines, f"NOT COMPLETE{no_answer}.", *self.remarks]


def counted(number: int, what: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "session"), counted(2_000, "session")
    ('1 session', '2,000 sessions')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def typed(columns: Mapping[str, Iterable[object]], dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Return columns for a frame, text where `dtypes` says nothing."""
    return {name: pd.array(list(values), dtype=dtypes.get(name, TEXT)) for name, values in columns.items()}


def by_column(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> dict[str, list[object]]:
    """Return these columns of rows."""
    return {name: [row[name] for row in rows] for name in names}


def values_of(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return a column as Python's own values, None where one is missing."""
    return list(frame[name].to_numpy(dtype=object, na_value=None).tolist())  # type: ignore[call-overload]  # it takes None


def keys_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """Return INSTANCE and ID of each row."""
    return list(zip(frame["INSTANCE"], frame["ID"], strict=True))
