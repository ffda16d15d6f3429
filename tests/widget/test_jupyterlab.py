"""The table with Kill buttons in a real JupyterLab, in a real Chromium, on a real cluster."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect
from playwright.sync_api import Error as PlaywrightError

from tests.clients import Client, eventually, one_float
from tests.lab import WAIT, Lab, Notebook, Table, kernelspec
from tidb_magic.playground import Playground

INTERRUPTED = 1317
WITHOUT_SUBSHELLS = "6.31"  # of ipykernel: later ones hear a click while a cell runs
SELECT = "SELECT /* {} */ SUM(SLEEP(0.05)) FROM test.numbers AS a, test.numbers AS b"
BUSY = "import pathlib, time\nprint('busy')\nwhile not pathlib.Path('free').exists(): time.sleep(0.01)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One page for all: to load JupyterLab and to start a kernel takes most of the time of a test."""
    opened = browser.new_page()
    opened.set_default_timeout(WAIT)
    opened.on("dialog", lambda dialog: dialog.accept())  # leaves a notebook that is not saved
    prepare_for_a_busy_machine(opened)
    yield opened
    opened.close()


PRESS_YES = """() => {
    const buttons = [...document.querySelectorAll(".tidb-panel button")];
    const yes = buttons.find((button) => button.textContent === "Yes, kill now");
    yes?.click();
    return Boolean(yes);
}"""
CONFIRM_AGAIN = f"window.confirmsAgain = setInterval({PRESS_YES}, 50);"


def prepare_for_a_busy_machine(page: Page) -> None:
    """Confirm a kill again whenever the kernel asks, which it does on a busy machine without a cell that runs.

    The page does it, as the 5 s that a person has may be over before the test learns of the question. JupyterLab
    misses its folder at times on such a machine, too.
    """

    def close(dialog: Locator) -> None:
        with suppress(PlaywrightError):  # it is gone meanwhile
            dialog.get_by_role("button").last.click(timeout=5_000)

    page.add_init_script(CONFIRM_AGAIN)
    page.add_locator_handler(page.locator(".jp-Dialog", has_text="Directory not found"), close)


Open = Callable[..., Notebook]


def connect(playground: Playground) -> str:
    """Return the first cell of a notebook."""
    return f"%reload_ext tidb_magic\n%tidb_connect {playground.url(0)}"


