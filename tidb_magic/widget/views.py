"""What the table can show, a view for each: a list of sessions, or a lock forest."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from tidb_magic.display.frame import keys_of
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.sessions.lookup import Rights
from tidb_magic.sessions.processlist import ProcessList
from tidb_magic.widget.payload import snapshot, tree

Shown = ProcessList | LockForest


@dataclass(frozen=True)
class View:
    """How something is shown.

    `rows` returns its sessions, `payload` what the browser draws, `summary` the sentences below it. `counts_waiters` is
    whether the table also counts the transactions that wait for locks; `can_be_cut` whether rows can be left out.
    """

    rows: Callable[[Any], ProcessList]
    payload: Callable[[Any, Rights, int, int | None], dict[str, Any]]
    summary: Callable[[Any], list[str]]
    counts_waiters: bool
    can_be_cut: bool


_LIST = View(lambda listed: listed, snapshot, ProcessList.footer, counts_waiters=True, can_be_cut=True)
_LOCKS = View(attrgetter("frame"), tree, attrgetter("summary"), counts_waiters=False, can_be_cut=False)


def view_of(shown: Shown) -> View:
    """Return the view of something."""
    return _LOCKS if isinstance(shown, LockForest) else _LIST


def rows_with(frame: ProcessList | None, sessions: list[tuple[str, str]]) -> ProcessList | None:
    """Return the rows of these sessions, None unless each is there."""
    if frame is None:
        return None
    wanted, keys = {(instance, int(number)) for instance, number in sessions}, keys_of(frame)
    return frame.loc[[key in wanted for key in keys]] if wanted <= set(keys) else None
