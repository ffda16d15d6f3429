"""What is typed behind %tidb_kill and %%tidb_kill, from the line to the session that it means."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from tests.clients import LONG_SELECT, Client
from tests.kill.test_identity import kills
from tidb_magic import KillReport
from tidb_magic.errors import ConnectionIdError
from tidb_magic.kill.resolve import targets
from tidb_magic.notebook.arguments import (
    FILTERS,
    Parser,
    connect_parser,
    kill_cell,
    kill_parser,
    kill_targets,
    ps_parser,
)
from tidb_magic.playground import Playground

if TYPE_CHECKING:
    from tidb_magic.cluster.pool import Pool

NOBODY, NEITHER = 2097158, 2097160  # no server has id 1 and so many connections

TEXTS = sorted(FILTERS - {"min_time", "mine", "orphans", "idle"})


def kill(shell: InteractiveShell, line: str) -> KillReport:
    report = shell.run_line_magic("tidb_kill", line)
    assert isinstance(report, KillReport)
    return report


def kill_all(shell: InteractiveShell, cell: str, line: str = "") -> KillReport:
    """Run a cell of KILL statements."""
    report = shell.run_cell_magic("tidb_kill", line, cell)
    assert isinstance(report, KillReport)
    return report


def refused(run: Callable[[], object]) -> str:
    """Return what a UsageError says, which is one line."""
    with pytest.raises(UsageError) as error:
        run()
    said = str(error.value)
    assert "\n" not in said
    assert re.fullmatch(r"(%{1,2}tidb_kill): .* \1\? shows the help\.", said)
    return said


@pytest.fixture
def idle(playground: Playground) -> Any:
    """A session that whoever gets it wrong would hit."""
    with Client(playground, 1) as client:
        yield client
        assert client.alive()


# -- words and options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["--yes QUERY {0}", "QUERY --yes {0}", "QUERY {0} --yes", "--yes KILL TIDB QUERY {0}", "query {0} --yes --force"],
)
def test_yes_is_a_flag_that_takes_no_value(connected: InteractiveShell, line: str) -> None:
    assert list(kill(connected, line.format(NOBODY))["STATEMENT"]) == [f"KILL TIDB QUERY {NOBODY}"]


def test_yes_before_the_id_of_an_idle_session_is_a_kill_of_its_statement_only(
    connected: InteractiveShell, idle: Client
) -> None:
    (reason,) = kill(connected, f"--yes QUERY {idle.id}")["REASON"]
    assert "runs no statement now" in reason


@pytest.mark.parametrize(
    "line",
    [
        "@ --user root",
        "QUERY --match x @ --yes",
        "@ --idle",
        "--min-time 0 @",
        "--from rows @",
        "@ --from rows --yes",
        "{rows} --from rows",
        "--from rows --user root --yes",
        "--from rows --idle",
        "--from rows --where 1 --yes",
    ],
)
def test_ids_and_filters_and_rows_exclude_each_other(
    connected: InteractiveShell, idle: Client, every_statement: list[str], line: str
) -> None:
    connected.user_ns["rows"] = pd.DataFrame({"ID": [idle.id]})
    assert "exactly one of these" in refused(lambda: kill(connected, line.replace("@", str(idle.id))))
    assert kills(every_statement) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--yes --dry-run @", "--yes does not go with --dry-run"),
        ("--dry-run --user root --yes", "--yes does not go with --dry-run"),
        ("--from rows --yes --dry-run", "--yes does not go with --dry-run"),
        ("--yes=1 @", "ignored explicit argument '1'"),
        ("--yes", "give ids, --from or filters"),
        ("QUERY --yes", "give ids, --from or filters"),
        ("--from '' --yes", "give ids, --from or filters"),
        ("--from nosuch --yes", "--from: there is no variable 'nosuch'"),
        ("--from rows.ID --yes", "--from: there is no variable 'rows.ID'"),
        ("--from {rows} --yes", "--from: there is no variable '{rows}'"),
        ("--user root --limit 1 --yes", "unrecognized arguments: --limit"),
        ("--user root --sort TIME --yes", "unrecognized arguments: --sort"),
        ("--user root --full --yes", "unrecognized arguments: --full"),
        ("--user", "argument --user: expected one argument"),
        ("--user --yes", "argument --user: expected one argument"),
        ("--min-time soon --yes", "argument --min-time: invalid float value: 'soon'"),
        ("--min-time -1 --yes", "--min-time is a number of seconds from 0 on"),
        ("--min-time nan --yes", "--min-time is a number of seconds from 0 on"),
        ("--min-time inf --yes", "--min-time is a number of seconds from 0 on"),
        ("--max-victims 1.5 @", "argument --max-victims: invalid int value"),
        ("--max-victims 0 @", "--max-victims must be a whole number of 1 or more"),
        ("--max-victims -1 @", "--max-victims must be a whole number of 1 or more"),
        ("--timeout '' @", "argument --timeout: '' is not a number of seconds"),
        ("--timeout 1e9 @", "argument --timeout"),
        ("--match ( --yes", "--match: TiDB does not accept the pattern '('"),
        ("--where 'NOSUCH = 1' --yes", "--where: TiDB does not accept the condition"),
        ("--user root --where 'ID = @) OR (1' --yes", "--where: TiDB does not accept the condition"),
        ("CONNECTION QUERY @", "found 'QUERY'"),
        ("QUERY TIDB @", "found 'TIDB'"),
        ("ALL", "found 'ALL'"),
        ("@;@", "digits only"),
        ("0x10 @", "found '0x10'"),
        ("+5 @", "found '+5'"),
        ("5_0 @", "found '5_0'"),
        ("'@ 5'", "digits only"),
        ("\u0665 @", "found '\u0665'"),  # an Arabic five
        ("@ \ue0000", "digits only"),  # what stands for braces inside
        ("CONNECTION_ID()", "found 'CONNECTION_ID()'"),
        ("@ -y", "unrecognized arguments: -y"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_sent(
    connected: InteractiveShell, idle: Client, every_statement: list[str], line: str, says: str
) -> None:
    connected.user_ns["rows"] = pd.DataFrame({"ID": [idle.id]})
    assert says in refused(lambda: kill(connected, line.replace("@", str(idle.id))))
    assert kills(every_statement) == []


def test_a_mistake_does_not_spoil_the_next_line(connected: InteractiveShell) -> None:
    for wrong in ("--us root", f"{NOBODY} --user root", "--user a --user b", f"--timeout 0 {NOBODY}"):
        refused(lambda: kill(connected, wrong))  # noqa: B023 (called at once)
    assert list(kill(connected, f"QUERY {NOBODY}")["STATEMENT"]) == [f"KILL TIDB QUERY {NOBODY}"]


@pytest.mark.parametrize("option", TEXTS)
def test_an_empty_value_is_no_filter(connected: InteractiveShell, every_statement: list[str], option: str) -> None:
    for value in (" ''", " ' '", ' "\t"', "="):
        for yes in ("", " --yes"):
            said = refused(lambda: kill(connected, f"--{option}{value}{yes}"))  # noqa: B023 (called at once)
            assert f"--{option} is empty" in said
    assert kills(every_statement) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, "root") for option in TEXTS),
        ("min-time", "60"),
        ("from", "rows"),
        ("timeout", "5"),
        ("max-victims", "7"),
        ("reason", "x"),
    ],
)
def test_an_option_that_is_given_twice_is_a_mistake(
    connected: InteractiveShell, every_statement: list[str], option: str, value: str
) -> None:
    said = refused(lambda: kill(connected, f"--{option} {value} --yes --{option}={value}"))
    assert f"--{option} is given twice" in said
    assert kills(every_statement) == []


@pytest.mark.parametrize(
    "line", ["--us root --yes", "--dry @", "--dry-ru @", "--fr rows --yes", "--max 3 @", "--time 5 @", "--forc @"]
)
def test_options_are_not_abbreviated(
    connected: InteractiveShell, idle: Client, every_statement: list[str], line: str
) -> None:
    connected.user_ns["rows"] = pd.DataFrame({"ID": [idle.id]})
    assert "unrecognized arguments: --" in refused(lambda: kill(connected, line.replace("@", str(idle.id))))
    assert kills(every_statement) == []


PARSERS = [ps_parser(), kill_parser(), connect_parser()]


@pytest.mark.parametrize(
    ("parser", "line", "says"),
    [
        (ps_parser(), "--idl", "--idl. Did you mean --idle? %tidb_ps? shows"),
        (ps_parser(), "--usr=ann --idle", "--usr=ann. Did you mean --user? %tidb_ps? shows"),
        (ps_parser(), "-idle", "-idle. Did you mean --idle? %tidb_ps? shows"),
        (ps_parser(), "--IDLE", "--IDLE. Did you mean --idle? %tidb_ps? shows"),
        (ps_parser(), "--lock --instnaces --lock", "Did you mean --locks and --instances? %tidb_ps? shows"),
        (kill_parser(), "5 --dryrun", "--dryrun. Did you mean --dry-run? %tidb_kill? shows"),
        (kill_parser(), "--max_victims 3 5", "--max_victims. Did you mean --max-victims? %tidb_kill? shows"),
        (connect_parser(), "prod --clos", "--clos. Did you mean --close? %tidb_connect? shows"),
        (
            connect_parser(),
            "a mysql://joe:planted-s3cret@b --aliass",
            "mysql://...@b --aliass. Did you mean --alias? %tidb_connect? shows",
        ),
        (connect_parser(), "prod --aliass=joe:planted-s3cret@b", "Did you mean --alias? %tidb_connect? shows"),
        (ps_parser(), "everything", "everything. %tidb_ps? shows"),
        (ps_parser(), "idl", "idl. %tidb_ps? shows"),
        (ps_parser(), "--sorting-order", "--sorting-order. %tidb_ps? shows"),
        (kill_parser(), "5 --sort", "--sort. %tidb_kill? shows"),  # and not --host
        (kill_parser(), "5 -y", "-y. %tidb_kill? shows"),
    ],
)
def test_an_unknown_option_names_the_nearest_one_if_one_is_near(parser: Parser, line: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        parser.parse(line)
    assert "unrecognized arguments: " in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_an_option_with_a_slip_names_itself(parser: Parser) -> None:
    for option in parser.options:
        with pytest.raises(UsageError, match=rf"Did you mean {option}\?"):
            parser.parse(f"{option}x")


@pytest.mark.parametrize("yes", ["", " --yes"])
@pytest.mark.parametrize(
    "line", ["--idle", "--where 1", "--where 'ID > 0' --idle", "--min-time 0", "--match .* --idle", "QUERY --match ."]
)
def test_a_filter_that_narrows_nothing_is_a_mistake(
    connected: InteractiveShell, idle: Client, every_statement: list[str], line: str, yes: str
) -> None:
    assert "These filters match every session" in refused(lambda: kill(connected, line + yes))
    assert kills(every_statement) == []


# -- braces ----------------------------------------------------------------------------------------------------


@pytest.fixture
def three(playground: Playground, connected: InteractiveShell) -> Any:
    """Three idle sessions, and variables with the ids of the last two."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(playground, at)) for at in range(3)]
        ids = [client.id for client in clients[1:]]
        connected.user_ns |= {
            "x": ids[0],
            "text": str(ids[0]),
            "ids": ids,
            "df": pd.DataFrame({"ID": pd.array(ids, dtype="Int64"), "USER": ["a", "b"]}),
            "array": np.array(ids, dtype="uint64"),
            "np": np,
            "pd": pd,
        }
        yield clients
        assert all(client.alive() for client in clients)