@pytest.fixture
def opened(lab: Lab, page: Page, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Return a function that opens a notebook with these cells, of which the first one connects.

    A test that ends the kernel takes one of its `own`; the others go on in the one that is there.
    """
    own_name = f"{abs(hash(request.node.name))}.ipynb"
    page.set_viewport_size({"width": 1400, "height": 900})

    def open_(playground: Playground, *cells: str, ipykernel: str | None = None, own: bool = False) -> Notebook:
        kernel = kernelspec(lab.data, ipykernel) if ipykernel else "python3"
        name = own_name if own else f"{kernel}.ipynb"
        cells = (connect(playground), *cells)
        if page.url.endswith(f"/{name}"):
            book = Notebook(page)
            book.wait_until_idle()
            book.replace(*cells)
        else:
            lab.write(name, *cells, kernel=kernel)
            book = lab.open(page, name)
        (lab.folder / "free").unlink(missing_ok=True)
        book.run(0)
        return book

    yield open_
    (lab.folder / "free").touch()


@pytest.fixture
def victim(playground: Playground, running: Any) -> Iterator[Client]:
    """A session on another instance that runs a long statement."""
    with Client(playground, 2) as client:
        yield running(client.start(SELECT.format("victim")), aged=True)


def history(book: Notebook, number: int) -> str:
    return book.run(number).inner_text()


def test_kill_query_is_confirmed_in_place_and_proven_on_another_instance(
    opened: Open, playground: Playground, victim: Client
) -> None:
    book = opened(playground, "%tidb_ps", "print(repr(get_ipython().run_line_magic('tidb_ps', '--history')))")
    book.run(1)
    table = book.table(1)
    panel = table.click(victim.id, "Kill query")
    for said in (
        f"Connection {victim.id} · root from 127.0.0.1:",
        f"on {victim.instance}",
        "/* victim */",
        "ends its statement; the session stays",
        f"KILL TIDB QUERY {victim.id}",
    ):
        expect(panel).to_contain_text(said)
    panel.get_by_text("Confirm: kill query").click()
    expect(table.outcome(victim.id)).to_have_text("✓ interrupted")
    assert victim.error_code() == INTERRUPTED
    assert victim.alive()
    said = history(book, 2)
    assert re.search(rf"kill +{victim.id} .* interrupted", said), said


def test_kill_connection_ends_the_session_and_its_row_says_so(
    opened: Open, playground: Playground, victim: Client
) -> None:
    book = opened(playground, "%tidb_ps")
    book.run(1)
    table = book.table(1)
    panel = table.click(victim.id, "Kill connection")
    expect(panel).to_contain_text(f"KILL TIDB CONNECTION {victim.id}")
    panel.get_by_text("Confirm: kill connection").click()
    expect(table.outcome(victim.id)).to_have_text("✓ killed")
    victim.result()
    assert not victim.alive()
    table.root.get_by_text("Refresh", exact=True).click()
    expect(table.row(victim.id)).to_contain_text("(not listed)")


def test_cancel_sends_nothing(opened: Open, playground: Playground, victim: Client, running: Any) -> None:
    book = opened(playground, "%tidb_ps", "print(repr(get_ipython().run_line_magic('tidb_ps', '--history')))")
    book.run(1)
    table = book.table(1)
    panel = table.click(victim.id, "Kill query")
    expect(panel.get_by_text("Confirm: kill query")).to_be_visible()
    panel.get_by_text("Cancel").click()
    expect(panel).to_have_count(0)
    panel = table.click(victim.id, "Kill connection")
    expect(panel.get_by_text("Confirm: kill connection")).to_be_visible()
    table.root.page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    said = history(book, 2)
    mine = [line for line in said.splitlines() if str(victim.id) in line]
    assert [" plan " in line for line in mine] == [True, True]
    running(victim)


def test_after_rows_moved_the_button_ends_the_session_of_its_own_row(
    opened: Open, playground: Playground, victim: Client, running: Any
) -> None:
    """Between the list and the click it is sorted, refreshed, and another session comes first."""
    book = opened(playground, "%tidb_ps")
    book.run(1)
    table = book.table(1)
    table.root.get_by_role("button", name="ID", exact=True).click()
    with Client(playground, 1) as other:
        running(other.start(SELECT.format("another")), aged=True)
        table.root.get_by_text("Refresh", exact=True).click()
        expect(table.row(other.id)).to_contain_text("(new)")
        panel = table.click(victim.id, "Kill query")
        panel.get_by_text("Confirm: kill query").click()
        expect(table.outcome(victim.id)).to_have_text("✓ interrupted")
        running(other)


@pytest.mark.parametrize("button", ["Kill query", "Kill connection"])
def test_a_statement_that_was_replaced_since_the_list_is_left_alone(
    opened: Open, playground: Playground, victim: Client, running: Any, button: str
) -> None:
    book = opened(playground, "%tidb_ps")
    book.run(1)
    with Client(playground, 2) as root:
        root.query(f"KILL TIDB QUERY {victim.id}")
    assert victim.error_code() == INTERRUPTED
    running(victim.start(SELECT.format("something else")), aged=True)
    panel = book.table(1).click(victim.id, button)
    expect(panel).to_contain_text("✗ changed: it runs another statement")
    expect(panel.get_by_text("Confirm")).to_have_count(0)
    running(victim)


def test_a_session_that_is_another_users_since_the_list_is_left_alone(
    opened: Open, playground: Playground, users: dict[str, str]
) -> None:
    """Connection pools hand a session on to another user: it keeps its id."""
    password = users["joe"]
    with Client(playground, 2, user="joe", password=password) as client:
        client.query("BEGIN")
        client.query("SELECT * FROM test.numbers LIMIT 1")
        book = opened(playground, "%tidb_ps")
        book.run(1)
        client.become("monitor", users["monitor"])
        panel = book.table(1).click(client.id, "Kill connection")
        expect(panel).to_contain_text("✗ changed: its USER was 'joe' and is 'monitor'")
        expect(panel.get_by_text("Confirm")).to_have_count(0)
        assert client.alive()


def test_a_session_that_changed_between_look_and_confirm_is_left_alone(
    opened: Open, playground: Playground, victim: Client, running: Any
) -> None:
    book = opened(playground, "%tidb_ps")
    book.run(1)
    table = book.table(1)
    panel = table.click(victim.id, "Kill connection")
    expect(panel.get_by_text("Confirm: kill connection")).to_be_visible()
    with Client(playground, 2) as root:
        root.query(f"KILL TIDB QUERY {victim.id}")
    assert victim.error_code() == INTERRUPTED
    running(victim.start(SELECT.format("something else")), aged=True)
    panel.get_by_text("Confirm: kill connection").click()
    expect(table.outcome(victim.id)).to_have_text("✗ changed")
    running(victim)


def test_in_notebook_7_it_is_the_same(lab: Lab, page: Page, playground: Playground, victim: Client) -> None:
    lab.write("seven.ipynb", f"%load_ext tidb_magic\n%tidb_connect {playground.url(0)}", "%tidb_ps")
    page.goto(f"http://127.0.0.1:{lab.port}/notebooks/seven.ipynb")
    expect(page.get_by_text("Python 3 (ipykernel)").first).to_be_visible()
    for text in ("%load_ext tidb_magic", "%tidb_ps"):
        cell = page.locator(".jp-Cell").filter(has_text=text).first
        while cell.locator(".jp-InputPrompt").text_content() == "[ ]:":  # keys are lost until the notebook is ready
            cell.locator(".cm-content").click()
            page.keyboard.press("Shift+Enter")
            page.wait_for_timeout(200)
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))
    table = Table(page.locator(".tidb-sessions"))
    expect(table.row(victim.id)).to_be_visible()
    panel = table.click(victim.id, "Kill query")
    panel.get_by_text("Confirm: kill query").click()
    expect(table.outcome(victim.id)).to_have_text("✓ interrupted")
    assert victim.error_code() == INTERRUPTED


def test_hostile_text_is_shown_and_never_acts(opened: Open, playground: Playground, page: Page, running: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    text = "/* <img src=x onerror='window.hacked=1'>\n </script><script>window.hacked=2</script> \u202e {{7*7}} */ "
    with Client(playground) as root:
        root.query("CREATE USER IF NOT EXISTS '<b onclick=x>'@'%'")
        root.query("GRANT SELECT ON *.* TO '<b onclick=x>'@'%'")
    with Client(playground, 1, user="<b onclick=x>") as client:
        client.query("SET tidb_session_alias = '<img src=y onerror=\"window.hacked=3\">'")
        running(client.start(text + SELECT.format("hostile")), aged=True)
        book = opened(playground, "%tidb_ps")
        book.run(1)
        table = book.table(1)
        row = table.row(client.id)
        expect(row).to_contain_text("<b onclick=x>")
        row.locator(".tidb-sql").click()
        shown = table.root.locator("pre").text_content()
        assert shown == (text + SELECT.format("hostile")).replace("\u202e", "\\u{202e}")
        panel = table.click(client.id, "Kill connection")
        expect(panel.get_by_text("Confirm")).to_be_visible()
        page.locator(".jp-OutputArea details summary").first.click()
        assert page.evaluate("window.hacked") is None
        assert page.locator(".jp-OutputArea img").count() == 0
        assert page.locator(".jp-OutputArea script").count() == 0
    assert [url for url in asked if not url.startswith(("http://127.0.0.1", "blob:", "data:"))] == []


# -- while a cell runs -----------------------------------------------------------------------------------------


@pytest.fixture
def waiting(opened: Open, playground: Playground, victim: Client, page: Page) -> Iterator[tuple[Notebook, Table]]:
    """A kill that was confirmed while a cell runs, in a kernel that receives it only afterwards."""
    book = opened(playground, "%tidb_ps", BUSY, ipykernel=WITHOUT_SUBSHELLS)
    page.evaluate("clearInterval(window.confirmsAgain)")
    book.run(1)
    table = book.table(1)
    panel = table.click(victim.id, "Kill query")
    expect(panel.get_by_text("Confirm: kill query")).to_be_visible()
    book.start(2)
    expect(book.outputs(2)).to_contain_text("busy")
    panel.get_by_text("Confirm: kill query").click()
    expect(panel).to_contain_text("the kill is queued until the cell ends. Nothing was sent yet.")
    page.wait_for_timeout(1_200)  # after 1.5 s the browser does not answer the kernel's question by itself
    yield book, table
    page.evaluate(CONFIRM_AGAIN)


def free(lab: Lab) -> None:
    (lab.folder / "free").touch()


def test_a_kill_that_waits_for_a_cell_can_be_taken_back(
    waiting: tuple[Notebook, Table], lab: Lab, victim: Client, running: Any
) -> None:
    book, table = waiting
    table.root.get_by_text("Take it back").click()
    expect(table.outcome(victim.id)).to_have_text("○ taken back")
    free(lab)
    expect(book.page.get_by_text("| Idle")).to_be_visible()
    table.root.get_by_text("Refresh", exact=True).click()
    expect(table.outcome(victim.id)).to_have_text("○ taken back")
    running(victim)


def test_a_kill_that_was_heard_late_is_asked_back_and_done_after_yes(
    waiting: tuple[Notebook, Table], lab: Lab, victim: Client
) -> None:
    _, table = waiting
    free(lab)
    table.root.page.wait_for_function(PRESS_YES)
    expect(table.outcome(victim.id)).to_have_text("✓ interrupted")
    assert victim.error_code() == INTERRUPTED


def test_a_kill_that_was_heard_late_is_not_sent_when_nobody_answers(
    waiting: tuple[Notebook, Table], lab: Lab, victim: Client, running: Any
) -> None:
    _, table = waiting
    free(lab)
    expect(table.root.locator(".tidb-panel")).to_contain_text("Still kill?")
    expect(table.outcome(victim.id)).to_have_text("○ not sent")
    assert table.outcome(victim.id).get_attribute("title") == (
        "The kernel received the click late and asked for confirmation; there was no answer within 5 s."
    )
    running(victim)


def test_the_first_click_waits_for_a_cell_and_says_so(
    opened: Open, playground: Playground, lab: Lab, victim: Client
) -> None:
    book = opened(playground, "%tidb_ps", BUSY, ipykernel=WITHOUT_SUBSHELLS)
    book.run(1)
    book.start(2)
    expect(book.outputs(2)).to_contain_text("busy")
    panel = book.table(1).click(victim.id, "Kill query")
    expect(panel).to_contain_text("The kernel is busy: this is queued until the cell ends. Nothing was sent.")
    free(lab)
    expect(panel.get_by_text("Confirm: kill query")).to_be_visible()


@pytest.mark.parametrize("ipykernel", ["7.3", "7.4"])
def test_where_the_kernel_hears_a_click_while_a_cell_runs_the_kill_does_not_wait(
    opened: Open, playground: Playground, victim: Client, ipykernel: str
) -> None:
    book = opened(playground, "%tidb_ps", BUSY, ipykernel=ipykernel)
    book.run(1)
    table = book.table(1)
    panel = table.click(victim.id, "Kill query")
    expect(panel.get_by_text("Confirm: kill query")).to_be_visible()
    book.start(2)
    expect(book.outputs(2)).to_contain_text("busy")
    panel.get_by_text("Confirm: kill query").click()
    expect(table.outcome(victim.id)).to_have_text("✓ interrupted")
    assert victim.error_code() == INTERRUPTED


def test_the_stop_button_stops_the_cell_and_the_table_works_on(
    opened: Open, playground: Playground, victim: Client
) -> None:
    book = opened(playground, "%tidb_ps --live 0.5", BUSY)
    book.run(1)
    book.start(2)
    expect(book.outputs(2)).to_contain_text("busy")
    book.command("notebook:interrupt-kernel")
    expect(book.page.get_by_text("| Idle")).to_be_visible()
    table = book.table(1)
    panel = table.click(victim.id, "Kill query")
    panel.get_by_text("Confirm: kill query").click()
    # Its row goes with the refresh after the next, half a second later.
    expect(table.root.get_by_role("status")).to_contain_text(f"{victim.id}: interrupted in")


def test_after_a_restart_of_the_kernel_the_buttons_are_off_and_it_says_why(
    opened: Open, playground: Playground, victim: Client
) -> None:
    book = opened(playground, "%tidb_ps", own=True)
    book.run(1)
    table = book.table(1)
    expect(table.row(victim.id).get_by_text("Kill query")).to_be_enabled()
    book.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    expect(table.root).to_contain_text("The kernel is gone")
    expect(table.row(victim.id).get_by_text("Kill query")).to_be_disabled()
    assert "The kernel is gone" in (table.row(victim.id).get_by_text("Kill query").get_attribute("title") or "")
    expect(table.root.get_by_text("Refresh", exact=True)).to_be_disabled()


def test_after_the_kernel_was_shut_down_an_open_panel_is_closed_and_says_that_nothing_was_sent(
    opened: Open, playground: Playground, victim: Client, running: Any
) -> None:
    book = opened(playground, "%tidb_ps", own=True)
    book.run(1)
    table = book.table(1)
    panel = table.click(victim.id, "Kill query")
    expect(panel.get_by_text("Confirm: kill query")).to_be_visible()
    book.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    panel.get_by_text("Confirm: kill query").click()  # nothing tells the page before it says something itself
    expect(table.root).to_contain_text("The kernel is gone")
    expect(panel).to_have_count(0)
    expect(table.outcome(victim.id)).to_have_text("○ not sent")
    expect(table.row(victim.id).get_by_text("Kill query")).to_be_disabled()
    running(victim)


def test_two_tables_work_beside_each_other(opened: Open, playground: Playground, victim: Client, running: Any) -> None:
    with Client(playground, 1) as other:
        running(other.start(SELECT.format("other")), aged=True)
        book = opened(playground, "one = %tidb_ps\none", "%tidb_ps", "one")
        for number in (1, 2, 3):
            book.run(number)
        first, second, again = (book.table(number) for number in (1, 2, 3))
        panel = first.click(victim.id, "Kill query")
        expect(second.root.locator(".tidb-panel")).to_have_count(0)
        panel.get_by_text("Confirm: kill query").click()
        expect(first.outcome(victim.id)).to_have_text("✓ interrupted")
        expect(second.outcome(victim.id)).to_have_text("")
        panel = second.click(other.id, "Kill query")
        panel.get_by_text("Confirm: kill query").click()
        expect(second.outcome(other.id)).to_have_text("✓ interrupted")
        expect(again.row(victim.id)).to_be_visible()


def test_a_live_table_shows_who_comes_and_who_goes_and_keeps_what_was_opened(
    opened: Open, playground: Playground, victim: Client, running: Any
) -> None:
    book = opened(playground, "%tidb_ps --live 0.3")
    book.run(1)
    table = book.table(1)
    table.row(victim.id).locator(".tidb-sql").click()
    expect(table.root.locator("pre")).to_contain_text("/* victim */")
    table.row(victim.id).get_by_role("checkbox").check()
    with Client(playground, 1) as other:
        running(other.start(SELECT.format("comes and goes")), aged=True)
        expect(table.row(other.id)).to_be_visible()
    expect(table.row(other.id)).to_have_count(0)
    expect(table.root.locator("pre")).to_contain_text("/* victim */")
    expect(table.row(victim.id).get_by_role("checkbox")).to_be_checked()
    expect(table.root).to_contain_text("live, every 0.3 s")


@pytest.mark.slow  # waits for the end of a lock's TTL of 20 s
def test_a_root_blocker_is_ended_by_its_button_and_a_waiter_has_none(opened: Open, playground: Playground) -> None:
    with Client(playground, 0) as holder, Client(playground, 2) as waiter:
        holder.query("CREATE TABLE IF NOT EXISTS test.tangle_shown (n INT PRIMARY KEY, v INT)")
        holder.query("INSERT IGNORE INTO test.tangle_shown VALUES (1, 0)")
        holder.query("BEGIN")
        holder.query("UPDATE test.tangle_shown SET v = v + 1 WHERE n = 1")
        waiter.query("SET innodb_lock_wait_timeout = 600")  # 50 s by default, and JupyterLab may take as long
        waiter.query("BEGIN")
        waiter.start("UPDATE test.tangle_shown SET v = v + 1 WHERE n = 1")
        book = opened(playground, "%tidb_ps --locks")
        # TiDB shows what it waits for a third of a second later (8.5.6, measured).
        behind = f"└─\N{NO-BREAK SPACE}{waiter.id}"
        eventually(lambda: book.run(1) and book.table(1).row(waiter.id).filter(has_text=behind).count())
        table = book.table(1)
        expect(table.row(waiter.id)).to_contain_text("for test.tangle_shown row 1")
        expect(table.row(waiter.id).get_by_text("Kill connection")).to_be_disabled()
        book.page.set_viewport_size({"width": 900, "height": 900})  # who holds what matters more than the statement
        expect(table.row(holder.id).locator(".tidb-INFO")).to_have_count(0)
        held = table.row(holder.id).locator(".tidb-HOLDS").bounding_box()
        assert held is not None
        assert held["width"] < 120
        panel = table.click(holder.id, "Kill connection")
        expect(panel).to_contain_text("rolls back ")
        expect(panel).to_contain_text("its row locks can stay for about 20 s")
        panel.get_by_text("Confirm: kill connection").click()
        expect(table.outcome(holder.id)).to_have_text("✓ killed")
        expect(table.root.get_by_role("status")).to_contain_text("1 session waited; no longer waiting")
        assert waiter.result() == ()
        assert not holder.alive()


# -- what stays ------------------------------------------------------------------------------------------------


@dataclass
class Saved:
    """A notebook that was saved with a list in it, which has the session `listed`; its kernel is gone."""

    path: Path
    listed: int


@pytest.fixture(scope="module")
def saved(playground: Playground, lab: Lab, page: Page) -> Saved:
    path = lab.folder / "saved.ipynb"
    lab.write(path.name, connect(playground), "%tidb_ps")
    with Client(playground, 2) as client:
        client.start(SELECT.format("saved"))
        book = lab.open(page, path.name)
        book.run(0)
        book.run(1)
        expect(book.table(1).row(client.id)).to_be_visible()
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    return Saved(path, client.id)


def test_a_saved_notebook_holds_the_snapshot_and_no_secret(saved: Saved) -> None:
    book = nbformat.read(saved.path, as_version=4)
    html, widget = (output["data"] for output in book.cells[1].outputs)
    assert html["text/html"].startswith("<details><summary>")
    assert str(saved.listed) in html["text/html"]
    assert str(saved.listed) in html["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in widget
    assert "text/html" not in widget


@pytest.mark.parametrize("trusted", [True, False])
def test_a_reopened_notebook_shows_the_snapshot(saved: Saved, lab: Lab, page: Page, *, trusted: bool) -> None:
    name = saved.path.name
    if not trusted:
        content = json.loads(saved.path.read_text())
        content["cells"][0]["source"] = "# a copy from somebody else"
        name = "copy.ipynb"
        (lab.folder / name).write_text(json.dumps(content))
    lab.open(page, name)
    summary = page.locator(".jp-OutputArea details summary")
    expect(summary).to_contain_text("As it was then.")
    summary.click()
    expect(page.locator(".jp-OutputArea details table")).to_contain_text(str(saved.listed))


def test_a_notebook_that_was_converted_to_html_shows_the_snapshot_offline(saved: Saved, browser: Browser) -> None:
    convert = [sys.executable, "-m", "nbconvert", "--to", "html", str(saved.path)]
    subprocess.run(convert, check=True, capture_output=True)
    context = browser.new_context()

    def only_files(route: Route) -> None:
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    context.route("**/*", only_files)
    page = context.new_page()
    page.goto(saved.path.with_suffix(".html").as_uri())
    page.locator("details summary").click()
    expect(page.locator("details table")).to_contain_text(str(saved.listed))
    context.close()


def test_of_two_ids_that_are_one_float_the_button_ends_the_right_one(
    opened: Open, ids64: Playground, running: Any
) -> None:
    with one_float(ids64, 1) as (one, other):
        for client in (one, other):
            running(client.start(SELECT.format("alike")), aged=True)
        book = opened(ids64, "%tidb_ps")
        book.run(1)
        table = book.table(1)
        panel = table.click(other.id, "Kill query")
        expect(panel).to_contain_text(f"KILL TIDB QUERY {other.id}")
        panel.get_by_text("Confirm: kill query").click()
        expect(table.outcome(other.id)).to_have_text("✓ interrupted")
        assert other.error_code() == INTERRUPTED
        running(one)
