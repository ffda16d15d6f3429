"""The table with Kill buttons, from the kernel's side: what it does with what a browser says."""

import json
import pickle
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output

import tidb_magic
from tests.clients import LONG, LONG_SELECT, Client, eventually
from tidb_magic import Cluster, ProcessList
from tidb_magic.playground import Playground
from tidb_magic.widget import kill_dialogs
from tidb_magic.widget import table as module
from tidb_magic.widget.busy import BUSY, Busy
from tidb_magic.widget.settings import TableSettings
from tidb_magic.widget.table import SessionTable

SETTINGS = TableSettings(deadline=3.0, max_victims=50, timeout=10.0, interval=2.0)


class Browser:
    """What a browser would say to a table, and what it would hear."""

    def __init__(self, table: SessionTable, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table = table
        self.heard: list[dict[str, Any]] = []
        monkeypatch.setattr(table, "send", self.heard.append)
        monkeypatch.setattr(table._kills, "_send", self.heard.append)

    def say(self, kind: str, **said: Any) -> None:
        self.table._hear(None, {"kind": kind} | said, [])

    def hears(self, kind: str) -> dict[str, Any]:
        found = eventually(lambda: next((one for one in self.heard if one["kind"] == kind), None))
        self.heard.remove(found)
        return dict(found)

    def plans(self, client: Client, *, query: bool = True) -> dict[str, Any]:
        version = self.table.version
        sessions = [[client.instance, str(client.id)]]
        self.say("plan", ask="1", version=version, sessions=sessions, query=query)
        return self.hears("planned")


@pytest.fixture
def victim(playground: Playground, running: Any) -> Iterator[Client]:
    with Client(playground, 1) as client:
        yield running(client.start(LONG_SELECT.format("victim")), aged=True)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a live table go on without signs from a browser, also where a few readings take long."""
    monkeypatch.setattr(Busy, "unwatched_after", 10 * LONG)


@pytest.fixture
def table(cluster: Cluster, victim: Client) -> Iterator[SessionTable]:
    made = SessionTable(cluster.processlist(), SETTINGS)
    yield made
    made.close()


@pytest.fixture
def browser(table: SessionTable, monkeypatch: pytest.MonkeyPatch) -> Browser:
    return Browser(table, monkeypatch)


def kills(asked: list[str]) -> list[str]:
    return [text for sql in asked if (text := sql.partition("*/")[2].strip()).startswith("KILL")]


def test_a_kill_is_looked_at_asked_back_and_proven(
    browser: Browser, victim: Client, every_statement: list[str]
) -> None:
    planned = browser.plans(victim)
    (row,) = planned["rows"]
    assert (row["id"], row["instance"], row["outcome"]) == (str(victim.id), victim.instance, "planned")
    assert row["statement"] == f"KILL TIDB QUERY {victim.id}"
    browser.say("kill", ask="1")
    browser.hears("asked")
    assert kills(every_statement) == []
    browser.say("yes", ask="1", after=0.01)
    browser.hears("sending")
    (row,) = browser.hears("killed")["rows"]
    assert (row["id"], row["outcome"]) == (str(victim.id), "interrupted")
    assert kills(every_statement) == [f"KILL TIDB QUERY {victim.id}"]


@pytest.mark.parametrize("said", [[], ["kill"], ["yes"], ["kill", "no", "yes"], ["no", "kill", "yes"]])
def test_nothing_is_sent_unless_it_was_confirmed_and_meant_when_asked_back(
    browser: Browser, victim: Client, every_statement: list[str], said: list[str]
) -> None:
    browser.plans(victim)
    for kind in said:
        browser.say(kind, ask="1", after=0.0)
    if "yes" in said:
        assert browser.hears("killed")["error"] == "This was cancelled. Nothing was sent."
    browser.say("yes", ask="2", after=0.0)  # of another one
    assert browser.hears("killed")["error"] == "This was cancelled. Nothing was sent."
    assert kills(every_statement) == []


def test_an_answer_that_waited_for_a_cell_is_asked_back_again(
    browser: Browser, victim: Client, every_statement: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(kill_dialogs, "time", SimpleNamespace(time=time.time, monotonic=lambda: now))
    browser.plans(victim)
    browser.say("kill", ask="1")
    browser.hears("asked")
    now += 4  # of which the person took 2.5
    browser.say("yes", ask="1", after=2.5)
    browser.hears("asked")
    now += 60
    browser.say("yes", ask="1", after=60.0)  # a browser that claims too much
    browser.hears("asked")
    assert kills(every_statement) == []
    now += 3
    browser.say("yes", ask="1", after=2.5)
    browser.hears("sending")
    monkeypatch.undo()


def test_a_kill_is_of_the_rows_that_were_seen_also_after_a_refresh(
    browser: Browser, table: SessionTable, playground: Playground, victim: Client, running: Any
) -> None:
    before = table.version
    with Client(playground, 1) as root:
        root.query(f"KILL TIDB QUERY {victim.id}")
    victim.result()
    running(victim.start(LONG_SELECT.format("another")), aged=True)
    browser.say("refresh")
    eventually(lambda: table.version > before)
    sessions = [[victim.instance, str(victim.id)]]
    browser.say("plan", ask="1", version=before, sessions=sessions, query=True)
    (row,) = browser.hears("planned")["rows"]
    assert (row["outcome"], row["reason"]) == ("changed", "it runs another statement")
    for _ in range(6):
        version = table.version
        browser.say("refresh")
        eventually(lambda version=version: table.version > version)  # type: ignore[misc]
    browser.say("plan", ask="1", version=before, sessions=sessions, query=True)
    assert browser.hears("planned")["error"] == "This list is out of date: refresh it first."


def test_a_refresh_that_is_asked_for_while_the_list_is_read_is_not_lost(browser: Browser, table: SessionTable) -> None:
    """The browser waits for its answer. Those who ask while one waits already share its reading."""
    read, began, go_on = table._reload, list[float](), threading.Event()

    def slowly(*args: Any, **options: Any) -> Any:
        began.append(time.monotonic())
        go_on.wait()
        return read(*args, **options)

    table._reload = slowly
    before = table.version
    browser.say("refresh")
    eventually(lambda: began)
    for _ in range(3):
        browser.say("refresh")
    eventually(table._next.locked)
    go_on.set()
    eventually(lambda: table.version == before + 2)
    eventually(lambda: not [one for one in table._threads if one.is_alive()])
    assert len(began) == 2


def test_what_is_no_row_of_the_list_is_not_killed(browser: Browser, playground: Playground, running: Any) -> None:
    with Client(playground, 2) as later:
        running(later.start(LONG_SELECT.format("later")), aged=True)
        assert "error" in browser.plans(later)


def test_more_than_max_victims_are_refused_before_anybody_confirms(
    cluster: Cluster, playground: Playground, victim: Client, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(playground, 2) as other:
        running(other.start(LONG_SELECT.format("other")), aged=True)
        table = SessionTable(cluster.processlist(), replace(SETTINGS, max_victims=1))
        browser = Browser(table, monkeypatch)
        sessions = [[one.instance, str(one.id)] for one in (victim, other)]
        browser.say("plan", ask="1", version=1, sessions=sessions, query=True)
        assert browser.hears("planned")["error"].startswith("2 sessions are more than max_victims (1)")
        browser.say("kill", ask="1")
        assert browser.hears("killed")["error"] == "This was cancelled. Nothing was sent."
        table.close()


def test_without_process_it_does_not_say_how_many_wait_for_locks(playground: Playground, users: dict[str, str]) -> None:
    url = playground.url(0).replace("root", "joe")
    with tidb_magic.connect(url, password=users["joe"]) as cluster:
        assert cluster.waiting() is None


def test_a_kill_in_the_table_is_in_the_history_and_the_audit_file(
    browser: Browser, cluster: Cluster, victim: Client, tmp_path: Any
) -> None:
    cluster.audit_file = str(tmp_path / "kills.jsonl")
    browser.plans(victim)
    browser.say("kill", ask="1")
    browser.say("yes", ask="1", after=0.0)
    browser.hears("killed")
    last = cluster.history().iloc[-1]
    assert (last["ID"], last["OUTCOME"], last["REASON"]) == (victim.id, "interrupted", "")
    events = [json.loads(line)["event"] for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
    assert events == ["plan", "sending", "outcome"]


def test_after_its_cluster_was_closed_it_says_so(browser: Browser, cluster: Cluster, victim: Client) -> None:
    cluster.close()
    answer = browser.plans(victim)
    assert answer["error"].endswith("was closed: connect and list again. Nothing was sent.")
    assert answer["sent"] is False
    browser.say("live", on=True)
    eventually(lambda: "was closed" in browser.table.trouble)
    eventually(lambda: not [one for one in browser.table._threads if one.is_alive()])
    assert browser.table.live == 0


def test_the_browser_gets_ids_as_text_and_no_secret(
    playground: Playground, users: dict[str, str], victim: Client
) -> None:
    url = playground.url(0).replace("root", "monitor")
    with tidb_magic.connect(url, password=users["monitor"]) as cluster:
        frame = cluster.processlist()
        table = SessionTable(frame, SETTINGS)
        state = json.dumps(table.get_state(), default=str)
        assert users["monitor"] not in state + repr(table)
        assert users["monitor"].encode() not in pickle.dumps(frame)
        part = table.snapshot["part"]
        assert str(victim.id) in part["ID"]
        at = part["ID"].index(str(victim.id))
        assert part["no_connection"][at] == 3  # monitor may look only
        assert "requires CONNECTION_ADMIN or SUPER" in table.snapshot["reasons"][3]
        table.close()


def test_a_slice_stays_one_when_it_is_read_again(
    cluster: Cluster, playground: Playground, victim: Client, running: Any
) -> None:
    with Client(playground, 2) as other:
        running(other.start(LONG_SELECT.format("other")), aged=True)
        frame = cluster.processlist()
        table = SessionTable(frame[frame["ID"] == victim.id], SETTINGS)
        table._refresh()
        assert table.version == 2
        assert list(table._view.rows(table.shown)["ID"]) == [victim.id]
        table.close()


def test_a_statement_is_sent_whole_when_it_is_opened(
    cluster: Cluster, playground: Playground, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"/* {'x' * 3_000}\n */ {LONG_SELECT.format('long')}"
    with Client(playground, 2) as client:
        running(client.start(text), aged=True)
        table = SessionTable(cluster.processlist(), SETTINGS)
        browser = Browser(table, monkeypatch)
        at = table.snapshot["part"]["ID"].index(str(client.id))
        assert len(table.snapshot["part"]["INFO"][at]) == 400
        browser.say("text", version=1, instance=client.instance, id=str(client.id))
        assert browser.hears("text")["text"] == text
        table.close()


# -- live ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("watched")
def test_a_live_table_reads_in_its_own_thread_on_its_own_connection(
    cluster: Cluster, every_statement: list[str], victim: Client
) -> None:
    frame = cluster.processlist()
    sessions = every_statement.copy()
    table = SessionTable(frame, SETTINGS, live=0.05)
    eventually(lambda: table.version > 3)
    mine = {sql.split("*/")[0] for sql in sessions if "PROCESSLIST" in sql}
    others = {sql.split("*/")[0] for sql in every_statement[len(sessions) :] if "FROM" in sql}
    assert not mine & others
    table.close()
    assert not [one for one in threading.enumerate() if one.name == "tidb_magic-table"]


def test_it_rests_while_nobody_looks_and_goes_on_while_a_cell_runs(
    cluster: Cluster, victim: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Busy, "unwatched_after", 0.2)
    monkeypatch.setattr(module, "_REST", 0.01)
    table = SessionTable(cluster.processlist(), SETTINGS, live=0.01)
    browser = Browser(table, monkeypatch)
    BUSY.begins()
    eventually(lambda: table.version > 2)
    BUSY.ends()
    eventually(lambda: not BUSY.watched(table._sign))
    eventually(lambda: not table._refreshing.locked())
    rests = table.version
    browser.say("watching", seen=False)
    assert table.version <= rests + 1
    while table.version <= rests + 2:
        browser.say("watching", seen=True)
    eventually(lambda: not BUSY.watched(table._sign))
    rests = table.version
    BUSY.begins()  # the signs of the browser wait
    eventually(lambda: table.version > rests + 2)
    BUSY.ends()
    table.close()


@pytest.mark.usefixtures("watched")
def test_where_a_reading_takes_long_the_pause_after_it_is_three_times_as_long(cluster: Cluster) -> None:
    frame = cluster.processlist()
    assert frame.origin is not None
    read, seen = frame.origin.reload, list[tuple[float, float]]()
    assert read is not None

    def slowly(*args: Any, **options: Any) -> Any:
        began = time.monotonic()
        time.sleep(0.1)
        shown = read(*args, **options)
        seen.append((began, time.monotonic()))
        return shown

    table = SessionTable(frame, SETTINGS, live=0.05)
    table._reload = slowly
    eventually(lambda: len(seen) > 3)
    table.close()
    for (began, ended), (again, _) in pairwise(seen):
        assert again - ended > 2.9 * (ended - began) - 0.1  # rounded to a tenth of a second
    assert table.pace >= 0.3


@pytest.mark.usefixtures("watched")
def test_switched_off_and_on_again_it_reads_once_at_a_time(
    cluster: Cluster, victim: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = SessionTable(cluster.processlist(), SETTINGS, live=0.2)
    browser = Browser(table, monkeypatch)
    for on in (False, True) * 5:
        browser.say("live", on=on)
    eventually(lambda: len([one for one in table._threads if one.is_alive()]) == 1)
    assert table.live == 0.2
    before = table.version
    eventually(lambda: table.version > before)
    browser.say("live", on=False)
    eventually(lambda: not [one for one in table._threads if one.is_alive()])
    table.close()


def test_a_sign_counts_for_a_while_and_a_running_cell_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tidb_magic.widget.busy.time", SimpleNamespace(monotonic=lambda: now))
    busy = Busy()
    now = 114.0
    assert busy.watched(last=0.0)
    now = 116.0
    assert not busy.watched(last=100.5)
    assert busy.watched(last=101.5)
    busy.begins()
    assert busy.watched(last=0.0)
    now = 200.0
    busy.ends()
    assert busy.watched(last=0.0)


@pytest.mark.usefixtures("watched")
def test_when_the_cluster_does_not_answer_it_says_so_and_goes_on_afterwards(healed: Playground) -> None:
    with tidb_magic.connect(healed.url(0)) as cluster:
        table = SessionTable(cluster.processlist(), replace(SETTINGS, deadline=0.5), live=0.05)
        eventually(lambda: table.version > 1)
        for at in range(3):
            healed.freeze(at)
        try:
            eventually(lambda: table.trouble)
        finally:
            for at in range(3):
                healed.resume(at)
        eventually(lambda: not table.trouble)
        before = table.version
        eventually(lambda: table.version > before)
        table.close()


# -- where it is shown -----------------------------------------------------------------------------------------


class Kernel:
    """Marks the test's shell as one of a kernel."""


@pytest.fixture
def notebook(shell: InteractiveShell, playground: Playground) -> Iterator[InteractiveShell]:
    """A shell that shows lists as in a notebook."""
    shell.kernel = Kernel()  # type: ignore[attr-defined]
    assert shell.display_formatter is not None
    shell.display_formatter.active_types = shell.display_formatter.format_types
    magics = shell.magics_manager.registry["TidbMagics"]
    magics.show_with(shell)
    shell.run_line_magic("tidb_connect", playground.url(0))
    yield shell
    shell.display_formatter.active_types = ["text/plain"]
    magics.show_no_more(shell)
    del shell.kernel  # type: ignore[attr-defined]


def test_a_list_is_shown_as_a_closed_snapshot_and_a_table_below_it(notebook: InteractiveShell) -> None:
    frame = notebook.run_line_magic("tidb_ps", "--idle")
    with capture_output() as shown:
        display(frame)
        display(frame)
    first, second, *again = [output.data for output in shown.outputs]
    assert first["text/html"].startswith("<details><summary>")
    assert "<details open" not in first["text/html"]
    assert first["text/plain"] == repr(frame)
    model = second["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert "text/html" not in second
    assert again[1]["application/vnd.jupyter.widget-view+json"]["model_id"] == model


def test_a_look_at_a_variable_makes_no_table_and_no_output(notebook: InteractiveShell) -> None:
    """Debuggers and variable viewers format what they show."""
    frame = notebook.run_line_magic("tidb_ps", "--idle")
    with capture_output() as shown:
        assert notebook.display_formatter is not None
        data, _ = notebook.display_formatter.format(frame)
        repr(frame)
        frame._repr_html_()
        str([frame])
    assert set(data) == {"text/plain", "text/html"}
    assert "<details" not in data["text/html"]
    assert shown.outputs == []
    assert not list(module.OPEN)


def test_what_is_cut_out_of_a_list_has_a_table_while_its_rows_are_sessions(notebook: InteractiveShell) -> None:
    frame = notebook.run_line_magic("tidb_ps", "--idle")
    for cut, buttons in (
        (frame.head(1), True),
        (frame[["ID", "INSTANCE"]], True),
        (frame[["ID", "USER"]], False),
        (frame.isna(), False),
        (frame.reindex([0, 99_999]), False),
        (pickle.loads(pickle.dumps(frame)), False),  # knows no cluster
    ):
        with capture_output() as shown:
            display(cut)
        found = any("application/vnd.jupyter.widget-view+json" in output.data for output in shown.outputs)
        assert found is buttons, cut


def test_without_widgets_what_to_type_stands_where_the_buttons_would_be(
    notebook: InteractiveShell, victim: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tidb_magic.widget.table", None)
    frame = notebook.run_line_magic("tidb_ps", "")
    with capture_output() as shown:
        display(frame)
    (only,) = [output.data for output in shown.outputs]
    assert f"%tidb_kill QUERY {victim.id}" in only["text/html"]
    assert "<details" not in only["text/html"]
    assert "TO END IT" in only["text/html"]
    report = notebook.run_line_magic("tidb_kill", f"QUERY {victim.id}")
    assert list(report["OUTCOME"]) == ["interrupted"]
    with pytest.raises(Exception, match="--live needs a notebook with widgets"):
        notebook.run_line_magic("tidb_ps", "--live")


def test_in_a_terminal_a_list_is_text_and_live_is_refused(connected: InteractiveShell) -> None:
    frame = connected.run_line_magic("tidb_ps", "")
    with capture_output() as shown:
        display(frame)
    assert all("widget" not in str(output.data) for output in shown.outputs)
    with pytest.raises(Exception, match="--live needs a notebook with widgets"):
        connected.run_line_magic("tidb_ps", "--live")


def test_unloading_closes_the_tables_their_threads_and_their_connections(
    notebook: InteractiveShell, playground: Playground, victim: Client
) -> None:
    live = notebook.run_line_magic("tidb_ps", "--live 0.05")
    with capture_output():
        display(live)
        display(notebook.run_line_magic("tidb_ps", "--idle"))
    eventually(lambda: live.version > 2)
    assert len(list(module.OPEN)) == 2
    callbacks = {event: list(found) for event, found in notebook.events.callbacks.items()}
    assert BUSY.begins in callbacks["pre_run_cell"]
    notebook.run_line_magic("unload_ext", "tidb_magic")
    assert not list(module.OPEN)
    assert BUSY.begins not in notebook.events.callbacks["pre_run_cell"]
    names = {"tidb_magic-table", "tidb_magic-watch"}
    assert not [one for one in threading.enumerate() if one.name in names]
    assert notebook.display_formatter is not None
    formatter = notebook.display_formatter.ipython_display_formatter
    with pytest.raises(KeyError):
        formatter.lookup_by_type(ProcessList)
    with Client(playground) as root:
        mine = "SELECT COUNT(*) FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE SESSION_ALIAS LIKE 'tidb_magic%'"
        eventually(lambda: root.query(mine) == ((0,),))
    notebook.run_line_magic("load_ext", "tidb_magic")