def plans(report: KillReport) -> list[int]:
    assert set(report["OUTCOME"]) == {"planned"}
    return [int(number) for number in report["ID"]]


ONE = [
    "{x}",
    "{ x }",
    "{text}",
    "{ids[0]}",
    "{{'a': x}['a']}",
    '{{"a b": x, "}": 5}["a b"]}',
    "{df.ID.iloc[0]}",
    "{df['ID'].iloc[0]}",
    "{df.iloc[0].ID}",
    "{df.ID[:1]}",
    "{df.ID[df.USER == 'a']}",
    "{df.query(\"USER == 'a'\").ID}",
    "{array[0]}",
    "{array[:1]}",
    "{np.int64(x)}",
    "{[n for n in ids if n == x]}",
]
SEVERAL = [
    "{ids}",
    "{tuple(ids)}",
    "{(n for n in ids)}",
    "{map(str, ids)}",
    "{df.ID}",
    "{df.ID.values}",
    "{df.ID.to_numpy()}",
    "{df.ID.astype(object)}",
    "{pd.Index(ids)}",
    "{df.set_index('ID').index}",
    "{array}",
    "{x} {ids[1]}",
    "{array[:1]} {df.ID[1:]}",
    "{ids[:1]} {array[1]}",
]


@pytest.mark.parametrize("typed", [*ONE, *SEVERAL])
def test_each_id_in_braces_is_taken_as_it_is_alone_and_beside_others(
    connected: InteractiveShell, three: list[Client], typed: str
) -> None:
    """An id and an array beside each other are two ids: once they were added."""
    first, *others = (client.id for client in three)
    meant = others[:1] if typed in ONE else others
    assert plans(kill(connected, f"--dry-run {typed}")) == meant
    assert plans(kill(connected, f"{first} {typed} --dry-run")) == [first, *meant]
    assert plans(kill(connected, f"--dry-run {typed} {first}")) == [*meant, first]


