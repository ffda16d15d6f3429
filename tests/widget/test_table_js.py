"""The table with Kill buttons by itself, in a real Chromium: what it shows, what it says to the kernel, and when."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from playwright.sync_api import Browser, Locator, Page, expect

from tidb_magic.connection.row_reader import Result
from tidb_magic.display.frame import Origin
from tidb_magic.kill.report import marked_outcome
from tidb_magic.sessions.lookup import Rights
from tidb_magic.sessions.processlist import ProcessList, to_frame
from tidb_magic.widget.payload import PART, TEXT_SENT, Sent, part, snapshot
from tidb_magic.widget.table import ESM

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)  # the page's clock stands still there, and goes on when a test says so
HERE, THERE = "10.0.0.1:10080", "10.0.0.2:10080"
ALL = Rights("root", others=True)
TWINS = (5857102839209263104, 5857102839209263105)  # one float64
SESSION = ("INSTANCE", "ID", "USER", "HOST", "DB", "COMMAND", "TIME", "STATE", "MEM", "INFO", "TxnStart")
PAGE = Path(__file__).parent / "table.html"
STATIC = Path(__file__).parent.parent.parent / "tidb_magic" / "widget" / "static"
SERVED = {
    "/": ("text/html", PAGE.read_bytes()),
    "/table.js": ("text/javascript", ESM.encode()),
    "/table.css": ("text/css", (STATIC / "table.css").read_bytes()),
}
HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>\u202egnp.exe\x00\x1b[2J'
SEEN = HOSTILE.replace("\u202e", "\\u{202e}").replace("\x00", "\\u{0}").replace("\x1b", "\\u{1b}")

# -- a page, and the kernel's side of it -------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, content = SERVED.get(self.path, ("", b""))
        self.send_response(200 if content else 404)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the base class)
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """Return one tab for all tests: opening another takes three times as long as loading a page."""
    return browser.new_page()


@pytest.fixture
def page(tab: Page, address: str) -> Iterator[Page]:
    errors: list[str] = []

    def note(error: Exception) -> None:
        errors.append(str(error))

    tab.on("pageerror", note)
    tab.set_viewport_size({"width": 1400, "height": 900})
    tab.mouse.move(0, 0)
    tab.clock.install(time=NOW - timedelta(hours=1))
    tab.goto(address)
    tab.wait_for_function("() => window.show")
    tab.clock.pause_at(NOW)
    yield tab
    tab.remove_listener("pageerror", note)
    assert errors == []


def session(number: int, instance: str = HERE, **values: Any) -> tuple[Any, ...]:
    usual = {
        "INSTANCE": instance,
        "ID": number,
        "USER": "ann",
        "HOST": "10.0.0.7:5000",
        "DB": "shop",
        "COMMAND": "Query",
        "TIME": 3,
        "STATE": "autocommit",
        "MEM": 0,
        "INFO": f"SELECT {number}",
        "TxnStart": "",
    }
    return tuple((usual | values).values())


def idle(number: int, **values: Any) -> tuple[Any, ...]:
    return session(number, **{"COMMAND": "Sleep", "INFO": None} | values)


def listed(*rows: tuple[Any, ...], **attributes: Any) -> ProcessList:
    """Return a list that was read now."""
    frame = to_frame(Result(SESSION, frozenset({"ID", "TIME", "MEM"}), tuple(zip(*rows, strict=True))))
    frame.matched = frame.limit = len(frame)
    for name, value in ({"taken_at": NOW, "complete": True} | attributes).items():
        setattr(frame, name, value)
    return frame


def numbered(count: int) -> ProcessList:
    return listed(*[session(number) for number in range(1, count + 1)])


@pytest.fixture(autouse=True)
def _long_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part is longer than what is drawn at once."""
    monkeypatch.setattr("tidb_magic.widget.payload.FIRST", 1_000)


class Shown:
    """A table in the page, and what the kernel would say to it."""

    def __init__(
        self,
        page: Page,
        frame: ProcessList,
        *,
        rights: Rights = ALL,
        live: float = 0.0,
        at: str = "one",
    ) -> None:
        self.page, self.at, self.rights = page, at, rights
        self.version, self.answered, self.wholes = 0, 0, 0
        self.sent = Sent()
        values = {"live": live, "trouble": ""} | self._state(frame)
        page.evaluate("([at, values]) => show(at, JSON.parse(values))", [at, json.dumps(values)])
        self.root = page.locator(f"#{at} .tidb-sessions")
        self.scroller = self.root.locator(".tidb-scroller")
        self.panel = self.root.locator(".tidb-panel")
        self.status = self.root.get_by_role("status")
        self.age = self.root.locator(".tidb-age")

    def _state(self, frame: ProcessList) -> dict[str, Any]:
        self.version += 1
        self.frame, self.answered = frame, 0
        return self.sent.state(partial(snapshot, frame, self.rights, self.version))

    # what the table said, and what is said to it

    def told(self, kind: str | None = None) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.page.evaluate("at => models[at].told", self.at)
        return [message for message in told if kind in (None, message["kind"])]

    def say(self, kind: str, **message: Any) -> None:
        text = json.dumps({"kind": kind, "version": self.version} | message)
        self.page.evaluate("([at, text]) => models[at].fire('msg:custom', JSON.parse(text))", [self.at, text])

    def give(self, name: str, value: Any) -> None:
        given = [self.at, name, json.dumps(value)]
        self.page.evaluate("([at, name, value]) => models[at].set(name, JSON.parse(value))", given)

    def refresh(self, frame: ProcessList) -> None:
        for name, value in self._state(frame).items():
            self.give(name, value)
        if self.told("whole")[self.wholes :]:
            self.wholes += 1
            self.sent = Sent()
            self.refresh(frame)

    def refresh_whole(self, frame: ProcessList) -> None:
        """Give a list whose rows come in parts, as one of which most is new."""
        self.sent = Sent()
        self.refresh(frame)

    def rest(self) -> None:
        """Send the parts that the table asks for, until it asks for no more."""
        while asked := [ask for ask in self.told("rows") if ask["version"] == self.version][self.answered :]:
            for ask in asked:
                self.answered += 1
                rows = self.frame.iloc[ask["from"] : ask["from"] + PART]
                sent = {"from": ask["from"], "part": part(rows, self.frame, self.rights)}
                self.say("rows", version=self.version, **sent)

    def confirmed(self, number: int) -> str:
        """Ask to kill a statement, answer the plan and confirm. Return the number of the question."""
        self.button(number, "Kill query").click()
        ask = self.planned()
        self.press("Confirm: kill query")
        return ask

    def planned(self, outcome: str = "planned", **message: Any) -> str:
        """Answer the last plan that was asked for. Return its number."""
        asked = self.told("plan")[-1]
        kind = "QUERY" if asked["query"] else "CONNECTION"
        rows = [
            {
                "id": number,
                "instance": instance,
                "outcome": outcome,
                "text": marked_outcome(outcome),
                "reason": "its statement ends, the session stays",
                "seconds": None,
                "statement": f"KILL TIDB {kind} {number}",
            }
            for instance, number in asked["sessions"]
        ]
        self.say("planned", **{"ask": asked["ask"], "age": 0.0, "rows": rows, "remarks": []} | message)
        return str(asked["ask"])

    def killed(self, outcome: str, reason: str = "", seconds: float | None = 0.012) -> None:
        """Say what became of the last kill."""
        asked = self.told("plan")[-1]
        rows = [
            {
                "id": number,
                "instance": instance,
                "outcome": outcome,
                "text": marked_outcome(outcome),
                "reason": reason,
                "seconds": seconds,
                "statement": f"KILL TIDB QUERY {number}",
            }
            for instance, number in asked["sessions"]
        ]
        self.say("killed", ask=asked["ask"], rows=rows, remarks=[])

    def late(self, number: int = 1) -> str:
        """Confirm a kill of a session, and ask back ten seconds later. Return the number of the kill."""
        self.button(number, "Kill query").click()
        ask = self.planned()
        self.press("Confirm: kill query")
        self.page.clock.run_for(10_000)
        self.say("asked", ask=ask)
        return ask

    # what is seen

    def row(self, number: int, instance: str = HERE) -> Locator:
        return self.root.locator(f'tr[data-key="{instance} {number}"]:not(.tidb-below)')

    def cell(self, number: int, name: str) -> Locator:
        return self.row(number).locator(f"td.tidb-{name}")

    def button(self, number: int, text: str, instance: str = HERE) -> Locator:
        return self.row(number, instance).locator("button.tidb-kill").get_by_text(text, exact=True)

    def outcome(self, number: int) -> Locator:
        return self.row(number).locator(".tidb-outcome")

    def all(self, text: str) -> Locator:
        """Return a button of the toolbar."""
        return self.root.get_by_role("toolbar").locator("button").filter(has_text=text)

    def press(self, text: str) -> None:
        self.panel.get_by_text(text, exact=True).click()

    def check(self, *numbers: int) -> None:
        for number in numbers:
            self.row(number).get_by_role("checkbox").check()

    def sort(self, name: str) -> Locator:
        """Press a column's head and return it."""
        head = self.root.locator(f"th.tidb-{name}")
        head.get_by_role("button").click()
        return head

    def ids(self) -> list[str]:
        return self.root.locator("tbody td.tidb-ID").all_text_contents()

    def scroll(self, pixels: int | None = None) -> float:
        """Scroll to there, or to the end. Return where that is."""
        to = "one.scrollHeight" if pixels is None else pixels
        at: float = self.scroller.evaluate(f"one => {{ one.scrollTop = {to}; return one.scrollTop; }}")
        return at


