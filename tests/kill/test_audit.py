"""What is written down of a kill: the audit file, and the history of this process."""

import getpass
import json
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import tidb_magic
from tests.clients import LONG_SELECT, Client, eventually
from tests.kill.test_identity import kills, row_of
from tests.kill.test_kill import only
from tests.kill.test_unresponsive import (
    hold_between_check_and_send,
    no_thread_of_ours_is_left,
    press_ctrl_c,
    press_ctrl_c_after_send,
)
from tidb_magic import Cluster, History
from tidb_magic.errors import AuditError, Interrupted
from tidb_magic.kill import audit
from tidb_magic.kill import report as reports
from tidb_magic.kill.audit import Audit
from tidb_magic.kill.report import COLUMNS
from tidb_magic.playground import Playground

NOBODY = 2097158
BEFORE = [
    *("time", "event", "cluster", "user", "os_user", "statement", "instance", "session_user", "session_host"),
    "reason",
]
AFTER = [*BEFORE, "outcome", "why", "warning", "seconds"]


@pytest.fixture
def file(cluster: Cluster, tmp_path: Path) -> Path:
    """The audit file of the cluster."""
    cluster.audit_file = str(tmp_path / "kills.jsonl")
    return Path(cluster.audit_file)


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of an audit file, each of which is JSON."""
    text = file.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def events(file: Path) -> list[str]:
    return [line["event"] for line in lines(file)]


# -- the file --------------------------------------------------------------------------------------------------


def test_a_kill_is_written_down_before_it_is_sent_and_its_outcome_afterwards(
    playground: Playground, cluster: Cluster, file: Path, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[dict[str, Any]] = []
    hold_between_check_and_send(monkeypatch, lambda: before.extend(lines(file)))
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("audited")))
        host = row_of(cluster, client)["HOST"].iloc[0]
        began = datetime.now().astimezone()
        row = only(cluster.kill([client.id], query=True, reason="blocks the load"))
        assert row["OUTCOME"] == "interrupted"
    sending, outcome = lines(file)
    assert before == [sending]
    assert (list(sending), list(outcome)) == (BEFORE, AFTER)
    for line in (sending, outcome):
        moment = datetime.fromisoformat(line.pop("time"))
        assert timedelta(0) <= moment - began < timedelta(seconds=60)
    known = {
        "cluster": f"root@127.0.0.1:{playground.port(0)}",
        "user": "root",
        "os_user": getpass.getuser(),
        "statement": f"KILL TIDB QUERY {client.id}",
        "instance": client.instance,
        "session_user": "root",
        "session_host": host,
        "reason": "blocks the load",
    }
    assert sending == {"event": "sending", **known}
    assert outcome.pop("seconds") == row["SECONDS"] > 0
    assert outcome == {"event": "outcome", **known, "outcome": "interrupted", "why": "", "warning": ""}


def test_each_of_several_kills_has_one_line_before_and_one_after(
    playground: Playground, cluster: Cluster, file: Path
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(playground, at % 3)) for at in range(9)]
        report = cluster.kill([client.id for client in clients])
        assert set(report["OUTCOME"]) == {"killed"}
    assert events(file) == ["sending"] * 9 + ["outcome"] * 9
    sent, ended = lines(file)[:9], lines(file)[9:]
    assert sorted(line["statement"] for line in sent) == sorted(report["STATEMENT"])
    assert [line["statement"] for line in ended] == list(report["STATEMENT"])
    assert [line["why"] for line in ended] == list(report["REASON"])
    assert [line["seconds"] for line in ended] == list(report["SECONDS"])


@pytest.mark.parametrize(
    ("sql", "why", "warning"),
    [("KILL TIDB", "You have an error in your SQL syntax", ""), ("KILL TIDB 5", "TiDB warned", "Kill failed: ")],
)
def test_what_the_server_refuses_or_warns_of_is_in_the_file(
    playground: Playground,
    cluster: Cluster,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    sql: str,
    why: str,
    warning: str,
) -> None:
    with Client(playground, 1) as client:
        monkeypatch.setattr("tidb_magic.kill.parser.KillStatement.sql", sql)
        row = only(cluster.kill([client.id]))
        assert client.alive()
    ended = lines(file)[-1]
    assert (ended["outcome"], ended["why"], ended["warning"]) == ("failed", row["REASON"], row["WARNING"])
    assert ended["why"].startswith(why)
    assert ended["warning"].startswith(warning)
    assert bool(ended["warning"]) == bool(warning)


def test_what_is_not_sent_has_its_outcome_only(
    playground: Playground, cluster: Cluster, file: Path, running: Any
) -> None:
    with Client(playground, 1) as client, Client(playground, 2) as moved:
        listed = row_of(cluster, moved)
        running(moved.start(LONG_SELECT.format("moved on")))
        cluster.kill([client.id, NOBODY], query=True)
        cluster.kill(listed)
        cluster.kill([moved.id])
    gone, idle = sorted(lines(file)[:2], key=lambda line: str(line["outcome"]))
    assert (gone["event"], gone["outcome"]) == ("outcome", "already gone")
    assert {gone[name] for name in ("instance", "session_user", "session_host", "seconds")} == {None}
    assert "no session has this id" in gone["why"]
    assert (idle["event"], idle["outcome"], idle["session_user"]) == ("outcome", "refused", "root")
    assert [line["outcome"] for line in lines(file)[2:] if "outcome" in line] == ["changed", "killed"]
    assert events(file) == ["outcome", "outcome", "outcome", "sending", "outcome"]


def test_a_plan_is_written_down_as_a_plan(
    playground: Playground, cluster: Cluster, file: Path, running: Any, every_statement: list[str]
) -> None:
    with Client(playground, 1) as client, Client(playground, 2) as second:
        running(client.start(LONG_SELECT.format("audited plan")))
        cluster.plan([client.id, second.id], query=True, reason="only a look")
        cluster.plan(match="audited plan")
        cluster.kill([client.id, second.id], max_victims=1)
        assert kills(every_statement) == []
        told = [(line["event"], line["outcome"], line["reason"], line["seconds"]) for line in lines(file)]
        assert told == [
            ("plan", "planned", "only a look", None),
            ("plan", "refused", "only a look", None),
            ("plan", "planned", "", None),
            ("plan", "planned", "", None),
            ("plan", "planned", "", None),
        ]
        assert all(list(line) == AFTER for line in lines(file))
        cluster.kill([client.id])


@pytest.mark.parametrize("sql", [True, False])
def test_the_statements_of_the_sessions_are_in_the_file_only_if_that_is_wanted(
    playground: Playground, cluster: Cluster, file: Path, running: Any, sql: bool
) -> None:
    cluster.audit_sql = sql
    with Client(playground, 1) as client, Client(playground, 2) as idle:
        running(client.start(LONG_SELECT.format("somebody's é data")))
        cluster.plan([client.id])
        cluster.kill([client.id, idle.id])
    assert (b"SUM(SLEEP" in file.read_bytes()) == sql
    assert {"sql" in line for line in lines(file)} == {sql}
    if sql:
        said = {(line["event"], line["statement"], line["sql"]) for line in lines(file)}
        text = LONG_SELECT.format("somebody's é data")
        assert said == {
            ("plan", f"KILL TIDB CONNECTION {client.id}", text),
            *((event, f"KILL TIDB CONNECTION {client.id}", text) for event in ("sending", "outcome")),
            *((event, f"KILL TIDB CONNECTION {idle.id}", None) for event in ("sending", "outcome")),
        }


def test_no_password_is_in_the_file_or_in_the_history(
    playground: Playground, users: dict[str, str], tmp_path: Path
) -> None:
    file, url = tmp_path / "kills.jsonl", playground.url(0).replace("root", "joe")
    with (
        tidb_magic.connect(url, password=users["joe"]) as cluster,
        Client(playground, 1, "joe", password=users["joe"]) as own,
        Client(playground, 1) as stranger,
    ):
        cluster.audit_file, cluster.audit_sql = str(file), True
        cluster.plan([own.id, stranger.id])
        cluster.kill([own.id, stranger.id, NOBODY])
        history = cluster.history()
        assert set(history["CLUSTER"].iloc[-5:]) == {f"joe@127.0.0.1:{playground.port(0)}"}
        assert {line["user"] for line in lines(file)} == {"joe"}
        assert users["joe"].encode() not in file.read_bytes()
        assert users["joe"] not in history.to_csv() + repr(history) + str(history._repr_html_())


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_owner_may_read_a_new_file(cluster: Cluster, file: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cluster.plan([NOBODY])
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_is_there_is_appended_to_and_keeps_its_mode(cluster: Cluster, file: Path) -> None:
    file.write_text('{"event": "before"}\n')
    file.chmod(0o640)
    cluster.plan([NOBODY])
    cluster.kill([NOBODY])
    assert events(file) == ["before", "plan", "outcome"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_file_in_the_home_folder_is_named_by_a_tilde(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster.audit_file = "~/kills.jsonl"
    cluster.plan([NOBODY])
    assert events(tmp_path / "kills.jsonl") == ["plan"]


@pytest.mark.parametrize("reason", ["two\nlines\r\n", '" \\ {x} \u2028\x00', "é \U0001f600", "\ud800", "x" * 100_000])
def test_whatever_the_reason_is_each_line_is_json(cluster: Cluster, file: Path, reason: str) -> None:
    cluster.plan([NOBODY], reason=reason)
    cluster.kill([NOBODY], reason=reason)
    assert file.read_bytes().count(b"\n") == 2
    assert [line["reason"] for line in lines(file)] == [reason] * 2
    assert cluster.history()["WHY"].iloc[-1] == reason


def test_files_of_two_clusters_do_not_mix(playground: Playground, cluster: Cluster, file: Path, tmp_path: Path) -> None:
    with tidb_magic.connect(playground.url(1)) as other, Client(playground, 2) as client:
        other.audit_file = str(tmp_path / "others.jsonl")
        cluster.plan([client.id])
        other.kill([client.id])
    assert events(file) == ["plan"]
    assert events(tmp_path / "others.jsonl") == ["sending", "outcome"]


def test_many_threads_write_whole_lines_into_one_file(playground: Playground, cluster: Cluster, file: Path) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(playground, at % 3)) for at in range(12)]
        clusters = [stack.enter_context(tidb_magic.connect(playground.url(at))) for at in range(3)]
        for one in clusters:
            one.audit_file = str(file)

        def work(at: int) -> None:
            clusters[at].kill([client.id for client in clients[at::3]], reason="x" * 5000)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(events(file)) == ["outcome"] * 12 + ["sending"] * 12


@pytest.fixture
def configured(connected: InteractiveShell) -> Iterator[InteractiveShell]:
    """A shell that forgets its configuration afterwards."""
    yield connected
    connected.config.pop("TidbMagics", None)


def test_the_file_of_the_magics_is_configured_and_switched_off_again(
    playground: Playground, configured: InteractiveShell, tmp_path: Path, running: Any
) -> None:
    file = tmp_path / "kills.jsonl"
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("configured")))
        configured.run_line_magic("tidb_kill", f"--dry-run {client.id}")
        configured.run_line_magic("config", f"TidbMagics.audit_file = {str(file)!r}")
        configured.run_line_magic("tidb_kill", f"--dry-run {client.id} --reason 'a look'")
        configured.run_line_magic("config", "TidbMagics.audit_sql = True")
        configured.run_line_magic("tidb_kill", f"QUERY {client.id} --reason 'ticket 5'")
        configured.run_line_magic("config", "TidbMagics.audit_file = ''")
        configured.run_line_magic("tidb_kill", f"{client.id}")
    assert [(line["event"], line["reason"], "sql" in line) for line in lines(file)] == [
        ("plan", "a look", False),
        ("sending", "ticket 5", True),
        ("outcome", "ticket 5", True),
    ]


def test_a_file_that_was_set_in_python_is_not_switched_off_by_a_magic(
    configured: InteractiveShell, tmp_path: Path
) -> None:
    file = tmp_path / "kills.jsonl"
    cluster = configured.run_line_magic("tidb_connect", "")
    cluster.audit_file = str(file)
    configured.run_line_magic("tidb_kill", f"QUERY {NOBODY}")
    assert events(file) == ["outcome"]
    assert cluster.audit_file == str(file)


# -- a file that cannot be written -----------------------------------------------------------------------------

UNWRITABLE: dict[str, Callable[[Path], str]] = {
    "a folder": str,
    "a missing folder": lambda folder: str(folder / "missing" / "kills.jsonl"),
    "a file as a folder": lambda folder: str(folder / "file" / "kills.jsonl"),
    "nobody's home": lambda _: "~nosuchuser/kills.jsonl",
    "a NUL": lambda folder: str(folder / "kills\0.jsonl"),
    "a long name": lambda folder: str(folder / ("x" * 5000)),
    "no text": lambda folder: str(folder / "\ud800"),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_file_that_cannot_be_written_stops_a_kill_before_anything_is_sent(
    playground: Playground, cluster: Cluster, tmp_path: Path, every_statement: list[str], name: str
) -> None:
    (tmp_path / "file").touch()
    cluster.audit_file = UNWRITABLE[name](tmp_path)
    before = len(cluster.history())
    with Client(playground, 1) as client:
        for work in (cluster.kill, cluster.plan):
            with pytest.raises(AuditError, match="cannot be written") as refused:
                work([client.id])
            assert repr(cluster.audit_file) in str(refused.value)
            assert "\n" not in str(refused.value)
        with pytest.raises(AuditError):
            cluster.kill(where=f"ID = {client.id}", idle=True)
        assert kills(every_statement) == []
        assert client.alive()
        assert len(cluster.history()) == before
        cluster.audit_file = None
        assert only(cluster.kill([client.id]))["OUTCOME"] == "killed"


def test_a_file_that_cannot_be_written_is_one_line_in_a_notebook(
    playground: Playground,
    configured: InteractiveShell,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    every_statement: list[str],
) -> None:
    configured.run_line_magic("config", f"TidbMagics.audit_file = {str(tmp_path)!r}")
    with Client(playground, 1) as client:
        capsys.readouterr()
        assert isinstance(configured.run_cell(f"%tidb_kill {client.id}").error_in_exec, AuditError)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert "AuditError: The audit file" in said.out + said.err
        assert kills(every_statement) == []
        assert client.alive()


def put_a_folder_in_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


def test_a_file_that_becomes_unwritable_before_the_kill_leaves_it_refused_and_unsent(
    playground: Playground,
    cluster: Cluster,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    every_statement: list[str],
) -> None:
    check = Audit.check

    def check_then_lose(self: Audit) -> None:
        check(self)
        put_a_folder_in_its_place(file)

    monkeypatch.setattr(Audit, "check", check_then_lose)
    with Client(playground, 1) as client, Client(playground, 2) as second:
        report = cluster.kill([client.id, second.id])
        assert list(report["OUTCOME"]) == ["refused"] * 2
        for reason in report["REASON"]:
            assert f"The audit file {str(file)!r} cannot be written" in reason
        assert kills(every_statement) == []
        assert client.alive()
        assert second.alive()


def test_a_note_that_fails_refuses_that_instance_only(
    playground: Playground, cluster: Cluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = Audit.sending
    with Client(playground, 1) as client, Client(playground, 2) as second:

        def fail(self: Audit, targets: Any) -> None:
            if client.id in {target.id for target in targets}:
                raise AuditError("The audit file cannot be written (as planned).")
            sending(self, targets)

        monkeypatch.setattr(Audit, "sending", fail)
        report = cluster.kill([client.id, second.id])
        assert list(report["OUTCOME"]) == ["refused", "killed"]
        assert report["REASON"][0] == "The audit file cannot be written (as planned)."
        assert client.alive()
    assert [(line["event"], line.get("outcome")) for line in lines(file)] == [
        ("sending", None),
        ("outcome", "refused"),
        ("outcome", "killed"),
    ]


def test_a_file_that_is_lost_after_the_kill_is_a_remark_and_the_report_stays(
    playground: Playground, cluster: Cluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_between_check_and_send(monkeypatch, lambda: put_a_folder_in_its_place(file))
    with Client(playground, 1) as client:
        report = cluster.kill([client.id])
        assert only(report)["OUTCOME"] == "killed"
        assert any(f"The audit file {str(file)!r} cannot be written" in remark for remark in report.remarks)
        assert "cannot be written" in repr(report)
        assert not client.alive()
    assert tuple(cluster.history()[["ID", "OUTCOME"]].iloc[-1]) == (client.id, "killed")


def test_a_plan_that_cannot_be_written_down_is_a_remark(
    cluster: Cluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Audit._append

    def fail(self: Audit, noted: Any) -> None:
        if told := list(noted):
            assert told[0]["event"] == "plan"
            raise AuditError("The audit file cannot be written (as planned).")
        append(self, told)

    monkeypatch.setattr(Audit, "_append", fail)
    report = cluster.plan([NOBODY])
    assert only(report)["OUTCOME"] == "already gone"
    assert "The audit file cannot be written (as planned)." in report.remarks


# -- the history -----------------------------------------------------------------------------------------------


def test_every_plan_and_outcome_of_this_process_is_in_the_history_in_order_with_its_reason(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    before = len(cluster.history())
    began = datetime.now().astimezone()
    with (
        Client(playground, 1) as query,
        Client(playground, 2) as session,
        tidb_magic.connect(playground.url(1)) as other,
    ):
        running(query.start(LONG_SELECT.format("history")))
        cluster.plan([query.id], query=True, reason="first a look")
        cluster.kill([query.id, session.id, NOBODY], query=True, reason="then the kill")
        other.kill([session.id])
        cluster.kill([2**63 + 1])
        cluster.plan(user="nobody-of-that-name")
    history = cluster.history()
    assert isinstance(history, History)
    assert list(history.columns) == ["TIME", "CLUSTER", "ASKED", "WHY", *COLUMNS]
    added = history.iloc[before:]
    main, elsewhere = (f"root@127.0.0.1:{playground.port(at)}" for at in (0, 1))
    assert added[["CLUSTER", "ASKED", "WHY", "OUTCOME"]].to_numpy().tolist() == [
        [main, "plan", "first a look", "planned"],
        [main, "kill", "then the kill", "interrupted"],
        [main, "kill", "then the kill", "refused"],
        [main, "kill", "then the kill", "already gone"],
        [elsewhere, "kill", "", "killed"],
        [main, "kill", "", "already gone"],
    ]
    assert added["ID"].tolist()[:-1] == [query.id, query.id, session.id, NOBODY, session.id]
    assert pd.isna(added["ID"].iloc[-1])
    assert f"{2**63 + 1}: no session has this id" in added["REASON"].iloc[-1]
    assert added["INFO"].iloc[0] == LONG_SELECT.format("history")
    assert added["TIME"].is_monotonic_increasing
    assert (added["TIME"] >= began).all()
    assert (added["TIME"] <= datetime.now().astimezone()).all()
    assert str(history["TIME"].dtype).startswith("datetime64[us, ")
    assert (str(history["ID"].dtype), str(history["SECONDS"].dtype)) == ("Int64", "Float64")
    assert repr(history).endswith(f"\n{len(history):,} rows.")


def test_a_large_plan_does_not_push_kills_out_of_the_history(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PLANS", deque(audit.PLANS, maxlen=3))
    monkeypatch.setattr(reports, "PLANS", audit.PLANS)
    cluster.kill([NOBODY], reason="is kept")
    cluster.plan([NOBODY + 2 * number for number in range(5)], reason="a large one")
    kept = cluster.history()
    assert (kept["WHY"] == "is kept").sum() == 1
    assert (kept["WHY"] == "a large one").sum() == 3


def test_the_history_is_there_without_a_connection(
    playground: Playground, shell: InteractiveShell, every_statement: list[str]
) -> None:
    shell.run_line_magic("tidb_connect", playground.url(0))
    shell.run_line_magic("tidb_kill", f"QUERY {NOBODY} --reason 'kept for later'")
    shell.run_line_magic("unload_ext", "tidb_magic")
    shell.run_line_magic("load_ext", "tidb_magic")
    del every_statement[:]
    history = shell.run_line_magic("tidb_ps", "--history")
    assert isinstance(history, History)
    last = history.iloc[-1]
    assert (last["ASKED"], last["WHY"], last["OUTCOME"]) == ("kill", "kept for later", "already gone")
    assert last["STATEMENT"] == f"KILL TIDB QUERY {NOBODY}"
    assert every_statement == []


@pytest.mark.parametrize(
    "option",
    [
        *(f"{name} x" for name in ("--user", "--host", "--db", "--instance", "--command", "--match", "--where")),
        *("--min-time 0", "--idle", "--sort TIME", "--limit 5", "--full", "--by USER", "--instances"),
    ],
)
def test_no_other_option_goes_with_the_history(shell: InteractiveShell, option: str) -> None:
    for line in (f"--history {option}", f"{option} --history"):
        with pytest.raises(UsageError, match="--history does not go with " + option.partition(" ")[0]) as refused:
            shell.run_line_magic("tidb_ps", line)
        assert "\n" not in str(refused.value)


def test_what_is_changed_in_a_history_stays_out_of_the_next_one(cluster: Cluster) -> None:
    cluster.plan([NOBODY], reason="as it was")
    taken = cluster.history()
    taken["WHY"] = "forged"
    taken["OUTCOME"] = "killed"
    assert cluster.history()["WHY"].iloc[-1] == "as it was"


def test_an_interrupted_kill_is_in_the_history_and_in_the_file_as_unconfirmed(
    playground: Playground, cluster: Cluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(playground, 1) as client:
        press_ctrl_c_after_send(monkeypatch)
        with pytest.raises(Interrupted, match=f"KILL TIDB CONNECTION {client.id} was sent"):
            cluster.kill([client.id], reason="too late")
        monkeypatch.undo()
        last = cluster.history().iloc[-1]
        assert (last["ID"], last["ASKED"], last["WHY"]) == (client.id, "kill", "too late")
        assert (last["OUTCOME"], last["REASON"]) == ("unconfirmed", "interrupted before its effect was observed")
        told = [(line["event"], line.get("outcome")) for line in lines(file)]
        assert told == [("sending", None), ("outcome", "unconfirmed")]
        eventually(no_thread_of_ours_is_left)


def test_what_was_not_sent_before_ctrl_c_is_in_neither(
    playground: Playground, cluster: Cluster, file: Path, monkeypatch: pytest.MonkeyPatch, every_statement: list[str]
) -> None:
    sending = Audit.sending

    def interrupted(self: Audit, targets: Any) -> None:
        press_ctrl_c()
        threading.Event().wait(0.2)
        sending(self, targets)

    before = len(cluster.history())
    with Client(playground, 1) as client:
        monkeypatch.setattr(Audit, "sending", interrupted)
        with pytest.raises(Interrupted, match=f"Nothing was sent for {client.id}"):
            cluster.kill([client.id])
        monkeypatch.undo()
        eventually(no_thread_of_ours_is_left)
        assert len(cluster.history()) == before
        assert "outcome" not in events(file)
        assert kills(every_statement) == []
        assert client.alive()