@pytest.mark.parametrize("typed", ["{df}", "{df[df.USER > '']}", "{df[['ID']]}"])
def test_a_frame_in_braces_is_its_rows_and_stands_alone(
    connected: InteractiveShell, three: list[Client], every_statement: list[str], typed: str
) -> None:
    connected.user_ns["df"] = connected.user_ns["df"].assign(USER="root")
    assert plans(kill(connected, f"--dry-run {typed}")) == [client.id for client in three[1:]]
    for line in (f"{three[0].id} {typed}", f"{typed} {{x}}", f"{typed} {typed}", f"{{ids}} {typed}"):
        assert "a frame in braces must be the only argument" in refused(lambda: kill(connected, line))  # noqa: B023
    assert kills(every_statement) == []


def test_what_was_seen_in_a_frame_in_braces_must_hold_still(connected: InteractiveShell, three: list[Client]) -> None:
    report = kill(connected, "{df}")  # whose USER is another one
    assert list(report["OUTCOME"]) == ["changed"] * 2
    assert report["REASON"][0] == "its USER was 'a' and is 'root'"


@pytest.mark.parametrize(
    "typed",
    [
        "{dict.fromkeys(ids)}",
        "{{x: 1}}",
        "{5.0}",
        "{float(x)}",
        "{np.float64(x)}",
        "{df.ID.astype(float)}",
        "{df.ID.astype(float).iloc[0]}",
        "{array.astype(float)}",
        "{df.astype({'ID': float})}",
        "{True}",
        "{df.ID == x}",
        "{None}",
        "{df.USER}",
        "{text + ' 5'}",
        "{[ids]}",
        "{[df]}",
        "{array.reshape(2, 1)}",
        "{array.reshape(1, 2)}",
        "{[array[:1], x]}",
        "{[x, array]}",
        "{np.array(x)}",
        "{df.ID.shift()}",
        "{-x}",
        "{2**64}",
        "{x, 2.0}",
        "{pd.NA}",
        "{b'57'}",
    ],
)
def test_what_is_no_id_in_braces_is_refused_in_one_line_and_nothing_is_sent(
    connected: InteractiveShell, three: list[Client], every_statement: list[str], typed: str
) -> None:
    for line in (typed, f"{three[0].id} {typed}", f"{typed} {three[0].id}"):
        if "df.astype" in typed and line != typed:
            continue  # a frame stands alone
        with pytest.raises(ConnectionIdError) as error:
            kill(connected, line)
        assert "\n" not in str(error.value)
    assert kills(every_statement) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{nosuch}", "{nosuch}: NameError: name 'nosuch' is not defined"),
        ("{1 / 0}", "{1 / 0}: ZeroDivisionError"),
        ("{df.NOSUCH}", "AttributeError"),
        ("{ids[9]}", "IndexError"),
        ("{}", "not an expression in braces"),
        ("{ }", "not an expression in braces"),
        ("{x", "not an expression in braces: {x"),
        ("{x y}", "not an expression in braces: {x y}"),
        ("{x = 5}", "not an expression in braces"),
        ("{import os}", "not an expression in braces"),
        ("{x!r}", "not an expression in braces"),
        ("{x}{x}", "not an expression in braces"),
        ("{x}5", "not an expression in braces"),
        ("{\0}", "not an expression in braces"),
        ("5{x}", "found '5{x}'"),
        ("'{x}'", "found '{x}'"),
        ("x}", "found 'x}'"),
        ("$x", "found '$x'"),
        ("x", "found 'x'"),
    ],
)
def test_a_bad_expression_in_braces_is_one_line_and_nothing_is_sent(
    connected: InteractiveShell, three: list[Client], every_statement: list[str], line: str, says: str
) -> None:
    assert says in refused(lambda: kill(connected, line))
    assert says in refused(lambda: kill(connected, f"{three[0].id} {line}"))
    assert kills(every_statement) == []


