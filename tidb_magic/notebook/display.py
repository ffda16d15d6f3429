"""How a list is displayed in a notebook: as a table with Kill buttons, and as HTML that a saved notebook keeps."""

import sys
from html import escape
from typing import TYPE_CHECKING

from IPython.core.displayhook import DisplayHook
from IPython.core.formatters import DisplayFormatter
from IPython.display import display, publish_display_data

from tidb_magic.errors import NotConnectedError
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.sessions.processlist import ProcessList

if TYPE_CHECKING:
    from types import FrameType


from tidb_magic.widget.settings import TableSettings
from tidb_magic.widget.table import SessionTable
from tidb_magic.widget.views import Shown, view_of

_DISPLAYS = {display.__code__, DisplayHook.compute_format_data.__code__}


def show(shown: "Shown | SessionTable", settings: TableSettings) -> None:
    """Show a list or a lock forest: a closed HTML snapshot, which a saved notebook keeps, and the table below it.

    Only where something is displayed: a debugger or a variable viewer that formats a frame gets no widget.

    Raises
    ------
    NotImplementedError
        It is not displayed, or has no table with buttons: IPython goes on to its text and HTML.
    """
    if not _is_displayed():
        raise NotImplementedError
    table = shown if isinstance(shown, SessionTable) else _table(shown, settings)
    listed = shown.shown if isinstance(shown, SessionTable) else shown
    said = view_of(listed).summary(listed)
    summary = " ".join([*(line for line in said if line == said[0] or line.startswith("NOT ")), "As it was then."])
    html = f"<details><summary>{escape(summary)}</summary>{listed._repr_html_()}</details>"
    publish_display_data({"text/plain": repr(listed), "text/html": html})
    model = table._repr_mimebundle_()
    publish_display_data(*model) if isinstance(model, tuple) else publish_display_data(model)


def _table(shown: Shown, settings: TableSettings) -> SessionTable:
    """Return the one table of a list."""
    table = shown.__dict__.get("_table_shown")
    if not isinstance(table, SessionTable) or table.closed:
        _check(view_of(shown).rows(shown))
        if isinstance(shown, LockForest) and not shown.tree:
            raise NotImplementedError  # no session waits: a sentence says it
        try:
            table = SessionTable(shown, settings)
        except NotConnectedError as error:
            raise NotImplementedError from error
        object.__setattr__(shown, "_table_shown", table)
    return table


def _check(frame: ProcessList) -> None:
    """Make sure that each row of a frame is one session.

    Raises
    ------
    NotImplementedError
    """
    keys = frame[["INSTANCE", "ID"]] if frame.columns.is_unique else None
    if keys is None or keys.isna().any(axis=None) or keys.duplicated().any():
        raise NotImplementedError


def _is_displayed() -> bool:
    """Tell whether IPython formats something in order to display it: as the result of a cell, or by `display`."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 (nothing else shows the caller)
    while frame is not None and frame.f_code is not DisplayFormatter.format.__code__:
        frame = frame.f_back
    return frame is not None and frame.f_back is not None and frame.f_back.f_code in _DISPLAYS
