"""KILL's grammar, beside the real server's."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pymysql
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.clients import Client
from tidb_magic import ConnectionId, KillStatement, parse_kill
from tidb_magic.errors import KillSyntaxError
from tidb_magic.kill.parser import parse_kills
from tidb_magic.playground import Playground

NOBODY = 2097158  # no server has id 1 and so many connections
ACCEPTED = [
    f"KILL {NOBODY}",
    f"kill tidb {NOBODY}",
    f"KILL CONNECTION {NOBODY}",
    f"KILL TIDB CONNECTION {NOBODY}",
    f"Kill Query {NOBODY}",
    f"KILL TIDB QUERY {NOBODY}",
    f"KILL QUERY 000{NOBODY}",
    f"KILL {NOBODY};",
    f"/*c*/ KILL /* * / */ {NOBODY} -- x",
    f"KILL {NOBODY} # x",
    f"KILL\n\tQUERY\r\n{NOBODY}\n;\n",
    f"KILL {2**63}",
    f"KILL {2**64 - 1}",
]
REJECTED = [
    f"KILL {2**64}",
    f"KILL {'9' * 5000}",
    "KILL -1",
    "KILL '3'",
    "KILL 0x10",
    "KILL 1.5",
    "KILL 1e3",
    "KILL @x",
    "KILL (99)",
    "KILL QUERY (99)",
    "KILL 99,101",
    "KILL 99 99",
    "KILL CONNECTION TIDB 99",
    "KILL QUERY CONNECTION_ID()",
    "KILL CONNECTION CONNECTION_ID()",
    "KILL",
    "KILL QUERY",
    "KILL TIDB TIDB 99",
    "KILL 99abc",
    "KILL99",
    "KILL CONNECTION_ID",
    "KILL QUERY all",
    "SELECT 99",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_tidb_accepts_is_parsed(text: str, playground: Playground) -> None:
    parse_kill(text)
    with Client(playground) as client:
        client.query(text)  # raises if it does not


@pytest.mark.parametrize("text", REJECTED)
def test_what_tidb_rejects_is_a_syntax_error(text: str, playground: Playground) -> None:
    with pytest.raises(KillSyntaxError):
        parse_kill(text)
    with Client(playground) as client, pytest.raises(pymysql.Error) as rejected:
        client.query(f"{text} FROM" if text.startswith("SELECT") else text)
    assert rejected.value.args[0] == 1064


@given(
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([" ", "\n", "\t ", "/**/", " /* KILL 1 */ ", " -- x\n"]),
)
def test_a_statement_means_what_it_says(number: int, query: bool, tidb: bool, gap: str) -> None:
    words = ["KILL", *(["tidb"] if tidb else []), *(["query"] if query else []), str(number)]
    assert parse_kill(gap.join(words)) == KillStatement(ConnectionId(number), query=query, tidb=tidb)
    assert parse_kill(parse_kill(gap.join(words)).sql).connection_id == number


@given(st.text())
def test_any_text_is_parsed_or_refused_with_its_column(text: str) -> None:
    column = 1
    try:
        parse_kill(text)
    except KillSyntaxError as error:
        column = error.column
    assert 1 <= column <= len(text) + 1


def test_the_own_connection_is_understood() -> None:
    assert parse_kill("KILL TIDB CONNECTION_ID()") == KillStatement(None, tidb=True)
    assert parse_kill("KILL CONNECTION_ID ( ) ;").sql == "KILL TIDB CONNECTION_ID()"


@pytest.mark.parametrize(
    "text",
    [
        "KILL /*! QUERY */ 5",
        "/*!50000 KILL QUERY*/5",
        "KILL QUERY /*T! 5 */ ;",
        "/*! KILL /* a comment */ QUERY 5 */",
        ";; KILL QUERY 5 ;\n;",
        "\n-- first\nKILL # then\nQUERY 0005",
    ],
)
def test_comments_and_semicolons_are_read_as_tidb_reads_them(text: str) -> None:
    assert parse_kill(text) == KillStatement(ConnectionId(5), query=True)
    assert parse_kills(text) == [parse_kill(text)]


@pytest.mark.parametrize("name", ["CONNECTION_ID", "connection_id", "`CONNECTION_ID`", "`connection_id`"])
def test_the_name_of_the_function_may_be_quoted(name: str) -> None:
    assert parse_kill(f"KILL {name}()") == KillStatement(None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expected KILL, found the end (column 1)"),
        ("SELECT 5", "Expected KILL, found 'SELECT' (column 1)"),
        (" */ KILL 5", "Expected KILL, found '*' (column 2)"),
        ("KILL", "Expected a connection id (digits only), found the end (column 5)"),
        (f"KILL {'x' * 50}", f"Expected a connection id (digits only), found '{'x' * 40}' (column 6)"),
        ("KILL CONNECTION_ID 5", "Expected '(', found '5' (column 20)"),
        ("KILL CONNECTION_ID(5)", "Expected ')', found '5' (column 20)"),
        ("KILL 5 6", "Expected the end of the statement (one id a statement), found '6' (column 8)"),
        ("KILL 5 */", "Expected the end of the statement (one id a statement), found '*' (column 8)"),
        ("/*! KILL 5 */ */", "Expected the end of the statement (one id a statement), found '*' (column 15)"),
        (
            f"KILL {2**64}",
            f"A connection id is between 0 and 2^64 - 1, not {2**64}, found '{2**64}' (column 6)",
        ),
    ],
)
def test_a_mistake_is_named_with_what_was_expected_and_its_column(text: str, says: str) -> None:
    with pytest.raises(KillSyntaxError) as refused:
        parse_kill(text)
    assert str(refused.value) == says


def test_several_statements_stand_on_lines_of_their_own_or_between_semicolons() -> None:
    assert [one.connection_id for one in parse_kills("KILL 5\nKILL 6; KILL 7;\n")] == [5, 6, 7]
    assert parse_kills(" ;\n-- nothing\n;") == []
    for text in ("KILL 5 KILL 6", "KILL 4\nKILL 5 KILL 6"):
        with pytest.raises(KillSyntaxError) as refused:
            parse_kills(text)
        column = text.rindex("KILL") + 1
        assert str(refused.value) == (
            f"Expected a semicolon or a new line (one id a statement), found 'KILL' (column {column})"
        )


def numbers() -> st.SearchStrategy[str]:
    """Return decimal ids around the powers of two where layouts, floats and types end, also with leading zeros."""
    edges = [0, 101, 2**20, 2**21, 2**31, 2**32, 2**53, 2**63, 2**64, 10**25]
    near = st.builds(lambda edge, more: max(edge + more, 0), st.sampled_from(edges), st.integers(-7, 7))
    return st.builds(lambda zeros, number: f"{zeros}{number}", st.sampled_from(["", "", "0", "000"]), near)


WORDS = [
    *("KILL", "kill", "TIDB", "tIdB", "CONNECTION", "QUERY", "query", "CONNECTION_ID", "`CONNECTION_ID`", "`KILL`"),
    *(
        "(",
        ")",
        ";",
        ";;",
        "rand()",
        "foo()",
        "-1",
        "+5",
        "1.5",
        "1e3",
        "0x10",
        "0b1",
        "x'1'",
        "'5'",
        '"5"',
        "@x",
        "@@y",
    ),
    *("?", "5a", "5$", "5_", ",", "(5)", "USER", "ALL", "HARD", "a.b", "`QUERY`", "CONNECTION_ID()"),
]
GAPS = [
    *(" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "/**/", "/* x */", "/* ; */", "/***/", "/* * / */", "-- x\n", "--\n"),
    *("# x\n", "--\tx\n", "/*+ x */", "/*M! x */", "/*T x */", "/*t! QUERY */", "/*!*/", "/*! */", "/*!50000 */"),
    *("/*T!*/", "/*T! */"),
]
ODD = [
    *("", "\xa0", "\u3000", "--x\n", "/*", "*/", "/*!", "/*!50000", "/*!5000 */", "/*!123456 */", "/*T!", "/* /* */"),
    *("/*/", "--", "#", "\x00", "\\", "`", "'", '"', "-", "/", "*", "\ufeff", "é", ";"),
]
OPENED = ["/*!", "/*! ", "/*!50000 ", "/*!50000", "/*!99999 ", "/*T! ", "/*T!"]


@st.composite
def statements(draw: st.DrawFn) -> str:
    """Return a KILL, or something near one."""
    parts = ["KILL", *draw(st.sampled_from([[], [], ["TIDB"], ["tidb"]]))]
    parts += draw(st.sampled_from([[], [], ["QUERY"], ["CONNECTION"], ["Query"]]))
    parts.append(draw(numbers() | numbers() | numbers() | st.sampled_from(["CONNECTION_ID()", "connection_id ( )"])))
    parts += draw(st.sampled_from([[], [], [";"], ["; ;"]]))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(parts)))
        parts[at : at + draw(st.integers(0, 1))] = draw(
            st.sampled_from([[], [draw(st.sampled_from(WORDS) | numbers())]])
        )
    if parts and draw(st.integers(0, 3)) == 0:
        first = draw(st.integers(0, len(parts) - 1))
        last = draw(st.integers(first, len(parts) - 1))
        parts[first] = draw(st.sampled_from(OPENED)) + parts[first]
        parts[last] += draw(st.sampled_from(["*/", " */", "*/", ""]))
    gaps = st.sampled_from(GAPS * 3 + ODD)
    text = draw(st.sampled_from(["", "", " ", "/*x*/", ";", "-- x\n"]))
    text += "".join(part + (draw(gaps) if at < len(parts) else "") for at, part in enumerate(parts, start=1))
    return text + draw(st.sampled_from(["", "", " ", "-- x", "# x", "/* x */", "--", "/*!", "*/", "\n", "/*"]))


@pytest.fixture(scope="module")
def server(playground: Playground) -> Iterator[Callable[[str], int]]:
    """Return a function that sends a statement and returns the error number, 0 for none."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(playground, charset="utf8mb4"))]

        def send(text: str) -> int:
            try:
                clients[-1].query(text)
            except pymysql.Error as error:
                if isinstance(error, pymysql.ProgrammingError) and error.args == ("execute() first",):
                    return 0  # nothing was answered: an empty statement
                code = int(error.args[0])
                if code in OWN:  # it named its own connection
                    clients.append(stack.enter_context(Client(playground, charset="utf8mb4")))
                    return 0
                return NO_SUCH_FUNCTION if "Invalid operation" in str(error.args[1]) else code
            return 0

        yield send