def test_a_name_in_braces_is_the_one_of_the_function_that_it_stands_in(
    connected: InteractiveShell, three: list[Client]
) -> None:
    first, second, third = (client.id for client in three)
    connected.user_ns |= {"number": first, "rows": pd.DataFrame({"ID": [first]})}
    code = """
def plan(number, rows, several):
    one = %tidb_kill --dry-run {number} {[n for n in several if n != number]}
    many = %tidb_kill --dry-run --from rows
    return one, many
"""
    connected.run_cell(code).raise_error()
    one, many = connected.user_ns["plan"](second, pd.DataFrame({"ID": [third]}), [second, third])
    assert plans(one) == [second, third]
    assert plans(many) == [third]
    assert plans(kill(connected, "--dry-run {number}")) == [first]


@pytest.mark.parametrize("quoted", ["'xa{2}b'", "xa{2}b", '"xa{2}b"', "'x(?:a){2}b'"])
def test_braces_in_the_value_of_an_option_reach_tidb_as_typed(
    playground: Playground, connected: InteractiveShell, running: Any, quoted: str
) -> None:
    with Client(playground, 1) as meant, Client(playground, 1) as other:
        running(meant.start(LONG_SELECT.format("xaab")))
        running(other.start(LONG_SELECT.format("xa2b")))
        for line in (f"--match {quoted}", f"--match={quoted}", f"QUERY --match {quoted}"):
            assert plans(kill(connected, f"{line} --dry-run")) == [meant.id]


