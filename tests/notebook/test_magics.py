"""The magics, typed into a real shell, and loading without weight."""

import subprocess
import sys

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from tests.clients import LONG_SELECT, Client
from tidb_magic import Cluster, KillReport, ProcessList
from tidb_magic.errors import NotConnectedError, SettingsError
from tidb_magic.playground import Playground

MAGICS = ("tidb_connect", "tidb_ps", "tidb_kill")


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys, tidb_magic;"
        "from IPython.core.interactiveshell import InteractiveShell as S;"
        "S.instance().run_line_magic('load_ext', 'tidb_magic');"
        "print([m for m in ('pandas', 'pymysql', 'ipywidgets', 'anywidget', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_connect_list_kill_as_typed(connected: InteractiveShell, playground: Playground, running: object) -> None:
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("typed")))  # type: ignore[operator]
        assert isinstance(connected.run_line_magic("tidb_connect", ""), Cluster)
        connected.run_cell("df = %tidb_ps --idle", silent=True)
        listed = connected.user_ns["df"]
        assert isinstance(listed, ProcessList)
        assert client.id in set(listed["ID"])
        connected.user_ns["number"] = client.id
        connected.run_cell("report = %tidb_kill QUERY {number}", silent=True)
        report = connected.user_ns["report"]
        assert isinstance(report, KillReport)
        assert list(report["OUTCOME"]) == ["interrupted"]


@pytest.mark.parametrize(
    ("line", "statement"),
    [
        ("{0}", "KILL TIDB CONNECTION {0}"),
        ("CONNECTION {0}", "KILL TIDB CONNECTION {0}"),
        ("query {0}", "KILL TIDB QUERY {0}"),
        ("KILL TIDB QUERY {0}", "KILL TIDB QUERY {0}"),
        ("--timeout 5 QUERY {0}", "KILL TIDB QUERY {0}"),
        ("QUERY {0} --timeout 5", "KILL TIDB QUERY {0}"),
    ],
)
def test_a_kill_is_typed_as_in_sql(connected: InteractiveShell, line: str, statement: str) -> None:
    report = connected.run_line_magic("tidb_kill", "--dry-run " + line.format(12345678))
    assert list(report["STATEMENT"]) == [statement.format(12345678)]


def test_a_semicolon_silences_a_list_and_never_what_became_of_a_kill(connected: InteractiveShell) -> None:
    assert connected.run_line_magic("tidb_ps", "--idle;") is None
    report = connected.run_line_magic("tidb_kill", "KILL QUERY 12345678;")
    assert list(report["OUTCOME"]) == ["already gone"]


def test_several_ids_get_a_row_each_in_their_order(connected: InteractiveShell) -> None:
    report = connected.run_line_magic("tidb_kill", "QUERY 12345680 12345678 12345680")
    assert list(report["ID"]) == [12345680, 12345678]
    assert list(report["OUTCOME"]) == ["already gone"] * 2