OWN = (0, 1317, 2006, 2013)
NO_SUCH_FUNCTION = -1
SEVERAL = 8130  # statements in one


def belongs(digits: str, live: set[int]) -> bool:
    """Tell whether an id can be somebody's. Five digits before it can be a version, as in /*!500005."""
    return digits != "" and int(digits) < 2**64 and ConnectionId(digits).server_id in live


def compare(server: Callable[[str], int], live: set[int], text: str) -> None:
    """Make sure that the server and the parser agree."""
    assume(not any(belongs(run[start:], live) for run in re.findall(r"\d+", text) for start in range(6)))
    assume(not text.endswith("\0"))  # the protocol takes one off, it is not the grammar's
    code = server(text)
    try:
        parse_kill(text)
    except KillSyntaxError:
        nothing = code == 0 and not re.search("kill(?!`)", text, re.IGNORECASE)  # an empty statement is none of ours
        assert code in (1064, NO_SUCH_FUNCTION, SEVERAL) or nothing, text
    else:
        assert code == 0, text


usual = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@settings(usual, max_examples=300)
@given(text=statements())
def test_tidb_answers_1064_if_and_only_if_the_parser_raises(
    server: Callable[[str], int], live: set[int], text: str
) -> None:
    compare(server, live, text)


@pytest.mark.slow  # a minute
@settings(usual, max_examples=10_000, derandomize=False)
@given(text=statements())
def test_tidb_and_the_parser_agree_on_ten_thousand_statements(
    server: Callable[[str], int], live: set[int], text: str
) -> None:
    compare(server, live, text)


@pytest.fixture(scope="module")
def live(playground: Playground) -> set[int]:
    """Return the server ids whose connection ids somebody has."""
    with Client(playground) as root:
        rows = root.query("SELECT SERVER_ID FROM INFORMATION_SCHEMA.CLUSTER_INFO WHERE TYPE = 'tidb'")
    return {int(row[0]) for row in rows}


@pytest.mark.parametrize(
    "text", ["KILL /*T![auto_rand] QUERY */ 2097158", "KILL /*T![nosuch] QUERY */ 2097158", "KILL CONNECTION_ID(5)"]
)
def test_what_tidb_takes_for_something_else_than_it_seems_is_refused(text: str, server: Callable[[str], int]) -> None:
    assert server(text) == 0
    with pytest.raises(KillSyntaxError):
        parse_kill(text)