def test_variables_are_not_put_into_the_values_of_options(
    playground: Playground, connected: InteractiveShell, running: Any
) -> None:
    connected.user_ns["x"] = "another"
    with Client(playground, 1) as meant:
        running(meant.start(LONG_SELECT.format("{x} $x")))
        line = "--where \"INFO LIKE '%/* {x} $x */%' AND INFO NOT LIKE '%CLUSTER_%'\" --reason '{x} of $x' --dry-run"
        report = kill(connected, line)
        assert plans(report) == [meant.id]
        history = connected.run_line_magic("tidb_ps", "--history")
        assert history["WHY"].iloc[-1] == "{x} of $x"


# -- a plan, and the line that carries it out ------------------------------------------------------------------


def the_line(report: KillReport) -> str:
    (line,) = (match[1] for one in report.remarks if (match := re.search(r"To send it: (%tidb_kill .*)$", one)))
    return str(line)


@pytest.mark.parametrize(
    "line",
    [
        "--match 'carried  out'",
        "QUERY --match 'carried  out' --timeout 5",
        "--user root --where \"INFO LIKE '%carried  out%' AND INFO NOT LIKE '%CLUSTER_%'\"",
        "  CONNECTION --match 'carried {2}out'  ",
        "--match 'carried  out' --reason 'it''s \"late\"'",
        "--from rows",
        "QUERY --from rows",
        "--from ids",
        "--from number --max-victims 1",
    ],
)
def test_filters_and_rows_only_plan_and_the_remark_has_the_line_that_carries_it_out(
    playground: Playground, connected: InteractiveShell, running: Any, every_statement: list[str], line: str
) -> None:
    with Client(playground, 1) as client:
        running(client.start(LONG_SELECT.format("carried  out")), aged=True)
        listed = connected.run_line_magic("tidb_ps", "--match 'carried  out'")  # our own statement, too
        rows = listed[listed["ID"] == client.id]
        connected.user_ns |= {"rows": rows, "ids": rows["ID"], "number": client.id}
        report = kill(connected, line)
        assert plans(report) == [client.id]
        assert any(remark.startswith("Nothing was sent.") for remark in report.remarks)
        assert the_line(report) in repr(report)
        assert kills(every_statement) == []
        done = connected.run_cell(the_line(report))
        done.raise_error()
        assert list(done.result["OUTCOME"]) == ["interrupted" if "QUERY" in line else "killed"]
        assert len(kills(every_statement)) == 1
        assert not any("To send it" in one for one in done.result.remarks)


