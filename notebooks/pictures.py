"""Take the pictures of the README, from a real JupyterLab on a real cluster: `python -m notebooks.pictures`.

With a folder, `python -m notebooks.pictures FOLDER`, all of them go there: at two widths, light and dark. Look at them
before any is committed: alignment, contrast, no cut text.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

from tests.clients import Client, eventually
from tests.lab import Lab, Notebook, Table, launch
from tidb_magic.playground import Playground

HERE = Path(__file__).parent / "pictures"
WIDTHS = (1400, 900)
SHOWN = {"list-dark-1400", "confirm-light-1400", "outcome-light-1400", "locks-light-1400"}  # in the README
HEAVY = "SELECT COUNT(*) FROM INFORMATION_SCHEMA.COLUMNS a, INFORMATION_SCHEMA.COLUMNS b, INFORMATION_SCHEMA.COLUMNS c"
WHAT_RUNS = "SELECT ID, TIME, INFO FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE INFO LIKE 'SELECT COUNT%'"
STOPPED = ("df = pd.read_sql(query, engine)  # Stop", "pd.read_sql(sqlalchemy.text(what_runs), engine)")
WHO = "nightly report"  # whose statement is ended


def main() -> int:
    """Take the pictures; return the exit status."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    (folder or HERE).mkdir(exist_ok=True)
    with ExitStack() as stack:
        cluster = stack.enter_context(Playground(instances=3, workload=True))
        lab = stack.enter_context(Lab(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        browser = launch(stack.enter_context(sync_playwright()))
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 1000})
            connect = f"%load_ext tidb_magic\n%tidb_connect {cluster.url(0)}"
            lab.write("shown.ipynb", connect, "%tidb_ps", "blocked = %tidb_ps --locks\nblocked")
            book = lab.open(page, "shown.ipynb")
            book.command("application:toggle-left-area")
            book.run(0)
            for theme in ("Light", "Dark"):
                book.command("apputils:change-theme", theme=f"JupyterLab {theme}")
                take(book, page, f"{theme.lower()}-{width}", folder)
            page.close()
        stop(lab, browser.new_page(viewport={"width": 1150, "height": 900}), cluster, folder or HERE)
        browser.close()
    return 0


def stop(lab: Lab, page: Page, cluster: Playground, folder: Path) -> None:
    """Take the picture of a cell that is stopped, without tidb_magic and with it."""
    ready = f"""%xmode Minimal
import pandas as pd, sqlalchemy
engine = sqlalchemy.create_engine({cluster.url(0).replace("mysql:", "mysql+pymysql:")!r})
query = {HEAVY!r}
what_runs = {WHAT_RUNS!r}"""
    lab.write("stop.ipynb", ready, *STOPPED, "%load_ext tidb_magic", *STOPPED)
    book = lab.open(page, "stop.ipynb")
    book.command("apputils:change-theme", theme="JupyterLab Light")
    book.command("application:toggle-left-area")
    book.run(0)
    with Client(cluster, 1) as root:
        for stopped, number in (("before", 1), ("after", 4)):
            book.start(number)
            eventually(lambda: root.query(WHAT_RUNS))
            time.sleep(3)  # as a person waits
            book.command("notebook:interrupt-kernel")
            expect(book.outputs(number)).to_contain_text("KeyboardInterrupt")
            shown = expect(book.run(number + 1).locator("tbody tr"))
            shown.to_have_count(1 if stopped == "before" else 0)
            if stopped == "before":
                book.run(3)
                for left, *_ in root.query(WHAT_RUNS):
                    root.query(f"KILL TIDB CONNECTION {left}")
    book.run(0)  # the bar of the active cell is not in the picture
    boxes = [page.locator(".jp-Notebook .jp-Cell").nth(number).bounding_box() for number in (1, 5)]
    first, last = (box for box in boxes if box)
    clip = {
        "x": first["x"],
        "y": first["y"],
        "width": first["width"],
        "height": last["y"] + last["height"] - first["y"],
    }
    page.mouse.move(0, 0)
    page.screenshot(path=folder / "stop.png", animations="disabled", clip=clip)


def take(book: Notebook, page: Page, name: str, folder: Path | None) -> None:
    """Take the pictures at one width, in one theme."""

    def shoot(what: Locator, kind: str) -> None:
        page.mouse.move(0, 0)
        file = f"{kind}-{name}"
        if folder is not None or file in SHOWN:
            what.screenshot(path=(folder or HERE) / f"{file}.png", animations="disabled")

    book.run(1)
    table = book.table(1)
    row = table.root.locator("tr[data-key]:not(.tidb-below)").filter(has_text=WHO).first
    expect(row).to_be_visible()
    expect(table.root).to_contain_text("transactions waiting for locks")
    shoot(table.root, "list")
    row.get_by_text("Kill query", exact=True).click()
    confirm = table.root.get_by_text("Confirm: kill query")
    expect(confirm).to_be_visible()
    shoot(table.root, "confirm")
    number = int((row.get_attribute("data-key") or "").split()[1])
    confirm.click()
    expect(table.outcome(number)).to_have_text("✓ interrupted")
    shoot(table.root, "outcome")
    eventually(lambda: book.run(2) and book.table(2).root.locator("[aria-level='2']").count())
    locks: Table = book.table(2)
    shoot(locks.root, "locks")


if __name__ == "__main__":
    sys.exit(main())