Table = Callable[..., Shown]
SESSIONS = strategies.builds(
    session,
    strategies.integers(1, 12),
    USER=strategies.sampled_from(["ann", "bob"]),
    TIME=strategies.integers(0, 2),
    INFO=strategies.sampled_from(["SELECT 1", "SELECT 2", None]),
)
LISTS = strategies.lists(SESSIONS, min_size=6, max_size=12, unique_by=lambda row: row[1])


@pytest.fixture
def table(page: Page) -> Table:
    return partial(Shown, page)


# -- what is shown -----------------------------------------------------------------------------------------------


def test_every_column_of_a_list_is_shown(table: Table) -> None:
    shown = table(listed(session(7, STATE="in transaction; autocommit")))
    expect(shown.root.locator("thead th")).to_have_text(
        ["", "ID", "INSTANCE", "USER", "HOST", "DB", "COMMAND", "TIME", "STATE", "MEM", "SQL", "ACTIONS"]
    )
    values = shown.row(7).locator("td").all_text_contents()[1:-1]
    state = "in transaction; autocommit"
    assert values == ["7", HERE, "ann", "10.0.0.7:5000", "shop", "Query", "3s", state, "0 B", "SELECT 7"]


def test_a_time_is_shown_in_hours_minutes_and_seconds(table: Table) -> None:
    times = {0: "0s", 59: "59s", 61: "1m 01s", 3_780: "1h 03m", 172_799: "47h 59m", 176_400: "2d 01h", None: ""}
    shown = table(listed(*[session(at, TIME=seconds) for at, seconds in enumerate(times)]))
    assert shown.root.locator("td.tidb-TIME").all_text_contents() == [*times.values()]


def test_memory_is_shown_in_binary_units(table: Table) -> None:
    sizes = {0: "0 B", 1_023: "1023 B", 1_536: "1.5 KiB", 1_288_490_189: "1.2 GiB", 2**52: "4.0 PiB", None: ""}
    shown = table(listed(*[session(at, MEM=size) for at, size in enumerate(sizes)]))
    assert shown.root.locator("td.tidb-MEM").all_text_contents() == [*sizes.values()]


def test_a_statement_of_many_lines_is_one_line_in_its_row(table: Table) -> None:
    shown = table(listed(session(1, INFO="SELECT 1,\n\t2\r\n  FROM t")))
    assert shown.cell(1, "INFO").text_content() == "SELECT 1, 2 FROM t"


def test_own_sessions_are_marked(table: Table) -> None:
    shown = table(listed(session(1), session(2), own=frozenset({(HERE, 2)})))
    assert shown.ids() == ["1", "2 (own)"]


def test_the_header_counts_sessions_by_instance_and_user_and_names_the_longest_running(table: Table) -> None:
    rows = [session(1), session(2, TIME=3_780), session(1, THERE, USER="bob")]
    shown = table(listed(*rows))
    header = shown.root.locator(".tidb-header")
    assert header.get_by_label("Sessions by instance").locator("li").all_text_contents() == [f"{HERE}2", f"{THERE}1"]
    assert header.get_by_label("Sessions by user").locator("li").all_text_contents() == ["ann2", "bob1"]
    expect(header.locator(".tidb-facts")).to_contain_text("longest running1h 03m")


def test_the_header_names_the_cluster(table: Table) -> None:
    shown = table(listed(session(1), origin=Origin("db.example.com:4000")))
    expect(shown.root.locator(".tidb-facts")).to_contain_text("clusterdb.example.com:4000")


def test_how_many_wait_for_locks_is_shown_when_the_kernel_knows_it(table: Table) -> None:
    shown = table(listed(session(1)))
    expect(shown.root.locator(".tidb-facts")).not_to_contain_text("waiting")
    shown.give("waiting", 0)
    expect(shown.root.locator(".tidb-facts")).to_contain_text("transactions waiting for locks0")


def test_instances_that_do_not_answer_are_named_above_and_below(table: Table) -> None:
    shown = table(listed(session(1), complete=False, missing=(THERE,)))
    expect(shown.root.locator(".tidb-header")).to_contain_text(f"⚠ no answer from {THERE}")
    expect(shown.root.locator(".tidb-footer")).to_contain_text(f"NOT COMPLETE: no answer from {THERE}.")


def test_the_footer_is_the_footer_of_the_text_form(table: Table) -> None:
    frame = listed(session(1), hidden=5)
    shown = table(frame)
    assert shown.root.locator(".tidb-footer > div").all_text_contents() == frame.footer()
    expect(shown.root.locator(".tidb-footer")).to_contain_text("5 idle sessions hidden")


def test_an_old_list_says_how_old_it_is(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    expect(shown.age).to_have_text("")
    page.clock.run_for(125_000)
    expect(shown.age).to_have_text("2m 05s old")


def test_a_list_of_unknown_age_is_not_called_old(page: Page, table: Table) -> None:
    shown = table(listed(session(1), taken_at=None))
    page.clock.run_for(2_000)
    expect(shown.age).to_have_text("")


def test_trouble_with_the_cluster_is_said(table: Table) -> None:
    shown = table(listed(session(1)), live=2.0)
    expect(shown.root.get_by_role("checkbox", name="live")).to_be_checked()
    shown.give("trouble", "no answer within 3 s")
    expect(shown.age).to_have_text("⚠ no answer within 3 s")
    shown.give("trouble", "")
    expect(shown.age).to_have_text("")


def test_a_live_table_that_slowed_down_says_so(table: Table) -> None:
    shown = table(listed(session(1)), live=2.0)
    label = shown.root.locator(".tidb-live")
    shown.give("pace", 6.3)
    expect(label).to_have_text("live, every 2 s (slowed down to 6.3 s: the cluster responds slowly)")
    shown.give("pace", 2.0)
    expect(label).to_have_text("live, every 2 s")


def test_an_empty_list_is_a_table_without_rows(table: Table) -> None:
    shown = table(numbered(2).iloc[:0])
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "1")
    assert shown.ids() == []


# -- ids ---------------------------------------------------------------------------------------------------------


def test_an_id_above_2_to_the_53_is_shown_and_sent_back_as_the_same_text(table: Table) -> None:
    shown = table(listed(session(TWINS[1])))
    expect(shown.cell(TWINS[1], "ID")).to_have_text(str(TWINS[1]))
    shown.button(TWINS[1], "Kill query").click()
    assert shown.told("plan")[0]["sessions"] == [[HERE, str(TWINS[1])]]


@pytest.mark.parametrize("number", TWINS)
def test_two_ids_that_are_one_float64_are_two_rows_and_the_right_one_is_named(table: Table, number: int) -> None:
    assert float(TWINS[0]) == float(TWINS[1])
    shown = table(listed(*map(session, TWINS)))
    assert shown.ids() == [str(twin) for twin in TWINS]
    shown.button(number, "Kill connection").click()
    assert shown.told("plan")[0]["sessions"] == [[HERE, str(number)]]
    expect(shown.panel).to_contain_text(f"Connection {number}")