def test_a_dry_run_and_a_plan_that_may_send_nothing_offer_no_line(
    playground: Playground, connected: InteractiveShell, idle: Client
) -> None:
    connected.user_ns["rows"] = [idle.id]
    for line in ("QUERY --from rows", "--user nobody-of-that-name", f"--dry-run {idle.id}", "--from rows --dry-run"):
        assert not any("--yes" in remark for remark in kill(connected, line).remarks)


def test_ids_act_at_once(playground: Playground, connected: InteractiveShell, every_statement: list[str]) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(playground, at)) for at in range(3)]
        connected.user_ns["ids"] = [client.id for client in clients[1:]]
        report = kill(connected, f"{clients[0].id} {{ids}}")
        assert list(report["OUTCOME"]) == ["killed"] * 3
        assert list(report["ID"]) == [client.id for client in clients]
        assert len(kills(every_statement)) == 3


# -- a cell ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "KILL {0}\nKILL QUERY {1}\nKILL TIDB CONNECTION {2}",
        "KILL {0}; KILL QUERY {1}; KILL TIDB CONNECTION {2};",
        "\n\n  kill {0};\n;;\n\tkill query {1}\n\nKill TiDB Connection {2}\n\n",
        "-- late\nKILL {0} # the first; KILL 5\n/* KILL 6;\n */ KILL QUERY {1}; KILL TIDB CONNECTION {2} -- last",
        "KILL {0};\r\nKILL QUERY {1}\r\nKILL TIDB CONNECTION {2}\r\n",
        "KILL\n  {0}\nKILL QUERY /* x */ {1}; KILL /*T! TIDB */ CONNECTION {2}",
    ],
)
def test_a_cell_holds_a_statement_a_line_or_several_by_semicolons(connected: InteractiveShell, cell: str) -> None:
    ids = (NOBODY, NEITHER, NOBODY + 4)
    report = kill_all(connected, cell.format(*ids))
    assert list(report["STATEMENT"]) == [
        f"KILL TIDB CONNECTION {ids[0]}",
        f"KILL TIDB QUERY {ids[1]}",
        f"KILL TIDB CONNECTION {ids[2]}",
    ]
    assert list(report["OUTCOME"]) == ["already gone"] * 3