@pytest.mark.parametrize(
    ("magic", "line", "says"),
    [
        ("tidb_ps", "--idl", "unrecognized arguments: --idl"),
        ("tidb_ps", "--limit 99999999999999999999", "--limit is a whole number of rows from 1 to 10,000,000, not 9999"),
        ("tidb_ps", "everything", "unrecognized arguments: everything"),
        ("tidb_ps", "'", "no closing quotation"),
        ("tidb_kill", "", "Expected a connection id (digits only), found the end"),
        ("tidb_kill", "QUERY", "Expected a connection id (digits only), found the end"),
        ("tidb_kill", "QUERY 5 all", "found 'all'"),
        ("tidb_kill", "5 QUERY 6", "found 'QUERY'"),
        ("tidb_kill", "5,6", "found '5,6'"),
        ("tidb_kill", "5.0", "found '5.0'"),
        ("tidb_kill", "-1", "found '-1'"),
        ("tidb_kill", "5 --timeout soon", "argument --timeout: 'soon' is not a number of seconds"),
        ("tidb_kill", "5 --timeout 0", "number of seconds above 0"),
        ("tidb_kill", "5 --timeout nan", "number of seconds above 0"),
        ("tidb_kill", f"{2**64}", "between 0 and 2^64 - 1"),
        ("tidb_connect", "mysql://a mysql://b", "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_sent(
    connected: InteractiveShell, magic: str, line: str, says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        connected.run_line_magic(magic, line)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert f"%{magic}? shows the help" in str(refused.value)


def test_a_mistake_beside_a_password_does_not_repeat_it(shell: InteractiveShell) -> None:
    with pytest.raises(UsageError, match=r"unrecognized arguments: mysql://\.\.\.@b") as refused:
        shell.run_line_magic("tidb_connect", "mysql://a mysql://joe:planted-s3cret@b")
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize("magic", ["tidb_ps", "tidb_kill 5", "tidb_connect"])
def test_without_a_connection_the_error_says_what_to_type(shell: InteractiveShell, magic: str) -> None:
    with pytest.raises(NotConnectedError, match="Type: %tidb_connect mysql://user@host:4000"):
        shell.run_line_magic(*magic.partition(" ")[::2])


def test_errors_are_one_line_in_a_notebook(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%xmode Verbose")
    capsys.readouterr()
    shell.run_cell("%tidb_connect mysql://joe:planted-s3cret@127.0.0.1:port")
    shell.run_cell("%tidb_ps")
    shell.run_cell("%xmode Context")
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "Error" in line]
    assert [line.partition(":")[0] for line in lines] == [SettingsError.__name__, NotConnectedError.__name__]
    assert "Traceback" not in said.out + said.err
    assert "planted" not in said.out + said.err


def test_a_failed_connect_keeps_the_connection(connected: InteractiveShell) -> None:
    address = connected.run_line_magic("tidb_connect", "").address
    with pytest.raises(SettingsError, match=f"Still connected to {address}"):
        connected.run_line_magic("tidb_connect", "postgres://db")
    assert connected.run_line_magic("tidb_ps", "").complete


def test_dollars_and_braces_in_a_url_stay_as_typed(shell: InteractiveShell) -> None:
    shell.user_ns["x"] = "other"
    with pytest.raises(SettingsError, match="does not begin with mysql"):
        shell.run_line_magic("tidb_connect", "{x}://$x@db")


@pytest.mark.parametrize("typed", ["$x", "{x}", "{x['a']}"])
def test_what_looks_like_a_variable_where_none_is_expanded_is_said(connected: InteractiveShell, typed: str) -> None:
    connected.user_ns["x"] = "root"
    with pytest.raises(UsageError, match="Variables are not expanded here"):
        connected.run_line_magic("tidb_connect", typed.replace("'", ""))
    said = f"--user {typed} is taken as typed: variables are not expanded here."
    quoted = '"' + typed + '"'
    assert said in connected.run_line_magic("tidb_ps", f"--user {quoted}").remarks
    assert said in connected.run_line_magic("tidb_kill", f"--user {quoted}").remarks


@pytest.mark.parametrize("magic", MAGICS)
def test_every_option_is_in_the_help(shell: InteractiveShell, magic: str) -> None:
    doc = shell.find_magic(magic).__doc__ or ""
    options = {"tidb_ps": ["--idle"], "tidb_kill": ["--dry-run", "--timeout"], "tidb_connect": ["URL", "playground"]}
    assert all(option in doc for option in options[magic])
    assert f"%{magic}" in doc


def test_unloading_leaves_nothing_behind(session_shell: InteractiveShell, playground: Playground) -> None:
    configurables = len(session_shell.configurables)
    for _ in range(2):
        session_shell.run_line_magic("load_ext", "tidb_magic")
        cluster = session_shell.run_line_magic("tidb_connect", playground.url(0))
        session_shell.run_line_magic("unload_ext", "tidb_magic")
        assert not cluster._pool.main.open
        assert len(session_shell.configurables) == configurables
        assert not any(session_shell.find_magic(magic) for magic in MAGICS)
        assert "TidbMagics" not in session_shell.magics_manager.registry