def test_one_id_on_two_instances_is_two_sessions(table: Table) -> None:
    shown = table(listed(session(5), session(5, THERE)))
    shown.button(5, "Kill query", THERE).click()
    assert shown.told("plan")[0]["sessions"] == [[THERE, "5"]]
    expect(shown.panel).to_contain_text(f"on {THERE}")
    expect(shown.button(5, "Kill query", HERE)).to_be_enabled()


# -- sort, filter, columns ---------------------------------------------------------------------------------------


def test_a_click_on_a_head_sorts_and_a_second_one_turns_round(table: Table) -> None:
    shown = table(listed(session(1, USER="bob"), session(2, USER="ann"), session(3, USER="cid")))
    head = shown.sort("USER")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert shown.ids() == ["2", "1", "3"]
    shown.sort("USER")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert shown.ids() == ["3", "1", "2"]
    expect(shown.root.locator("th.tidb-ID")).to_have_attribute("aria-sort", "none")


def test_times_are_sorted_from_the_longest_and_as_numbers(table: Table) -> None:
    shown = table(listed(session(1, TIME=9), session(2, TIME=100), session(3, TIME=20)))
    expect(shown.sort("TIME")).to_have_attribute("aria-sort", "descending")
    assert shown.ids() == ["2", "3", "1"]


def test_ids_are_sorted_as_numbers_to_the_last_digit(table: Table) -> None:
    shown = table(listed(*map(session, (TWINS[1], 10, 9, TWINS[0]))))
    shown.sort("ID")
    assert shown.ids() == ["9", "10", *map(str, TWINS)]


@pytest.mark.parametrize("name", ["TIME", "DB"])
def test_missing_values_come_last_in_both_directions(table: Table, name: str) -> None:
    values: tuple[Any, ...] = (None, 5, 2) if name == "TIME" else (None, "b", "a")
    shown = table(listed(*[session(number, **{name: value}) for number, value in enumerate(values)]))
    for _ in range(2):
        shown.sort(name)
        assert shown.ids()[-1] == "0"


def test_the_filter_leaves_the_rows_that_contain_its_text_anywhere(table: Table) -> None:
    shown = table(listed(session(1), session(2, USER="Batch"), session(3, INFO="SELECT * FROM batches")))
    shown.root.get_by_role("searchbox").fill("bATCh")
    assert shown.ids() == ["2", "3"]
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "3")
    shown.root.get_by_role("searchbox").fill("")
    assert shown.ids() == ["1", "2", "3"]


def test_the_column_chooser_hides_and_shows_a_column(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.root.get_by_text("Columns").click()
    shown.root.get_by_label("HOST", exact=True).uncheck()
    expect(shown.root.locator(".tidb-HOST")).to_have_count(0)
    expect(shown.root.get_by_text("Columns (1 hidden)")).to_be_visible()
    shown.root.get_by_label("HOST", exact=True).check()
    expect(shown.cell(1, "HOST")).to_have_text("10.0.0.7:5000")


def test_a_column_that_was_hidden_stays_hidden_through_a_refresh(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.root.get_by_text("Columns").click()
    shown.root.get_by_label("HOST", exact=True).uncheck()
    shown.root.get_by_role("searchbox").focus()
    shown.refresh(listed(session(1), session(2)))
    assert shown.ids() == ["1", "2 (new)"]
    expect(shown.root.locator(".tidb-HOST")).to_have_count(0)


# -- long lists --------------------------------------------------------------------------------------------------


def test_of_ten_thousand_rows_only_those_in_view_are_in_the_page(table: Table) -> None:
    shown = table(numbered(10_000))
    shown.rest()
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "10001")
    assert shown.root.locator("tr").count() < 120
    shown.scroll()
    expect(shown.row(10_000)).to_be_in_viewport()
    expect(shown.row(10_000)).to_have_attribute("aria-rowindex", "10001")
    expect(shown.row(1)).to_have_count(0)
    assert shown.root.locator("tr").count() < 120


@pytest.mark.parametrize("pixels", [1, 13_999, 27_000])
def test_wherever_a_long_list_is_scrolled_to_rows_fill_the_view(page: Page, table: Table, pixels: int) -> None:
    shown = table(numbered(1_000))
    shown.scroll(pixels)
    expect(shown.row(pixels // 28 + 8)).to_be_in_viewport()
    box = shown.scroller.bounding_box()
    assert box
    for y in (30, box["height"] / 2, box["height"] - 30):
        found = "([x, y]) => Boolean(document.elementFromPoint(x, y).closest('tr[data-key], thead'))"
        assert page.evaluate(found, [box["x"] + 60, box["y"] + y])


def test_a_filter_shows_its_rows_at_once_wherever_the_list_was_scrolled_to(table: Table) -> None:
    shown = table(numbered(1_000))
    shown.scroll()
    expect(shown.row(1_000)).to_be_in_viewport()
    shown.root.get_by_role("searchbox").fill("SELECT 999")
    assert shown.ids() == ["999"]


def test_a_row_is_as_high_as_scrolling_counts_with(table: Table) -> None:
    shown = table(listed(session(1), idle(2), session(3)))
    boxes = [shown.row(number).bounding_box() for number in (1, 2, 3)]
    assert [box and box["height"] for box in boxes] == [28, 28, 28]


def test_rows_that_come_in_parts_are_asked_for_and_counted(table: Table) -> None:
    shown = table(numbered(7_000))
    assert shown.told("rows") == [{"kind": "rows", "version": 1, "from": 1_000}]
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "1001")
    expect(shown.root.locator(".tidb-footer")).to_contain_text("6,000 rows more on the way …")
    shown.rest()
    assert [ask["from"] for ask in shown.told("rows")] == [1_000, 6_000]
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "7001")


def test_the_footer_says_nothing_of_rows_on_the_way_once_all_are_there(page: Page, table: Table) -> None:
    shown = table(numbered(1_200))
    shown.rest()
    page.clock.run_for(1_000)
    expect(shown.root.locator(".tidb-footer")).not_to_contain_text("on the way")


def test_a_row_that_was_not_read_again_yet_cannot_be_killed(table: Table) -> None:
    """The kernel would take it for what it is in the new list, which nobody has seen."""
    shown = table(numbered(1_100))
    shown.rest()
    shown.scroll()
    expect(shown.button(1_100, "Kill query")).to_be_enabled()
    shown.refresh_whole(numbered(1_100))
    shown.button(1_100, "Kill query").click()
    assert shown.told("plan") == []
    shown.rest()
    shown.button(1_100, "Kill query").click()
    assert len(shown.told("plan")) == 1


def test_a_part_of_an_older_list_is_left_out(table: Table) -> None:
    shown = table(numbered(1_200))
    shown.refresh(numbered(1_200))
    rows = part(shown.frame.iloc[1_000:], shown.frame, ALL)
    shown.say("rows", version=1, part=rows)
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "1001")
    shown.rest()
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "1201")


def test_parts_that_come_later_take_their_place_in_the_order(table: Table) -> None:
    shown = table(listed(*[session(number, TIME=number) for number in range(1, 1_201)]))
    shown.sort("TIME")
    assert shown.ids()[0] == "1000"
    shown.rest()
    assert shown.ids()[0] == "1200"


# -- hostile text ------------------------------------------------------------------------------------------------


def assert_harmless(page: Page) -> None:
    assert page.evaluate("() => window.hacked === undefined")
    assert page.locator("img, iframe, object, body script:not([type=module])").count() == 0
    assert page.locator("script").count() == 1


def test_hostile_text_of_a_server_is_shown_as_it_is_and_does_nothing(page: Page, table: Table) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    names = ("USER", "HOST", "DB", "STATE", "INFO")
    frame = listed(session(1, HOSTILE, **dict.fromkeys(names, HOSTILE)), missing=(HOSTILE,), complete=False)
    shown = table(frame)
    row = shown.root.locator("tbody tr[data-key]").first
    for name in ("INSTANCE", *names):
        assert row.locator(f"td.tidb-{name}").text_content() == SEEN
    expect(shown.root.locator(".tidb-header")).to_contain_text(f"⚠ no answer from {SEEN}")
    expect(shown.root.locator(".tidb-footer")).to_contain_text(f"no answer from {SEEN}")
    row.locator("button.tidb-sql").click()
    assert shown.root.locator("pre").text_content() == SEEN
    row.get_by_text("Kill query", exact=True).click()
    assert shown.told("plan")[0]["sessions"] == [[HOSTILE, "1"]]
    shown.planned(remarks=[HOSTILE], error=HOSTILE)
    expect(shown.panel).to_contain_text(f"{SEEN} from {SEEN} on {SEEN}")
    shown.killed("refused", reason=HOSTILE)
    expect(shown.status).to_contain_text(SEEN)
    shown.give("trouble", HOSTILE)
    expect(shown.age).to_have_text(f"⚠ {SEEN}")
    assert_harmless(page)
    assert asked == []