def test_a_cell_acts_at_once_and_each_statement_does_what_it_says(
    playground: Playground, connected: InteractiveShell, running: Any
) -> None:
    with Client(playground, 1) as query, Client(playground, 2) as session:
        running(query.start(LONG_SELECT.format("a cell")))
        report = kill_all(connected, f"KILL QUERY {query.id};\nKILL {session.id}\n")
        assert list(report["OUTCOME"]) == ["interrupted", "killed"]
        query.result()
        assert query.alive()
        assert not session.alive()


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("end", [";", ";\n", " ; -- done", ""])
def test_a_cell_that_ends_with_a_semicolon_returns_its_report(
    connected: InteractiveShell, end: str, store: bool
) -> None:
    done = connected.run_cell(f"%%tidb_kill --dry-run\nKILL {NOBODY}{end}", store_history=store)
    done.raise_error()
    assert isinstance(done.result, KillReport)
    assert list(done.result["ID"]) == [NOBODY]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("KILL @\nKILL QUERY x\n", "found 'x' (line 2, column 12)"),
        ("KIL 5\nKILL @", "Expected KILL, found 'KIL' (line 1, column 1)"),
        ("\n\n  KILL @;\n  KILL QUERY\n", "found the end"),
        ("KILL @; SELECT 1", "Expected KILL, found 'SELECT' (line 1, column "),
        ("KILL @ KILL 5", "(one id a statement)"),
        ("KILL @, 5", "found ','"),
        ("KILL @\r\n\tKIL 5", "found 'KIL' (line 2, column 2)"),
        ("/* one\ntwo */ KILL @\nKILL 5.0", "found '.' (line 3, column 7)"),
        ("KILL @\nKILL {rows}", "found '{' (line 2, column 6)"),
        (f"KILL @\nKILL {2**64}", "between 0 and 2^64 - 1"),
        ("KILL @\nKILL -1", "found '-' (line 2, column 6)"),
        ("KILL @\n--dry-run", "(line 2, column 1)"),
        ("@", "Expected KILL"),
    ],
)
def test_a_mistake_in_one_statement_of_a_cell_names_its_place_and_sends_nothing(
    connected: InteractiveShell, idle: Client, every_statement: list[str], cell: str, says: str
) -> None:
    said = refused(lambda: kill_all(connected, cell.replace("@", str(idle.id))))
    assert says in said
    assert "nothing was sent" in said
    assert re.search(r"\(line \d+, column \d+\)", said)
    assert kills(every_statement) == []


@pytest.mark.parametrize("cell", ["\n", "  \n;\n", "-- KILL 5\n", "/* KILL 5 */;"])
def test_a_cell_without_a_kill_says_so(connected: InteractiveShell, cell: str) -> None:
    assert "the cell contains no KILL" in refused(lambda: kill_all(connected, cell))


def test_the_options_of_a_cell_stand_above_it(
    playground: Playground, connected: InteractiveShell, idle: Client, every_statement: list[str]
) -> None:
    with Client(playground, 2) as second:
        cell = f"KILL {idle.id}\nKILL {second.id}"
        assert plans(kill_all(connected, cell, "--dry-run --timeout 5 --force")) == [idle.id, second.id]
        report = kill_all(connected, cell, "--max-victims 1")
        assert plans(report) == [idle.id, second.id]
        assert "2 are more than max_victims (1)" in repr(report)
        assert kills(every_statement) == []
        kill_all(connected, f"KILL {NOBODY}", "--reason 'ticket 5'")
        assert connected.run_line_magic("tidb_ps", "--history")["WHY"].iloc[-1] == "ticket 5"
        assert second.alive()


def test_variables_are_not_put_into_the_options_of_a_cell(connected: InteractiveShell) -> None:
    connected.user_ns["x"] = "another"
    kill_all(connected, f"KILL {NOBODY}", "--reason '{x} of $x'")
    assert connected.run_line_magic("tidb_ps", "--history")["WHY"].iloc[-1] == "{x} of $x"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("5", "the cell contains the targets: an id is not allowed here"),
        ("QUERY", "the cell contains the targets"),
        ("{idle}", "the cell contains the targets"),
        ("--from rows", "the cell contains the targets: --from is not allowed here"),
        *((f"--{option} root", f"the cell contains the targets: --{option} is not allowed here") for option in TEXTS),
        ("--min-time 0", "the cell contains the targets: --min-time is not allowed here"),
        ("--idle", "the cell contains the targets: --idle is not allowed here"),
        ("--mine", "the cell contains the targets: --mine is not allowed here"),
        ("--yes", "the cell contains the targets: --yes is not allowed here"),
        ("--dry", "unrecognized arguments: --dry"),
        ("--timeout 0", "number of seconds above 0"),
        ("--max-victims 0", "--max-victims must be a whole number of 1 or more"),
        ("--timeout 5 --timeout 5", "--timeout is given twice"),
    ],
)
def test_above_a_cell_nobody_is_named_and_no_mistake_is_made(
    connected: InteractiveShell, idle: Client, every_statement: list[str], line: str, says: str
) -> None:
    connected.user_ns |= {"rows": [idle.id], "idle": idle.id}
    assert says in refused(lambda: kill_all(connected, f"KILL {idle.id}", line))
    assert kills(every_statement) == []


