"""KILL's grammar, beside the real server's."""

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients import Client
from tidb_magic import ConnectionId, KillStatement, parse_kill
from tidb_magic.errors import KillSyntaxError
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