def test_no_control_or_direction_mark_of_a_server_is_in_the_page_or_its_attributes(page: Page, table: Table) -> None:
    acting = "".join(map(chr, (*range(32), 127, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
    shown = table(listed(session(1, **dict.fromkeys(("USER", "HOST", "DB", "STATE", "INFO"), f"a{acting}b"))))
    shown.cell(1, "INFO").get_by_role("button").click()
    shown.button(1, "Kill query").click()
    shown.planned(remarks=[acting])
    html = page.evaluate("() => document.querySelector('.tidb-sessions').outerHTML")
    assert {character for character in acting if character in html} <= {"\n", "\t"}


# -- a statement -------------------------------------------------------------------------------------------------


def test_an_opened_statement_has_its_exact_lines(table: Table) -> None:
    text = "SELECT 1,\n\n\t2 -- two  spaces\n  FROM t\n"
    shown = table(listed(session(1, INFO=text)))
    opens = shown.cell(1, "INFO").get_by_role("button")
    expect(opens).to_have_attribute("aria-expanded", "false")
    opens.click()
    expect(opens).to_have_attribute("aria-expanded", "true")
    assert shown.root.locator("pre").text_content() == text
    assert shown.told("text") == []
    opens.click()
    expect(shown.root.locator("pre")).to_have_count(0)


def test_the_rest_of_a_cut_statement_is_asked_of_the_kernel(table: Table) -> None:
    text = "SELECT " + ", ".join(f"{number}\n" for number in range(1_000))
    shown = table(listed(session(TWINS[0], INFO=text)))
    shown.cell(TWINS[0], "INFO").get_by_role("button").click()
    assert shown.told("text") == [{"kind": "text", "version": 1, "instance": HERE, "id": str(TWINS[0])}]
    expect(shown.root.locator(".tidb-note")).to_have_text("Waiting for the rest of it …")
    shown.say("text", instance=HERE, id=str(TWINS[0]), text=text)
    assert shown.root.locator("pre").text_content() == text
    expect(shown.root.locator(".tidb-note")).to_have_text("")


def test_a_cut_statement_of_emoji_is_seen_to_be_cut(table: Table) -> None:
    """They count two in JavaScript and one in Python."""
    shown = table(listed(session(1, INFO="😀" * 300 + "a" * (TEXT_SENT - 250))))
    shown.cell(1, "INFO").get_by_role("button").click()
    assert shown.told("text") == [{"kind": "text", "version": 1, "instance": HERE, "id": "1"}]


def test_a_statement_can_be_copied_exactly(page: Page, table: Table) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = f"SELECT '{HOSTILE[:-5]}',\n\t2"
    shown = table(listed(session(1, INFO=text)))
    shown.cell(1, "INFO").get_by_role("button").click()
    shown.root.get_by_role("button", name="Copy").click()
    expect(shown.root.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == text


def test_an_open_statement_follows_its_session_to_the_next_statement(table: Table) -> None:
    shown = table(listed(session(1, INFO="SELECT 'before'"), session(2)))
    shown.cell(1, "INFO").get_by_role("button").click()
    shown.refresh(listed(session(2), session(1, INFO="SELECT 'after'")))
    expect(shown.root.locator("pre")).to_have_text("SELECT 'after'")


def test_a_whole_statement_is_not_shown_for_the_next_one_that_only_begins_like_it(table: Table) -> None:
    start = "INSERT INTO t VALUES " + "(1), " * 100
    shown = table(listed(session(1, INFO=start + "(2)")))
    shown.cell(1, "INFO").get_by_role("button").click()
    shown.say("text", instance=HERE, id="1", text=start + "(2)")
    shown.refresh(listed(session(1, INFO=start + "(2), (3)")))
    assert [ask["version"] for ask in shown.told("text")] == [1, 2]
    expect(shown.root.locator("pre")).not_to_have_text(start + "(2)")


# -- a kill ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "query"), [("Kill query", True), ("Kill connection", False)])
def test_a_click_asks_for_a_plan_and_nothing_else(table: Table, text: str, query: bool) -> None:
    shown = table(listed(session(1), session(2)))
    before = len(shown.told())
    shown.button(2, text).click()
    (plan,) = shown.told()[before:]
    assert plan.pop("ask")
    assert plan == {"kind": "plan", "version": 1, "sessions": [[HERE, "2"]], "query": query}


def test_the_panel_says_who_from_where_on_which_instance_running_what_since_when(table: Table) -> None:
    shown = table(listed(session(9, TIME=3_780, INFO="UPDATE t\nSET v = 1")))
    shown.button(9, "Kill query").click()
    expect(shown.panel).to_contain_text("Connection 9")
    expect(shown.panel).to_contain_text(f"ann from 10.0.0.7:5000 on {HERE}")
    expect(shown.panel).to_contain_text("runs for 1h 03m: UPDATE t SET v = 1")


def test_the_panel_of_an_idle_session_says_since_when_it_is_idle(table: Table) -> None:
    shown = table(listed(idle(9, TIME=61)))
    shown.button(9, "Kill connection").click()
    expect(shown.panel).to_contain_text("idle for 1m 01s")


def test_confirm_is_there_only_after_the_look_and_beside_what_will_happen(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    expect(shown.panel).to_contain_text("Looking …")
    assert shown.panel.get_by_role("button").all_text_contents() == ["Cancel"]
    shown.planned(remarks=["One statement is a DDL."])
    assert shown.panel.get_by_role("button").all_text_contents() == ["Confirm: kill query", "Cancel"]
    expect(shown.panel).to_contain_text("What will happen: its statement ends, the session stays")
    expect(shown.panel).to_contain_text("One statement is a DDL.")
    expect(shown.panel.locator("code")).to_have_text("KILL TIDB QUERY 1")


@pytest.mark.parametrize("outcome", ["refused", "changed", "already gone", "unreachable"])
def test_a_plan_that_is_against_it_has_no_confirm(table: Table, outcome: str) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    shown.planned(outcome)
    expect(shown.panel).to_contain_text(f"✗ {outcome}: its statement ends")
    assert shown.panel.get_by_role("button").all_text_contents() == ["Close"]
    shown.press("Close")
    expect(shown.panel).to_have_count(0)
    assert shown.told("kill") == shown.told("yes") == []


def test_a_plan_that_failed_says_why_and_has_no_confirm(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    shown.say("planned", ask=shown.told("plan")[0]["ask"], age=0.0, error="No answer within 3 s.")
    expect(shown.panel).to_contain_text("✗ No answer within 3 s. Nothing was sent.")
    assert shown.panel.get_by_role("button").all_text_contents() == ["Close"]


def test_a_plan_for_an_old_list_says_how_old_it_is(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    shown.planned(age=120.0)
    expect(shown.panel).to_contain_text("⚠ This list is 2m 00s old")


@pytest.mark.parametrize("when", ["looking", "planned"])
@pytest.mark.parametrize("how", ["Cancel", "Escape"])
def test_cancel_and_escape_say_no_and_never_kill(page: Page, table: Table, how: str, when: str) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    if when == "planned":
        shown.planned()
    if how == "Cancel":
        shown.press("Cancel")
    else:
        page.keyboard.press("Escape")
    expect(shown.panel).to_have_count(0)
    assert shown.told("no") == [{"kind": "no", "ask": shown.told("plan")[0]["ask"]}]
    assert shown.told("kill") == shown.told("yes") == []
    expect(shown.button(1, "Kill query")).to_be_enabled()


def test_a_plan_that_comes_after_cancel_opens_nothing(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    shown.press("Cancel")
    shown.planned()
    expect(shown.panel).to_have_count(0)


def test_confirm_asks_to_kill_and_a_question_soon_after_is_answered_by_itself(table: Table) -> None:
    shown = table(listed(session(1)))
    ask = shown.confirmed(1)
    assert shown.told("kill") == [{"kind": "kill", "ask": ask}]
    assert shown.told("yes") == []
    shown.say("asked", ask=ask)
    assert [said["ask"] for said in shown.told("yes")] == [ask]
    shown.say("sending", ask=ask)
    expect(shown.panel).to_contain_text("KILL was sent; waiting for its effect …")
    assert shown.panel.get_by_role("button").count() == 0


def answered(shown: Shown) -> str:
    """Confirm a kill of session 1, and let the question be answered. Return the number of the kill."""
    ask = shown.confirmed(1)
    shown.say("asked", ask=ask)
    assert len(shown.told("yes")) == 1
    return ask


def test_what_was_sent_cannot_be_taken_back_and_nothing_pretends_it(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.say("sending", ask=answered(shown))
    page.keyboard.press("Escape")
    expect(shown.panel).to_be_visible()
    assert shown.told("no") == []


def test_the_outcome_of_what_was_taken_back_too_late_is_shown(page: Page, table: Table) -> None:
    """The answer and its withdrawal pass what the kernel says on the way."""
    shown = table(listed(session(1)))
    ask = answered(shown)
    page.keyboard.press("Escape")
    shown.say("sending", ask=ask)
    shown.killed("killed")
    expect(shown.outcome(1)).to_have_text("✓ killed")


def test_a_question_without_confirm_is_never_answered_with_yes(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    ask = shown.planned()
    shown.say("asked", ask=ask)
    assert shown.told("yes") == []


def test_a_question_after_what_was_sent_is_not_answered(table: Table) -> None:
    shown = table(listed(session(1)))
    ask = answered(shown)
    shown.say("sending", ask=ask)
    shown.say("asked", ask=ask)
    assert len(shown.told("yes")) == 1


def test_a_second_question_that_comes_late_is_put_to_the_person(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    ask = answered(shown)
    page.clock.run_for(10_000)
    shown.say("asked", ask=ask)
    assert len(shown.told("yes")) == 1
    expect(shown.panel).to_contain_text("Still kill?")


def test_the_session_of_an_open_kill_cannot_be_asked_for_again(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    expect(shown.button(1, "Kill connection")).to_be_disabled()
    expect(shown.button(1, "Kill connection")).to_have_attribute(
        "title", "A kill of this session is already requested."
    )


# -- a busy kernel -----------------------------------------------------------------------------------------------


def test_a_click_while_a_cell_runs_says_that_it_waits_and_can_be_taken_back(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    page.clock.run_for(500)
    expect(shown.panel).to_contain_text("The kernel is busy: this is queued until the cell ends. Nothing was sent.")
    shown.press("Take it back")
    assert len(shown.told("no")) == 1
    expect(shown.outcome(1)).to_have_text("○ taken back")
    expect(shown.status).to_have_text("○ taken back Nothing was sent.")


def test_a_confirmed_kill_can_be_taken_back_while_it_waits(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    ask = shown.confirmed(1)
    page.clock.run_for(20_000)
    expect(shown.panel).to_contain_text("Nothing was sent yet.")
    shown.press("Take it back")
    assert shown.told("no") == [{"kind": "no", "ask": ask}]
    shown.say("asked", ask=ask)
    assert shown.told("yes") == []
    expect(shown.outcome(1)).to_have_text("○ taken back")


def test_a_question_that_comes_late_is_put_to_the_person(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    ask = shown.late()
    assert shown.told("yes") == []
    expect(shown.panel).to_contain_text("You confirmed 10s ago and the kernel was busy until now. Still kill?")
    expect(shown.panel).to_contain_text("5 s left")
    page.clock.run_for(2_000)
    expect(shown.panel).to_contain_text("3 s left")
    shown.press("Yes, kill now")
    assert [said["ask"] for said in shown.told("yes")] == [ask]
    page.clock.run_for(10_000)
    assert shown.told("no") == []


def test_a_question_that_nobody_answers_within_five_seconds_means_no(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    ask = shown.late()
    page.clock.run_for(4_000)
    assert shown.told("no") == []
    page.clock.run_for(2_000)
    assert shown.told("no") == [{"kind": "no", "ask": ask}]
    expect(shown.panel).to_have_count(0)
    expect(shown.outcome(1)).to_have_text("○ not sent")
    expect(shown.status).to_contain_text("there was no answer within 5 s")
    page.clock.run_for(60_000)
    assert shown.told("yes") == []


@pytest.mark.parametrize("how", ["No", "Escape"])
def test_a_question_can_be_answered_with_no(page: Page, table: Table, how: str) -> None:
    shown = table(listed(session(1)))
    ask = shown.late()
    if how == "No":
        shown.press("No")
    else:
        page.keyboard.press("Escape")
    page.clock.run_for(10_000)
    assert shown.told("no") == [{"kind": "no", "ask": ask}]
    assert shown.told("yes") == []
    expect(shown.outcome(1)).to_have_text("○ taken back")


def test_enter_kept_pressed_at_confirm_does_not_answer_a_late_question(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    ask = shown.planned()
    shown.panel.get_by_text("Confirm: kill query", exact=True).focus()
    page.keyboard.press("Enter")
    page.clock.run_for(10_000)
    shown.say("asked", ask=ask)
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert shown.told("yes") == []


def test_a_click_on_yes_counts_also_when_a_second_passes_between_press_and_release(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.late()
    shown.panel.get_by_text("Yes, kill now", exact=True).hover()
    page.mouse.down()
    page.clock.run_for(1_000)
    page.mouse.up()
    assert len(shown.told("yes")) == 1


def test_a_kernel_that_does_not_answer_is_said_not_to(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    page.clock.run_for(7_000)
    expect(shown.age).to_contain_text("The kernel is not responding")
    shown.planned()
    page.clock.run_for(1_000)
    expect(shown.age).to_have_text("")


def test_a_kernel_is_not_called_silent_because_it_has_nothing_to_say_to_a_no(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    shown.planned()
    shown.press("Cancel")
    page.clock.run_for(20_000)
    expect(shown.age).to_have_text("")


def test_a_kernel_that_has_read_the_list_again_is_not_called_silent(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.root.get_by_role("button", name="Refresh").click()
    shown.refresh(listed(session(1)))
    page.clock.run_for(20_000)
    expect(shown.age).to_have_text("")


def test_a_kernel_that_has_switched_to_live_is_not_called_silent(page: Page, table: Table) -> None:
    shown = table(listed(session(1)), live=2.0)
    shown.root.get_by_role("checkbox", name="live").uncheck()
    assert shown.told("live") == [{"kind": "live", "on": False}]
    shown.give("live", 0.0)
    page.clock.run_for(20_000)
    expect(shown.age).to_have_text("")


# -- what became of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        ("killed", "✓ killed"),
        ("interrupted", "✓ interrupted"),
        ("already gone", "✓ already gone"),
        ("refused", "✗ refused"),
        ("changed", "✗ changed"),
        ("failed", "✗ failed"),
        ("unreachable", "✗ unreachable"),
        ("unconfirmed", "? unconfirmed"),
        ("still running", "… still running"),
    ],
)
def test_an_outcome_is_a_symbol_and_a_word_in_its_row_and_a_sentence(table: Table, outcome: str, text: str) -> None:
    shown = table(listed(session(1), session(2)))
    ask = shown.confirmed(2)
    shown.say("asked", ask=ask)
    shown.say("sending", ask=ask)
    shown.killed(outcome, reason="because of it")
    expect(shown.outcome(2)).to_have_text(text)
    expect(shown.outcome(2)).to_have_attribute("title", f"{outcome} in 0.012 s: because of it")
    expect(shown.outcome(1)).to_have_text("")
    expect(shown.status).to_have_text(f"2: {outcome} in 0.012 s, because of it.")
    expect(shown.panel).to_have_count(0)


def test_an_error_of_a_kill_is_in_its_row_and_in_the_status(table: Table) -> None:
    shown = table(listed(session(1)))
    ask = shown.confirmed(1)
    shown.say("killed", ask=ask, error="This was cancelled. Nothing was sent.")
    expect(shown.outcome(1)).to_have_text("? unknown")
    expect(shown.status).to_have_text("This was cancelled. Nothing was sent.")


def test_another_reason_for_the_same_outcome_is_the_title_of_the_second(table: Table) -> None:
    shown = table(listed(session(1)))
    for reason in ("first", "second"):
        shown.button(1, "Kill query").click()
        shown.killed("refused", reason=reason, seconds=None)
    expect(shown.outcome(1)).to_have_attribute("title", "refused: second")


def test_the_next_statement_of_an_interrupted_session_can_be_killed(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    shown.planned()
    shown.killed("interrupted")
    expect(shown.outcome(1)).to_have_text("✓ interrupted")
    shown.refresh(listed(session(1, INFO="SELECT 'the next one'", TIME=0)))
    expect(shown.button(1, "Kill query")).to_be_visible()
    expect(shown.button(1, "Kill query")).to_be_enabled()


def test_focus_stays_in_the_table_when_the_outcome_comes(page: Page, table: Table) -> None:
    """Else the next key is a shortcut of the notebook."""
    shown = table(listed(session(1), session(2)))
    ask = shown.confirmed(1)
    shown.say("asked", ask=ask)
    shown.say("sending", ask=ask)
    shown.killed("interrupted")
    expect(shown.outcome(1)).to_have_text("✓ interrupted")
    assert focus_is_inside(page)


def test_focus_goes_back_to_the_button_after_cancel(table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.button(2, "Kill query").click()
    shown.planned()
    shown.press("Cancel")
    expect(shown.button(2, "Kill query")).to_be_focused()


# -- buttons that make no sense ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Kill query", "Kill connection"])
def test_the_buttons_of_an_own_connection_say_that_it_is_one(table: Table, text: str) -> None:
    shown = table(listed(session(1), own=frozenset({(HERE, 1)})))
    expect(shown.button(1, text)).to_be_disabled()
    expect(shown.button(1, text)).to_have_attribute("title", "It is a connection of tidb_magic itself.")


def test_a_session_that_runs_nothing_has_no_query_to_kill(table: Table) -> None:
    shown = table(listed(idle(1)))
    expect(shown.button(1, "Kill query")).to_be_disabled()
    expect(shown.button(1, "Kill query")).to_have_attribute("title", "It runs no statement.")
    expect(shown.button(1, "Kill connection")).to_be_enabled()


def test_without_the_right_only_own_sessions_have_buttons(table: Table) -> None:
    shown = table(listed(session(1, USER="joe"), session(2)), rights=Rights("joe", others=False))
    expect(shown.button(1, "Kill query")).to_be_enabled()
    for text in ("Kill query", "Kill connection"):
        expect(shown.button(2, text)).to_be_disabled()
        reason = "It is another user's session: killing it requires CONNECTION_ADMIN or SUPER."
        expect(shown.button(2, text)).to_have_attribute("title", reason)


def test_the_buttons_of_the_toolbar_say_why_they_are_off(table: Table) -> None:
    shown = table(listed(session(1), idle(2)))
    expect(shown.all("Kill query")).to_be_disabled()
    expect(shown.all("Kill query")).to_have_attribute("title", "Select rows first.")
    shown.check(2)
    expect(shown.all("Kill query")).to_have_attribute("title", "None of the selected sessions can be killed this way.")
    expect(shown.all("Kill connection")).to_be_enabled()


# -- many at once ------------------------------------------------------------------------------------------------


def test_the_selected_sessions_are_killed_together(table: Table) -> None:
    shown = table(listed(*map(session, (*TWINS, 3)), session(3, THERE)))
    shown.check(TWINS[1], 3)
    expect(shown.all("Kill connection")).to_have_text("Kill connection (2)")
    shown.all("Kill connection").click()
    assert shown.told("plan")[0]["sessions"] == [[HERE, str(TWINS[1])], [HERE, "3"]]
    for number in (TWINS[1], 3):
        expect(shown.panel).to_contain_text(f"Connection {number}")
    expect(shown.panel).not_to_contain_text(str(TWINS[0]))
    ask = shown.planned()
    shown.press("Confirm: kill connection (2)")
    shown.say("asked", ask=ask)
    assert [said["ask"] for said in shown.told("yes")] == [ask]
    shown.killed("killed")
    for number in (TWINS[1], 3):
        expect(shown.outcome(number)).to_have_text("✓ killed")
    expect(shown.outcome(TWINS[0])).to_have_text("")


def test_select_all_selects_what_is_shown_and_nothing_that_is_filtered_out(table: Table) -> None:
    shown = table(listed(session(1, USER="bob"), session(2), session(3, USER="bob")))
    shown.root.get_by_role("searchbox").fill("bob")
    shown.root.get_by_role("checkbox", name="Select all rows that are shown").check()
    expect(shown.all("Kill query")).to_have_text("Kill query (2)")
    shown.root.get_by_role("searchbox").fill("")
    expect(shown.row(2).get_by_role("checkbox")).not_to_be_checked()
    expect(shown.row(3).get_by_role("checkbox")).to_be_checked()


def test_a_selected_session_that_is_filtered_out_is_not_killed(table: Table) -> None:
    shown = table(listed(session(1), session(2, USER="bob"), session(3, USER="bob")))
    shown.check(1, 2, 3)
    shown.root.get_by_role("searchbox").fill("bob")
    shown.all("Kill query").click()
    assert shown.told("plan")[0]["sessions"] == [[HERE, "2"], [HERE, "3"]]


def test_of_a_long_selection_the_panel_says_how_many_more_there_are(table: Table) -> None:
    shown = table(numbered(25))
    shown.root.get_by_role("checkbox", name="Select all rows that are shown").check()
    shown.all("Kill query").click()
    expect(shown.panel.locator(".tidb-victim")).to_have_count(20)
    expect(shown.panel).to_contain_text("and 5 sessions more")
    assert len(shown.told("plan")[0]["sessions"]) == 25


def test_the_panel_of_one_selected_row_that_is_out_of_view_is_seen(table: Table) -> None:
    shown = table(numbered(200))
    shown.check(1)
    shown.scroll()
    expect(shown.row(200)).to_be_in_viewport()
    shown.all("Kill query").click()
    expect(shown.panel).to_be_in_viewport()


def test_focus_stays_in_the_table_when_the_kill_of_a_selection_is_cancelled(page: Page, table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.check(1, 2)
    shown.all("Kill query").click()
    shown.planned()
    shown.press("Cancel")
    expect(shown.panel).to_have_count(0)
    assert focus_is_inside(page)


# -- refresh -----------------------------------------------------------------------------------------------------


def test_refresh_asks_the_kernel_and_says_so(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.root.get_by_role("button", name="Refresh").click()
    assert shown.told("refresh") == [{"kind": "refresh"}]
    expect(shown.age).to_have_text("reading …")
    shown.refresh(listed(session(1)))
    expect(shown.age).to_have_text("")


def test_a_refresh_keeps_selection_sort_and_filter(table: Table) -> None:
    shown = table(listed(session(1, TIME=1), session(2, TIME=2), session(3, TIME=3)))
    shown.check(2)
    shown.sort("TIME")
    shown.root.get_by_role("searchbox").fill("select")
    shown.refresh(listed(session(4, TIME=4), session(2, TIME=2), session(5, INFO="UPDATE t"), session(1, TIME=9)))
    assert shown.ids() == ["1", "4 (new)", "3 (not listed)", "2"]
    expect(shown.root.locator("th.tidb-TIME")).to_have_attribute("aria-sort", "descending")
    expect(shown.root.locator("tbody input:checked")).to_have_count(1)
    expect(shown.row(2).get_by_role("checkbox")).to_be_checked()


def test_a_refresh_keeps_the_scroll_position_and_the_focus(table: Table) -> None:
    shown = table(numbered(300))
    at = shown.scroll(4_000)
    shown.button(150, "Kill query").focus()
    rows = [session(number) for number in (*range(149, 301), *range(1, 149), 301)]
    shown.refresh(listed(*rows[-151:], *rows[:-151]))
    expect(shown.button(150, "Kill query")).to_be_focused()
    assert shown.scroller.evaluate("one => one.scrollTop") == at


def test_a_refresh_of_a_list_in_parts_keeps_the_scroll_position(table: Table) -> None:
    shown = table(numbered(3_000))
    shown.rest()
    at = shown.scroll()
    expect(shown.row(3_000)).to_be_in_viewport()
    shown.refresh_whole(numbered(3_000))
    shown.rest()
    assert shown.scroller.evaluate("one => one.scrollTop") == at
    expect(shown.row(3_000)).to_be_in_viewport()


def test_a_refresh_of_a_list_in_parts_keeps_focus_selection_and_open_statement(table: Table) -> None:
    shown = table(numbered(3_000))
    shown.rest()
    shown.scroll()
    shown.check(2_990)
    shown.cell(2_995, "INFO").get_by_role("button").click()
    shown.button(2_991, "Kill query").focus()
    shown.refresh_whole(numbered(3_000))
    shown.rest()
    shown.scroll()
    expect(shown.row(2_990).get_by_role("checkbox")).to_be_checked()
    expect(shown.root.locator("pre")).to_have_text("SELECT 2995")
    expect(shown.button(2_991, "Kill query")).to_be_focused()


@given(before=LISTS, after=LISTS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_changed_makes_the_table_that_a_new_one_would_be(
    page: Page, before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    sent = Sent()
    states = [sent.state(partial(snapshot, listed(*rows), ALL, at + 1)) for at, rows in enumerate([before, after])]
    cells = [
        page.evaluate("([at, values]) => cells(at, values.map(JSON.parse))", [at, [json.dumps(one) for one in values]])
        for at, values in {"one": states, "two": [{"snapshot": snapshot(listed(*after), ALL, 2)}]}.items()
    ]
    assert cells[0] == cells[1]


def test_of_a_list_that_changed_little_little_is_sent() -> None:
    """Here 50 sessions of 1,000 have ended and 50 are new, and TIME of all."""
    sent = Sent()
    rows = [session(number, TIME=number) for number in range(1_050)]
    first = sent.state(partial(snapshot, listed(*rows[:1_000]), ALL, 1))
    later = [session(number, TIME=number + 2) for number in range(50, 1_050)]
    second = sent.state(partial(snapshot, listed(*later), ALL, 2))
    assert [*first, *second] == ["snapshot", "changes"]
    assert len(json.dumps(second)) < 0.25 * len(json.dumps(snapshot(listed(*later), ALL, 2, None)))
    others = [session(number, TIME=1) for number in range(2_000, 3_000)]
    assert [*sent.state(partial(snapshot, listed(*others), ALL, 3))] == ["snapshot"]


def test_a_page_that_lacks_rows_of_the_snapshot_asks_for_another(table: Table) -> None:
    """As one that was opened later, or is read again before the last parts of a long list have come."""
    shown = table(numbered(1_100))
    shown.refresh(numbered(1_101))
    assert [message["kind"] for message in shown.told() if message["kind"] != "here"] == ["rows", "whole", "rows"]
    shown.rest()
    expect(shown.root.locator("table")).to_have_attribute("aria-rowcount", "1102")


@pytest.mark.parametrize("count", [10, 1_100])
def test_new_rows_are_marked_until_the_next_refresh(table: Table, count: int) -> None:
    shown = table(numbered(count))
    shown.rest()
    shown.refresh(numbered(count + 1))
    shown.rest()
    shown.scroll()
    expect(shown.cell(count + 1, "ID")).to_have_text(f"{count + 1} (new)")
    expect(shown.cell(count, "ID")).to_have_text(str(count))
    shown.refresh(numbered(count + 1))
    shown.rest()
    shown.scroll()
    expect(shown.cell(count + 1, "ID")).to_have_text(str(count + 1))


@pytest.mark.parametrize("count", [10, 1_100])
def test_an_ended_session_is_seen_once_more_as_ended(table: Table, count: int) -> None:
    shown = table(numbered(count))
    shown.rest()
    shown.refresh(numbered(count).iloc[1:])
    shown.rest()
    shown.root.get_by_role("searchbox").fill("SELECT 1")
    shown.scroll()
    expect(shown.cell(1, "ID")).to_have_text("1 (not listed)")
    expect(shown.button(1, "Kill query")).to_be_disabled()
    expect(shown.row(1).get_by_role("checkbox")).to_be_disabled()
    shown.refresh(numbered(count).iloc[1:])
    shown.rest()
    expect(shown.row(1)).to_have_count(0)


def test_an_ended_session_is_not_among_the_selected_ones(table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.check(1, 2)
    shown.refresh(listed(session(2)))
    shown.all("Kill query").click()
    assert shown.told("plan")[0]["sessions"] == [[HERE, "2"]]


def test_the_toolbar_does_not_count_selected_sessions_that_have_ended(table: Table) -> None:
    shown = table(listed(session(1), session(2), session(3)))
    shown.check(1, 2)
    shown.refresh(listed(session(2), session(3)))
    expect(shown.all("Kill query")).to_have_text("Kill query (1)")


def test_a_refresh_keeps_an_open_statement_open(table: Table) -> None:
    shown = table(numbered(30))
    shown.cell(2, "INFO").get_by_role("button").click()
    shown.refresh(listed(*[session(number) for number in range(30, 1, -1)]))
    shown.scroll()
    expect(shown.root.locator("pre")).to_have_text("SELECT 2")
    expect(shown.cell(2, "INFO").get_by_role("button")).to_have_attribute("aria-expanded", "true")


def test_rows_that_moved_are_killed_by_their_own_id(table: Table) -> None:
    shown = table(listed(*map(session, (*TWINS, 3))))
    shown.refresh(listed(*map(session, (3, *reversed(TWINS)))))
    assert shown.ids() == ["3", *map(str, reversed(TWINS))]
    for number in (*TWINS, 3):
        shown.button(number, "Kill query").click()
        asked = shown.told("plan")[-1]
        assert (asked["version"], asked["sessions"]) == (2, [[HERE, str(number)]])


def test_a_plan_stays_about_the_rows_that_were_clicked_when_a_refresh_comes(table: Table) -> None:
    shown = table(listed(session(1, USER="ann", INFO="SELECT 'seen'"), session(2)))
    shown.button(1, "Kill query").click()
    ask = shown.planned()
    shown.refresh(listed(session(2), session(1, USER="eve", INFO="SELECT 'another'")))
    expect(shown.panel).to_contain_text("ann from")
    expect(shown.panel).to_contain_text("SELECT 'seen'")
    expect(shown.panel).not_to_contain_text("another")
    shown.press("Confirm: kill query")
    assert shown.told("kill") == [{"kind": "kill", "ask": ask}]
    assert [(plan["version"], plan["sessions"]) for plan in shown.told("plan")] == [(1, [[HERE, "1"]])]


def test_a_plan_that_comes_after_a_refresh_is_shown_for_the_rows_that_were_clicked(table: Table) -> None:
    shown = table(listed(session(1, INFO="SELECT 'seen'"), session(2)))
    shown.check(1, 2)
    shown.all("Kill query").click()
    shown.refresh(listed(session(1, INFO="SELECT 'another'")))
    shown.planned()
    expect(shown.panel).to_contain_text("SELECT 'seen'")
    expect(shown.panel).to_contain_text("Connection 2")
    expect(shown.panel).not_to_contain_text("another")


def test_the_focus_stays_at_confirm_through_a_refresh(table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.button(1, "Kill query").click()
    shown.planned()
    confirm = shown.panel.get_by_text("Confirm: kill query", exact=True)
    confirm.focus()
    shown.refresh(listed(session(3), session(2), session(1)))
    expect(confirm).to_be_focused()


def test_the_panel_of_a_kill_stays_in_the_page_while_its_session_leaves_the_list(table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.button(1, "Kill query").click()
    shown.planned()
    for _ in range(3):
        shown.refresh(listed(session(2)))
    expect(shown.panel).to_be_visible()


def test_a_refresh_keeps_the_focus_at_select_all(table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    box = shown.root.get_by_role("checkbox", name="Select all rows that are shown")
    box.focus()
    shown.refresh(listed(session(1), session(2)))
    expect(box).to_be_focused()


def test_a_refresh_of_one_table_takes_no_focus_from_another(table: Table) -> None:
    one = table(listed(session(1)))
    two = table(listed(session(1)), at="two")
    sort = one.root.locator("th.tidb-TIME").get_by_role("button")
    sort.focus()
    two.refresh(listed(session(1), session(2)))
    expect(sort).to_be_focused()


# -- a kernel that is gone ---------------------------------------------------------------------------------------


def lost(shown: Shown, *, silent: bool = True) -> None:
    command = "([at, silent]) => { models[at].silent = silent; models[at].fire('comm_live_update'); }"
    shown.page.evaluate(command, [shown.at, silent])


def test_without_a_kernel_the_buttons_are_off_and_say_so(table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.check(2)
    lost(shown)
    expect(shown.age).to_contain_text("⚠ The kernel is gone")
    for button in (shown.button(1, "Kill query"), shown.button(1, "Kill connection"), shown.all("Kill query")):
        expect(button).to_be_disabled()
        expect(button).to_have_attribute("title", "The kernel is gone: this is the last list. Run the cell again.")
    expect(shown.root.get_by_role("button", name="Refresh")).to_be_disabled()
    expect(shown.root.get_by_role("checkbox", name="live")).to_be_disabled()


def test_an_answer_of_the_kernel_turns_the_buttons_on_again(table: Table) -> None:
    shown = table(listed(session(1)))
    lost(shown)
    shown.say("here")
    expect(shown.age).to_have_text("")
    expect(shown.button(1, "Kill query")).to_be_enabled()
    expect(shown.root.get_by_role("button", name="Refresh")).to_be_enabled()


def test_a_kernel_that_was_never_gone_is_asked_and_answers(table: Table) -> None:
    shown = table(listed(session(1)))
    lost(shown, silent=False)
    expect(shown.button(1, "Kill query")).to_be_enabled()
    expect(shown.age).to_have_text("")


def test_a_kill_that_was_not_sent_when_the_kernel_went_is_said_not_to_be(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.button(1, "Kill query").click()
    shown.planned()
    shown.press("Confirm: kill query")
    lost(shown)
    expect(shown.panel).to_have_count(0)
    expect(shown.outcome(1)).to_have_text("○ not sent")
    assert shown.told("yes") == []


def test_a_kill_that_was_sent_when_the_kernel_went_is_unconfirmed(table: Table) -> None:
    shown = table(listed(session(1)))
    shown.say("sending", ask=answered(shown))
    lost(shown)
    expect(shown.outcome(1)).to_have_text("? unconfirmed")


def test_a_table_that_is_closed_hears_nothing_more(page: Page, table: Table) -> None:
    shown = table(listed(session(1)), live=2.0)
    page.evaluate("() => closers.one()")
    assert page.evaluate("() => Object.values(models.one.heard).flat().length") == 0
    before = len(shown.told())
    page.clock.run_for(60_000)
    assert len(shown.told()) == before


def test_a_live_table_gives_signs_that_somebody_looks(page: Page, table: Table) -> None:
    shown = table(listed(session(1)), live=2.0)
    page.clock.run_for(11_000)
    signs = shown.told("watching")
    assert len(signs) >= 2
    assert all(sign["seen"] for sign in signs)


# -- keyboard, names, room ---------------------------------------------------------------------------------------


def focus_is_inside(page: Page) -> bool:
    return bool(page.evaluate("() => document.activeElement.closest('.tidb-sessions') !== null"))


def tabbed(page: Page, most: int = 60) -> list[str]:
    """Press Tab until the focus leaves the table. Return the titles or texts of what it came to."""
    reached = []
    for _ in range(most):
        page.keyboard.press("Tab")
        if not focus_is_inside(page):
            break
        reached.append(page.evaluate("() => document.activeElement.title || document.activeElement.textContent"))
    return reached


def test_tab_reaches_every_button(page: Page, table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.root.get_by_role("searchbox").focus()
    reached = tabbed(page)
    for number in (1, 2):
        assert f"Kill query {number}: end its statement" in reached
        assert f"Kill connection {number}: end the session" in reached
    assert {"Refresh", "TIME", "Show the whole statement"} <= {*reached}


def test_a_kill_can_be_confirmed_by_keys_alone(page: Page, table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.button(1, "Kill query").focus()
    page.keyboard.press("Enter")
    expect(shown.panel).to_be_focused()
    ask = shown.planned()
    page.keyboard.press("Tab")
    expect(shown.panel.get_by_text("Confirm: kill query", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    assert shown.told("kill") == [{"kind": "kill", "ask": ask}]


def test_tab_goes_through_more_rows_than_are_in_the_page(page: Page, table: Table) -> None:
    shown = table(numbered(100))
    shown.button(20, "Kill connection").focus()
    for _ in range(4 * 30):
        page.keyboard.press("Tab")
    expect(shown.button(50, "Kill connection")).to_be_focused()


def test_keys_that_are_pressed_in_the_table_are_no_shortcuts_of_the_notebook(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    page.evaluate("() => { window.keys = []; document.onkeydown = (event) => window.keys.push(event.key); }")
    expect(shown.root).to_have_attribute("data-lm-suppress-shortcuts", "true")
    for target in (shown.root.get_by_role("searchbox"), shown.scroller, shown.button(1, "Kill connection")):
        target.focus()
        for key in ("d", "d", "Escape", "ArrowDown"):
            page.keyboard.press(key)
    shown.button(1, "Kill query").click()
    page.keyboard.press("d")
    page.keyboard.press("Escape")
    assert page.evaluate("() => window.keys") == []


def test_a_screen_reader_hears_a_table_with_names(table: Table) -> None:
    shown = table(listed(session(5, TIME=3_780, MEM=1_288_490_189), idle(6)))
    heard = shown.root.aria_snapshot()
    for said in (
        '- toolbar "Sessions":',
        '- searchbox "Filter the rows by text"',
        '- button "Refresh"',
        '- table "Sessions of the TiDB cluster":',
        '- columnheader "TIME":',
        '- checkbox "Select all rows that are shown"',
        '- checkbox "Select connection 5"',
        '- cell "1h 03m"',
        '- cell "1.2 GiB"',
        '- list "Sessions by user":',
        "- status",
    ):
        assert said in heard
    assert "It runs no statement." in heard


def test_a_screen_reader_hears_what_a_panel_asks(table: Table) -> None:
    shown = table(listed(session(5)))
    shown.button(5, "Kill query").click()
    shown.planned()
    heard = shown.root.aria_snapshot()
    assert 'group "Kill query: confirm"' in heard
    assert 'button "Confirm: kill query"' in heard
    expect(shown.status).to_have_attribute("aria-live", "polite")


def test_the_name_of_a_button_holds_what_stands_on_it(table: Table) -> None:
    """Who speaks to a computer says what is to be read."""
    shown = table(listed(session(5), idle(6)))
    for button in shown.root.locator("button.tidb-kill").all():
        text, name = button.text_content(), button.get_attribute("aria-label")
        assert text
        assert name
        assert text.lower() in name.lower()


def fits(page: Page) -> bool:
    return bool(page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.mark.parametrize("width", [700, 900, 1400])
def test_the_page_does_not_scroll_sideways(page: Page, table: Table, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    long = "x" * 5_000
    names: dict[str, Any] = dict.fromkeys(("USER", "HOST", "DB", "STATE"), long[:200])
    shown = table(listed(session(TWINS[0], INFO=long, **names), session(2, INFO=long), session(3, INFO=long)))
    shown.cell(2, "INFO").get_by_role("button").click()
    shown.say("text", instance=HERE, id="2", text=long)
    shown.button(3, "Kill query").click()
    shown.planned()
    shown.check(TWINS[0], 2)
    shown.all("Kill connection").click()
    shown.planned()
    expect(shown.panel).to_have_count(2)
    expect(shown.root.locator("pre")).to_have_text(long)
    assert fits(page)


def test_a_long_remark_on_a_plan_does_not_make_the_page_scroll_sideways(page: Page, table: Table) -> None:
    shown = table(listed(session(1), session(2)))
    shown.check(1, 2)
    shown.all("Kill connection").click()
    shown.planned(remarks=["x" * 5_000])
    expect(shown.panel).to_contain_text("x" * 5_000)
    assert fits(page)


def test_a_long_trouble_does_not_make_the_page_scroll_sideways(page: Page, table: Table) -> None:
    shown = table(listed(session(1)))
    shown.give("trouble", "x" * 5_000)
    expect(shown.age).to_contain_text("x" * 5_000)
    assert fits(page)


def test_at_900_pixels_statements_and_buttons_are_in_view(page: Page, table: Table) -> None:
    page.set_viewport_size({"width": 900, "height": 900})
    shown = table(listed(session(TWINS[0], INFO="SELECT " + "x, " * 500)))
    for seen in (shown.cell(TWINS[0], "ID"), shown.button(TWINS[0], "Kill query")):
        expect(seen).to_be_in_viewport(ratio=1)
    expect(shown.button(TWINS[0], "Kill connection")).to_be_in_viewport(ratio=1)
    box = shown.cell(TWINS[0], "INFO").bounding_box()
    assert box
    assert box["width"] >= 160