# -- three ways to say the same --------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8)


def meant(victims: Sequence[Any], *, query: bool = False) -> list[str]:
    """Return what is sent for these."""
    return [one.statement.sql for one in targets(victims, cast("Pool", None), query=query)]


def typed(line: str, **names: object) -> list[str]:
    """Return what a line means, without any cluster."""
    expanded, values = kill_parser().expand(line, lambda text: eval(text, names))
    query, ids = kill_targets(kill_parser().parse(expanded).words, values)
    return meant(ids, query=query)


HELD = [
    list,
    tuple,
    pd.Index,
    lambda ids: [str(number) for number in ids],
    lambda ids: np.array(ids, dtype="uint64"),
    lambda ids: pd.Series(ids, dtype="UInt64"),
    lambda ids: pd.Series(ids, dtype=object),
    lambda ids: pd.DataFrame({"ID": pd.array(ids, dtype="UInt64")}).ID,
]


@given(IDS, st.booleans(), st.booleans(), st.sampled_from([" ", "  ", "\t"]), st.sampled_from(HELD), st.data())
def test_ids_mean_the_same_in_a_line_in_a_cell_and_in_braces(
    ids: list[int], query: bool, in_full: bool, gap: str, held: Callable[[list[int]], Any], data: st.DataObject
) -> None:
    words = [*(["KILL", "TIDB"] if in_full else []), *(["QUERY"] if query else ["CONNECTION"] if in_full else [])]
    sql = [f"KILL TIDB {'QUERY' if query else 'CONNECTION'} {number}" for number in ids]
    cut = data.draw(st.integers(0, len(ids)))
    scope = " ".join(one for one in words if one != "KILL")
    assert typed(gap.join([*words, *map(str, ids)])) == sql
    assert typed(gap.join([*words, "{x}"]), x=held(ids)) == sql
    assert typed(gap.join([*words, *map(str, ids[:cut]), "{x}"]), x=held(ids[cut:])) == sql
    assert typed(gap.join([*words, "{x}", *map(str, ids[cut:])]), x=held(ids[:cut])) == sql
    assert typed(gap.join([*words, *(f"{{x[{at}]}}" for at in range(len(ids)))]), x=ids) == sql
    for end in ("\n", ";", ";\n", "; -- x\n"):
        assert meant(kill_cell(end.join(f"KILL {scope} {number}" for number in ids))) == sql


def test_ids_mean_the_same_in_a_line_in_a_cell_and_in_braces_on_a_real_cluster(connected: InteractiveShell) -> None:
    ids = [NOBODY, 77595112, NEITHER, 2, 2**63 + 1, NOBODY]
    connected.user_ns["ids"] = ids
    line = kill(connected, f"--dry-run QUERY {' '.join(map(str, ids))}")
    braces = kill(connected, "--dry-run QUERY {ids}")
    cell = kill_all(connected, "\n".join(f"KILL QUERY {number}" for number in ids), "--dry-run")
    once = [f"KILL TIDB QUERY {number}" for number in ids[:-1]]
    assert list(line["STATEMENT"]) == list(braces["STATEMENT"]) == list(cell["STATEMENT"]) == once


@given(st.text())
@example("\ue0000")
@example("5 \ue0001")
@example("{\0}")
@example("{" + "(" * 300 + "}")
@example("{\ud800}")
def test_any_line_is_read_or_refused_in_one_line(line: str) -> None:
    try:
        typed(line)
    except (UsageError, ConnectionIdError) as error:
        assert "\n" not in str(error)  # noqa: PT017 (most lines are refused, some are read)


@given(st.text())
def test_any_cell_is_read_or_refused_in_one_line(cell: str) -> None:
    try:
        kill_cell(cell)
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017
