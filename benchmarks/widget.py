"""The table with Kill buttons beside a plain HTML table of the same rows, in a real JupyterLab, without a TiDB.

A first paint lasts from the command that runs the cell until the rows are painted; a refresh from the click, or from
the command that runs the cell which updates the plain table. So the kernel's work counts on both sides, and the making
of the rows on neither. Rows are painted when the second animation frame begins with them in the page.

One ratio without a limit begins when the first of what a cell displays arrives, and leaves out the kernel before it.
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML
from playwright.sync_api import sync_playwright

from benchmarks.ratio import Ratio
from tests.lab import WAIT, Lab, Notebook, launch
from tidb_magic.connection.row_reader import Result
from tidb_magic.display.frame import Origin
from tidb_magic.sessions.lookup import Rights
from tidb_magic.sessions.processlist import SHOWN, ProcessList, to_frame

SIZES = (1_000, 10_000)  # rows
WARM_UP = 2  # rounds
_LISTS = 4  # that are made up of each size, and shown in turns
_LEAVE = 20  # one session in so many has ended in the next list
_BUSY = 10  # one session in so many runs a statement
_STATEMENT = "SELECT /* report {}: " + "the text of a usual statement, " * 6 + "*/ SLEEP(3600)"

_READY = """import sys
sys.path.insert(0, {!r})
%load_ext tidb_magic
from benchmarks.widget import SIZES, Rows, close_tables
sizes = {{size: Rows(size) for size in SIZES}}"""
SETUP, WIDGET, PLAIN, UPDATE, CLEAR = range(5)
CELLS = (
    _READY,
    "rows.table()",
    "handle = display(rows.html(), display_id=True)",
    "handle.update(rows.html())",
    "close_tables()",
)

# Do something and return the milliseconds until the first row is there, or is another one than before, and is painted;
# those since its output arrived; and those until the rows out of view are there too.
PAINTED = """async ({cell, shown, click, row, whole}) => {
    const {shell, commands} = window.jupyterapp;
    const {content, sessionContext} = shell.currentWidget;
    const {anyMessage} = sessionContext.session.kernel;
    const find = selector => content.widgets[shown].node.querySelector(`.jp-OutputArea ${selector}`);
    const frame = () => new Promise(requestAnimationFrame);
    const text = () => find(row)?.textContent;
    let arrived = null;
    const hear = (_, {msg, direction}) => {
        if (direction === 'recv' && msg.header.msg_type.endsWith('display_data')) arrived ??= performance.now();
    };
    anyMessage.connect(hear);
    const before = text();
    const began = performance.now();
    if (click) find(click).click();
    else {
        content.activeCellIndex = cell;
        commands.execute('notebook:run-cell');
    }
    do await frame(); while (text() === before);
    await frame();
    const painted = performance.now();
    anyMessage.disconnect(hear);
    while (whole && find(whole).textContent.includes('on the way')) await frame();
    return [painted - began, painted - (arrived ?? began), performance.now() - began];
}"""
RESTED = """async () => {
    for (let times = 0; times < 3; times += 1) await new Promise(done => requestIdleCallback(done));
}"""


# -- in the kernel -------------------------------------------------------------------------------------------------


class MadeUpCluster:
    """As much of a Cluster as the table asks for."""

    closed = False
    rights = Rights("root", others=True)

    def clone(self, _role: str) -> "MadeUpCluster":
        """Return one with a connection of its own: it has none."""
        return self

    def waiting(self, *, deadline: float) -> int:  # noqa: ARG002 (as Cluster has it)
        """Count the transactions that wait for locks."""
        return 0

    def close(self) -> None:
        """Close nothing."""


class Rows:
    """Lists of one size, a little later each, which are shown in turns."""

    def __init__(self, size: int) -> None:
        self._cluster = MadeUpCluster()
        self._lists = [_made_up(size, number) for number in range(_LISTS)]
        self._plain = [pd.DataFrame(listed)[SHOWN] for listed in self._lists]
        self._turns = count()

    def table(self, _cluster: object = None, *, deadline: float = 0.0) -> ProcessList:  # noqa: ARG002 (as `again`)
        """Return the next list, which has a table of its own."""
        listed = self._lists[next(self._turns) % _LISTS].copy()
        listed.taken_at = datetime.now(UTC)
        listed.origin = Origin("127.0.0.1:4000", 0.0, lambda: self._cluster, self.table, len(listed))
        return listed

    def html(self) -> HTML:
        """Return the next list as pandas makes HTML of all of it."""
        return HTML(self._plain[next(self._turns) % _LISTS].to_html())


def _made_up(size: int, number: int) -> ProcessList:
    """Return the list with that number: the longest running sessions of the one before have ended in it."""
    first = number * size // _LEAVE
    rows = [_session(first + at, 2 * number + (size - at) * 3_000 // size) for at in range(size)]
    columns = ("INSTANCE", "ID", "USER", "HOST", "DB", "COMMAND", "TIME", "STATE", "MEM", "INFO", "TxnStart")
    listed = to_frame(Result(columns, frozenset({"ID", "TIME", "MEM"}), tuple(zip(*rows, strict=True))))
    listed.complete, listed.matched, listed.limit = True, size, size
    return listed


def _session(number: int, seconds: int) -> tuple[Any, ...]:
    busy = number % _BUSY == 0
    does = (
        ("Query", seconds, "autocommit", 65_536, _STATEMENT.format(number)) if busy else ("Sleep", seconds, "", 0, None)
    )
    client = f"10.0.{number % 7}.{number % 251}:{20_000 + number}"
    return (f"127.0.0.1:{10_080 + number % 3}", 2**21 + 2 * number, f"user_{number % 8}", client, "shop", *does, "")


def close_tables() -> None:
    """Close the tables, of which the page has none any more."""
    from tidb_magic.widget.table import OPEN

    for table in list(OPEN):
        table.close()


# -- beside it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Painted:
    """Seconds until rows were painted, those since their output arrived, and until rows out of view were there too."""

    seconds: float
    arrived: float
    whole: float


def compare(*, rounds: int = 7) -> list[Ratio]:
    """Time first paints and refreshes of both tables, in turns."""
    spent: dict[tuple[str, int], list[Painted]] = {}
    with _notebook() as notebook:
        for turn in range(WARM_UP + rounds):
            for size in SIZES:
                for work, painted in _round(notebook, size).items():
                    spent.setdefault((work, size), []).extend([painted] if turn >= WARM_UP else [])
    few, many = SIZES
    first, again, plain_first, plain_again = (
        {size: _median(spent[work, size]) for size in SIZES} for work in ("first", "again", "plain", "plain again")
    )
    plain, updated = "plain HTML table, pandas to_html", "plain HTML table, updated"
    ratios = []
    for size in SIZES:
        rows, one, other = f"table, {size:,} rows", first[size], plain_first[size]
        ratios.append(Ratio(f"{rows}, first paint", plain, one.seconds, other.seconds, 0.3))
        ratios.append(Ratio("... since its output arrived", "the same", one.arrived, other.arrived))
        ratios.append(Ratio(f"{rows}, refresh", updated, again[size].seconds, plain_again[size].seconds, 0.3))
        ratios.append(Ratio(f"{rows}, refresh, 5 % of them new", "first paint", again[size].seconds, one.seconds, 0.1))
    rows = f"table, {many:,} rows"
    return [
        *ratios,
        Ratio(f"{rows}, first paint", f"{few:,} rows", first[many].seconds, first[few].seconds, 2.0),
        Ratio(f"{rows}, refresh", f"{few:,} rows", again[many].seconds, again[few].seconds, 2.0),
        Ratio(f"{rows}, first, until all are there", plain, first[many].whole, plain_first[many].seconds),
        Ratio(f"{rows}, refresh, until all are there", updated, again[many].whole, plain_again[many].seconds),
    ]


def _median(times: list[Painted]) -> Painted:
    return Painted(*(statistics.median(vars(one)[field.name] for one in times) for field in fields(Painted)))


@contextmanager
def _notebook() -> Iterator[Notebook]:
    """Open a notebook in which both sides are ready."""
    root = str(Path(__file__).parent.parent)
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
        lab.write(
            "both.ipynb", CELLS[SETUP].format(root), *CELLS[WIDGET:], *(f"rows = sizes[{size}]" for size in SIZES)
        )
        with sync_playwright() as playwright, launch(playwright) as browser:
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(WAIT)
            notebook = lab.open(page, "both.ipynb")
            notebook.run(SETUP)
            yield notebook


def _round(notebook: Notebook, size: int) -> dict[str, Painted]:
    """Show and refresh both."""
    notebook.run(len(CELLS) + SIZES.index(size))
    row = ".tidb-sessions tbody tr[data-key]"
    spent = {}
    spent["first"] = _painted(notebook, cell=WIDGET, shown=WIDGET, row=row, whole=".tidb-footer")
    spent["again"] = _painted(notebook, shown=WIDGET, click=".tidb-bar > button", row=row, whole=".tidb-footer")
    _clear(notebook)
    spent["plain"] = _painted(notebook, cell=PLAIN, shown=PLAIN, row=".dataframe tbody tr")
    spent["plain again"] = _painted(notebook, cell=UPDATE, shown=PLAIN, row=".dataframe tbody tr")
    _clear(notebook)
    return spent


def _painted(notebook: Notebook, **what: Any) -> Painted:
    notebook.page.evaluate(RESTED)
    return Painted(*(milliseconds / 1000 for milliseconds in notebook.page.evaluate(PAINTED, what)))


def _clear(notebook: Notebook) -> None:
    """Take both out of the page, so that neither has to wait for what was shown before."""
    notebook.command("notebook:clear-all-cell-outputs")
    notebook.run(CLEAR)
