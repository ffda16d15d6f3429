"""What Tab offers behind the magics, asked of IPython itself and of a real kernel; nothing is connected."""

import ast
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.completer import Completion, provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel

from tests.widget.test_table_js import HERE, HOSTILE, THERE, TWINS, idle, listed, session
from tidb_magic import Cluster, ProcessList
from tidb_magic.notebook import completion
from tidb_magic.notebook.arguments import FILTERS, connect_parser, kill_parser, ps_parser
from tidb_magic.notebook.completion import COLUMNS, IDENTIFIER
from tidb_magic.playground import Playground

PARSERS = {"tidb_connect": connect_parser, "tidb_ps": ps_parser, "tidb_kill": kill_parser}
LIST = [
    session(71, USER="root", HOST="10.0.0.7:5000"),
    session(5857102839209263511, THERE, USER="ann", HOST="10.0.0.7:5001", DB="my shop", INFO="SELECT 1,\n  2"),
    idle(5857102839209263513, USER="batch job", HOST="localhost", DB=None),
    session(9, USER="itself"),
]
OWN = frozenset({(HERE, 9)})


class Told:
    """What the magics know, made up."""

    def __init__(self, seen: ProcessList | None = None, clusters: Mapping[str, Cluster] | None = None) -> None:
        self.seen, self.clusters = seen, clusters or {}


@pytest.fixture
def shell(session_shell: InteractiveShell) -> Iterator[InteractiveShell]:
    """As everywhere, but without the reset, which takes most of the time."""
    names = dict(session_shell.user_ns)
    session_shell.run_line_magic("load_ext", "tidb_magic")
    yield session_shell
    session_shell.run_line_magic("unload_ext", "tidb_magic")
    session_shell.user_ns.clear()
    session_shell.user_ns.update(names)


@pytest.fixture
def told(shell: InteractiveShell) -> Told:
    """A list was read."""
    completion.remove(shell)
    made = Told(listed(*LIST, own=OWN))
    completion.install(shell, cast("Any", made))
    return made


@pytest.fixture
def tab(shell: InteractiveShell, told: Told) -> Any:
    """Return a function that says what is offered at the last bar: the texts, all of them tidb_magic's."""

    def press(text: str) -> list[str]:
        found = completions(shell, text)
        assert {one._origin for one in found} <= {IDENTIFIER}
        return [one.text for one in found]

    return press


def completions(shell: InteractiveShell, text: str) -> list[Completion]:
    before, _, after = text.rpartition("|")
    with provisionalcompleter():
        return list(shell.Completer.completions(before + after, len(before)))


def others(shell: InteractiveShell, text: str) -> list[str]:
    """Return what is offered if nothing of it is tidb_magic's."""
    found = completions(shell, text)
    assert IDENTIFIER not in {one._origin for one in found}
    return [one.text for one in found]


def accepted(text: str, chosen: Completion) -> str:
    typed = "".join(text.rsplit("|", 1))
    return typed[: chosen.start] + chosen.text + typed[chosen.end :]


def read_back(shell: InteractiveShell, line: str) -> dict[str, Any]:
    """Return the options that a line has when IPython and the magic's parser have read it."""
    (statement,) = ast.parse(shell.transform_cell(line)).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    magic, behind = map(ast.literal_eval, statement.value.args)
    parser = PARSERS[magic]()
    if magic == "tidb_kill":
        behind, values = parser.expand(behind, str)
        assert values == []
    return vars(parser.parse(behind))


# -- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magic", PARSERS)
def test_every_option_of_a_magic_is_offered(tab: Any, magic: str) -> None:
    options = list(PARSERS[magic]().options)
    assert len(options) > 5
    assert tab(f"%{magic} --|") == tab(f"%{magic} -|") == options
    for option in options:
        assert option in tab(f"%{magic} {option[:-1]}|")


def test_above_a_cell_are_the_options_that_have_a_meaning_there(tab: Any) -> None:
    meant = ["--timeout", "--max-victims", "--reason", "--dry-run", "--force"]
    assert tab("%%tidb_kill -|") == tab("%%tidb_kill |\nKILL 5") == tab("\n%%tidb_kill --|\nKILL 5") == meant


UNFILTERED = ("--locks", "--instances", "--history")  # views that take no filter and no shape
BY_FILTER = tuple(f"--{name.replace('_', '-')}" for name in FILTERS)


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("%tidb_ps --user ann --|", ["--user", *UNFILTERED]),
        ("%tidb_ps --user=ann --|", ["--user", *UNFILTERED]),
        ("%tidb_ps --| --user ann --idle", ["--user", "--idle", "--by", *UNFILTERED]),
        ("%tidb_ps --match '--idle' --|", ["--match", "--idle", "--by", *UNFILTERED]),  # as argparse reads it, too
        ("%tidb_ps --match x--idle --|", ["--match", *UNFILTERED]),
        ("%tidb_ps --sort TIME --|", ["--sort", "--by", *UNFILTERED]),
        ("%tidb_ps --by USER --|", ["--by", "--idle", "--sort", "--full", "--live", *UNFILTERED]),
        ("%tidb_ps --live 5 --|", ["--live", "--by", *UNFILTERED]),
        ("%tidb_kill QUERY --yes --|", ["--dry-run", "--yes"]),
        ("%tidb_kill --dry-run --|", ["--dry-run", "--yes"]),
        ("%tidb_kill --idle --|", ["--idle", "--from"]),
        ("%tidb_kill --from rows --|", [*BY_FILTER, "--from"]),
        ("%tidb_kill {rows.ID} --|", [*BY_FILTER, "--from"]),
        ("%tidb_kill QUERY 5 --|", [*BY_FILTER, "--from"]),
        ("%tidb_connect prod --close --|", ["--close"]),
    ],
)
def test_an_option_that_is_given_or_contradicts_one_is_not_offered(tab: Any, line: str, out: list[str]) -> None:
    offered = tab(line)
    left = [one for one in PARSERS[line.split(maxsplit=1)[0].strip("%")]().options if one not in out]
    assert offered == left


@pytest.mark.parametrize("line", ["%tidb_ps |", "%tidb_ps --idle |", "%tidb_ps --live |", "%tidb_connect prod |"])
def test_where_only_an_option_can_stand_options_are_offered_at_once(tab: Any, line: str) -> None:
    assert tab(line) == tab(line.replace("|", "-|"))
    assert tab(line)


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magic", ["tidb_ps", "tidb_kill"])
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--user |", ["ann", "'batch job'", "itself", "root"]),
        ("--user a|", ["ann"]),
        ("--user A|", ["ann"]),
        ("--user ba|", ["'batch job'"]),
        ("--user 'batch |", ["'batch job'"]),
        ('--user "batch j|', ["'batch job'"]),
        ("--user=|", ["--user=ann", "--user='batch job'", "--user=itself", "--user=root"]),
        ("--user=ba|", ["--user='batch job'"]),
        ("--idle --host |", ["10.0.0.7", "localhost"]),
        ("--db |", ["'my shop'", "shop"]),
        ("--command | --idle", ["Query", "Sleep"]),
        ("--instance |", [HERE, THERE]),
        ("--instance 10.0.0.2:1|", [THERE]),
        ("--instance=10.0.0.2:1|", [f"--instance={THERE}"]),
    ],
)
def test_values_are_those_of_the_list_that_was_read(tab: Any, magic: str, typed: str, offered: list[str]) -> None:
    assert tab(f"%{magic} {typed}") == offered


@pytest.mark.parametrize("magic", ["tidb_ps", "tidb_kill"])
@pytest.mark.parametrize("form", ["--instance ", "--instance="])
def test_an_address_is_completed_from_each_of_its_places(
    shell: InteractiveShell, told: Told, magic: str, form: str
) -> None:
    told.seen = listed(session(1, "[::1]:10080"), session(2, "127.0.0.1:10080"))
    for at in range(1, len("127.0.0.1:10080") + 1):
        text = f"%{magic} {form}{'127.0.0.1:10080'[:at]}|"
        (chosen,) = completions(shell, text)
        assert accepted(text, chosen) == f"%{magic} {form}127.0.0.1:10080"
    (chosen,) = completions(shell, text := f"%{magic} {form}[::|")
    assert read_back(shell, accepted(text, chosen))["instance"] == "[::1]:10080"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--sort M|", ["MEM"]),
        ("--sort tx|", ["TxnStart"]),
        ("--by t|", ["TIME", "TxnStart"]),
        ("--by USER,d|", ["USER,DB"]),
        ("--by user,t|", ["user,TIME", "user,TxnStart"]),
        ("--by TIME,USER,T|", ["TIME,USER,TxnStart"]),
        ("--by=USER,I|", ["--by=USER,INSTANCE", "--by=USER,ID", "--by=USER,INFO"]),
    ],
)
def test_columns_are_offered_and_behind_a_comma_one_more(tab: Any, typed: str, offered: list[str]) -> None:
    assert tab(f"%tidb_ps {typed}") == offered


def test_columns_are_tidbs_of_the_list_that_was_read_or_those_of_8_5_6(tab: Any, told: Told, recorded: Any) -> None:
    assert told.seen is not None
    assert tab("%tidb_ps --sort |") == [name for name in told.seen.columns if not name.startswith("TXN_")]
    told.seen = None
    known = [row[0] for row in recorded("8.5.6", "information_schema.columns")["rows"]]
    assert tab("%tidb_ps --by |") == tab("%tidb_ps --sort |") == COLUMNS == known


def test_from_takes_variables_that_hold_rows_blockers_or_ids(shell: InteractiveShell, told: Told, tab: Any) -> None:
    class LockForest:
        __module__ = "tidb_magic.locks.lock_forest"

    assert told.seen is not None
    shell.user_ns |= {
        "meant_list": told.seen,
        "meant_frame": pd.DataFrame({"ID": [5]}),
        "meant_forest": LockForest(),
        "meant_id": 5857102839209263511,
        "meant_ids": [5, 7],
        "meant_column": told.seen.ID,
        "meant_index": pd.Index([5]),
        "meant_array": np.array([5], dtype="uint64"),
        "meant_scalar": np.int64(5),
        "meant_not_frame": pd.DataFrame({"USER": ["ann"]}),
        "meant_not_text": "5",
        "meant_not_texts": ["a"],
        "meant_not_flag": True,
        "meant_not_empty": [],
        "meant_not_column": told.seen.USER,
        "meant_not_floats": np.array([5.0]),
        "_meant": 5,
    }
    offered = [name for name in shell.user_ns if name.startswith("meant") and not name.startswith("meant_not")]
    assert tab("%tidb_kill --from meant|") == offered
    assert tab("%tidb_kill --from=meant_li|") == ["--from=meant_list"]
    assert "_meant" not in tab("%tidb_kill --from |")


def test_of_somebodys_object_nothing_is_touched(shell: InteractiveShell, tab: Any) -> None:
    touched = []

    class Lazy:
        def __getattribute__(self, name: str) -> object:
            touched.append(name)
            return object.__getattribute__(self, name)

    shell.user_ns |= {"lazy": Lazy(), "lazy_id": 5, "lazy_url": "mysql://db", "lazies": [Lazy()]}
    assert tab("%tidb_kill --from laz|") == ["lazy_id"]
    assert tab("%tidb_connect laz|") == ["lazy_url"]
    assert touched == []


@pytest.mark.parametrize(
    "line",
    [
        "%tidb_ps --match |",
        "%tidb_ps --where U|",
        "%tidb_ps --min-time |",
        "%tidb_ps --limit |",
        "%tidb_ps --live 5|",
        "%tidb_ps --sort USER,M|",
        "%tidb_kill --reason |",
        "%tidb_kill --timeout |",
        "%tidb_kill --max-victims |",
        "%tidb_kill --user -|",
        "%tidb_kill --user 'ann|'",
        "%tidb_kill 58|57",
        "%tidb_connect --alias |",
        "%tidb_connect --section |",
        "%tidb_connect mysql://joe:|",
        "%tidb_ps U|",
    ],
)
def test_nothing_is_offered_for_what_only_a_person_knows(shell: InteractiveShell, told: Told, line: str) -> None:
    others(shell, line)


@pytest.mark.parametrize("option", ["--defaults-file", "--ssl-ca"])
def test_paths_are_left_to_ipython(
    shell: InteractiveShell, told: Told, option: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_certificate.pem").touch()
    monkeypatch.chdir(tmp_path)
    assert "a_certificate.pem" in others(shell, f"%tidb_connect {option} a_cert|")


# -- whom to kill ------------------------------------------------------------------------------------------------


def beside(shell: InteractiveShell, text: str) -> dict[str, str]:
    return {one.text: one.type or "" for one in completions(shell, text)}


def test_ids_have_user_and_statement_beside_them_and_tidb_magics_own_are_none(
    shell: InteractiveShell, told: Told
) -> None:
    assert beside(shell, "%tidb_kill |") == {
        "QUERY": "its statement",
        "CONNECTION": "the session",
        "71": "root SELECT 71",
        "5857102839209263511": "ann SELECT 1, 2",
        "5857102839209263513": "batch job Sleep",
    }


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%tidb_kill q|", ["QUERY"]),
        ("%tidb_kill KILL TIDB c|", ["CONNECTION"]),
        ("%tidb_kill 5|", ["5857102839209263511", "5857102839209263513"]),
        ("%tidb_kill QUERY 5857102839209263511 |", ["71", "5857102839209263513"]),
        ("%tidb_kill QUERY --timeout 5 7|", ["71"]),
        ("%tidb_kill --yes 7| ;", ["71"]),
        ("%tidb_kill {rows.ID.iloc[0]} 7|", ["71"]),
        ('%tidb_kill {{"a b}": 5}["a b}"]} 7|', ["71"]),
        ("%tidb_kill --user ann |", ["QUERY", "CONNECTION"]),
        ("%tidb_kill --from rows q|", ["QUERY"]),
    ],
)
def test_ids_and_their_words_are_offered_where_they_can_stand(tab: Any, line: str, offered: list[str]) -> None:
    assert tab(line) == offered


def test_beside_filters_no_id_is_offered(shell: InteractiveShell, told: Told) -> None:
    others(shell, "%tidb_kill --user ann 7|")
    others(shell, "%tidb_kill --from rows 7|")


def test_sessions_with_one_id_are_all_shown_beside_it(shell: InteractiveShell, told: Told) -> None:
    told.seen = listed(session(2097158, HERE, USER="ann"), session(2097158, THERE, USER="joe"), own=OWN)
    assert beside(shell, "%tidb_kill 2|") == {"2097158": "ann SELECT 2097158 / joe SELECT 2097158"}


def test_ids_above_what_a_float_holds_stay_exact(shell: InteractiveShell, told: Told) -> None:
    told.seen = listed(*(session(number) for number in TWINS), session(None))  # type: ignore[arg-type]
    assert list(beside(shell, "%tidb_kill QUERY |")) == [str(number) for number in TWINS]


def test_a_statement_is_one_short_line_without_anything_that_acts(shell: InteractiveShell, told: Told) -> None:
    told.seen = listed(session(1, USER="\x1b[2J", INFO=HOSTILE + "x" * 100_000), session(2, USER="a\nb", INFO=None))
    shown = beside(shell, "%tidb_kill QUERY |")
    assert shown["1"].startswith(r"\x1b[2J <img")
    assert shown["2"] == "a b Query"
    assert all(one.isprintable() and len(one) <= 60 for one in shown.values())


def test_a_statement_that_shall_not_be_shown_is_not(shell: InteractiveShell, told: Told) -> None:
    shell.run_line_magic("config", "TidbMagics.show_sql = False")
    assert beside(shell, "%tidb_kill 7|") == {"71": "root SELECT …"}
    shell.run_line_magic("config", "TidbMagics.show_sql = True")
    assert beside(shell, "%tidb_kill 7|") == {"71": "root SELECT 71"}


@pytest.mark.parametrize(
    "line",
    [
        "%tidb_kill {victi|",
        "%tidb_kill QUERY {victi|",
        "%tidb_kill QUERY {[victi|",
        "%tidb_kill {victims[0]} {victi|",
        "%tidb_kill {5 if x else victi|",
        "%tidb_kill { victi|",
        "%tidb_kill {'a b' and victi|}",
    ],
)
def test_braces_are_left_to_ipython(
    shell: InteractiveShell, told: Told, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(shell.Completer, "use_jedi", False)  # which gives up after 0.4 s, and is slow at first
    shell.user_ns["victims"] = [5]
    assert "victims" in others(shell, line)


@pytest.mark.parametrize("line", ["%tidb_kill { 7|", "%tidb_kill {rows.ID[rows.TIME > 7|", "%tidb_kill 5 {x} {x or 7|"])
def test_a_number_in_braces_is_no_id(shell: InteractiveShell, told: Told, line: str) -> None:
    others(shell, line)


# -- where to connect to -----------------------------------------------------------------------------------------


def test_a_connection_is_offered_by_its_words_aliases_and_variables(
    shell: InteractiveShell, told: Told, tab: Any
) -> None:
    class Untouched(Cluster):
        def __init__(self) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    class Connection:
        __module__ = "pymysql.connections"

    engine = sqlalchemy.create_engine("mysql+pymysql://db")
    told.clusters = {"": Untouched(), "prod": Untouched(), "with space": Untouched()}
    shell.user_ns |= {
        "engine": engine,
        "url": engine.url,
        "driver": Connection(),
        "cluster": Untouched(),
        "text": "mysql://db",
        "other": "https://db",
        "number": 5,
    }
    words = ["playground", "sql", "prod", "'with space'", "engine", "url", "driver", "cluster", "text"]
    assert tab("%tidb_connect |") == words
    assert tab("%tidb_connect pr| --close") == ["prod"]
    assert tab("%tidb_connect u| --alias new") == ["url"]
    shell.user_ns.clear()


# -- which lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "%tidb_ps --user an|",
        "   %tidb_ps --user an|",
        "df = %tidb_ps --user an|",
        "a, b.c[0] = %tidb_ps --user an|",
        "x = 1\n%tidb_ps --user an|\nprint('%tidb_kill')",
        "if x:\n    df = %tidb_ps --idle --user an| --sort MEM\n",
        "tidb_ps --user an|",
        "\n  tidb_ps --user an|\n",
        "%tidb_ps --user an|;",
    ],
)
def test_the_line_of_the_cursor_is_completed(tab: Any, shell: InteractiveShell, text: str) -> None:
    assert tab(text) == ["ann"]
    (chosen,) = completions(shell, text)
    assert accepted(text, chosen) == text.replace("an|", "ann")


@pytest.mark.parametrize(
    "text",
    [
        "%tidb_p|",
        "%tidb_ps|",
        "%tidb_psx --user an|",
        "%%tidb_ps --user an|",
        "x = 1\n%%tidb_kill --t|",
        "x = 1\ntidb_ps --user an|",
        "df = tidb_ps --user an|",
        "df = %%tidb_kill --t|",
        "# df = %tidb_ps --user an|",
        "print('%tidb_ps --user an|",
        "%tidb_ps --idle\n--user an|",
        "x %tidb_ps --user an|",
    ],
)
def test_other_lines_are_left_to_ipython(shell: InteractiveShell, told: Told, text: str) -> None:
    others(shell, text)


def test_without_percent_only_what_automagic_would_run(shell: InteractiveShell, told: Told) -> None:
    assert beside(shell, "tidb_kill q|") == {"QUERY": "its statement"}
    shell.user_ns["tidb_kill"] = 5
    others(shell, "tidb_kill q|")
    del shell.user_ns["tidb_kill"]
    shell.run_line_magic("automagic", "off")
    others(shell, "tidb_kill q|")
    shell.run_line_magic("automagic", "on")
    assert beside(shell, "tidb_kill q|")


# -- what a server sent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", ["a\nb", "a\rb", "a\x1b[2J", "a\u202eb", "a\u2028b", "a\x00", "a\u00a0b", " ", "", "-a", "--"]
)
def test_a_value_that_no_line_should_hold_is_left_out(told: Told, tab: Any, bad: str) -> None:
    told.seen = listed(session(1, "ok", **dict.fromkeys(("USER", "DB", "COMMAND"), "ok")), session(2, bad, USER=bad))
    assert tab("%tidb_ps --user |") == tab("%tidb_ps --instance |") == ["ok"]
    assert tab("%tidb_ps --user=|") == ["--user=ok"]


@pytest.mark.parametrize("broken", [Told(pd.DataFrame({"ID": [5]})), Told(5), None])  # type: ignore[arg-type]
def test_whatever_goes_wrong_tab_offers_nothing_and_says_nothing(
    session_shell: InteractiveShell, capfd: pytest.CaptureFixture[str], broken: Any
) -> None:
    with completing(session_shell, broken):
        for text in ("%tidb_kill 5|", "%tidb_ps --user a|", "%tidb_connect --alias 'a\\|"):
            others(session_shell, text)
    assert capfd.readouterr() == ("", "")


@contextmanager
def completing(shell: InteractiveShell, told: Any) -> Iterator[None]:
    shell.run_line_magic("load_ext", "tidb_magic")
    completion.remove(shell)
    completion.install(shell, told)
    try:
        yield
    finally:
        shell.run_line_magic("unload_ext", "tidb_magic")


@st.composite
def prefixes(draw: st.DrawFn) -> tuple[str, str]:
    """A value, and its beginning as it can be typed."""
    value = draw(st.text().filter(lambda text: text.strip() and text.isprintable() and not text.startswith("-")))
    quoted = draw(st.sampled_from([shlex.quote(value), '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"']))
    return value, quoted[: draw(st.integers(0, len(quoted)))]


@given(
    prefixes(),
    st.lists(st.text(), max_size=3),
    st.sampled_from(["tidb_ps", "tidb_kill"]),
    st.sampled_from(["user", "db", "instance", "command", "host"]),
    st.sampled_from([" ", "="]),
)
@example(('"', '"\\'), [], "tidb_ps", "user", " ")
@example(("a{b c}", "'a{b "), [], "tidb_kill", "db", " ")
@example(("it's", "'it'\"'\"'"), ["it"], "tidb_kill", "user", "=")
def test_accepting_a_value_from_any_of_its_places_gives_a_line_that_is_read_as_that_value(
    session_shell: InteractiveShell, typed: tuple[str, str], more: list[str], magic: str, option: str, gap: str
) -> None:
    value, prefix = typed
    port = ":5000" * (option == "host")
    rows = [session(at, f"{at}") for at in range(1 + len(more))]
    seen = listed(*rows)
    seen[option.upper()] = [text + port for text in (value, *more)]
    text = f"%{magic} --idle --{option}{gap}{prefix}|"
    with completing(session_shell, Told(seen)):
        found = completions(session_shell, text)
        read = [read_back(session_shell, accepted(text, one))[option] for one in found]
    assert value in read
    assert {*read} <= {value, *more}


def test_after_a_list_its_values_are_known_and_tab_sends_nothing(
    connected: InteractiveShell, playground: Playground, every_statement: list[str]
) -> None:
    found = connected.run_line_magic("tidb_ps", "--idle")
    every_statement.clear()
    offered = beside(connected, "%tidb_ps --idle --instance |")
    assert {*offered} == {*found.INSTANCE}
    assert playground.status_address(0) in offered
    assert "root" in beside(connected, "%tidb_kill --user |")
    assert every_statement == []


# -- coming and going --------------------------------------------------------------------------------------------


def test_unloading_leaves_no_matcher_and_reloading_makes_no_second_one(session_shell: InteractiveShell) -> None:
    matchers = session_shell.Completer.custom_matchers
    before = [*matchers, mine := str.split]
    matchers.append(mine)
    seen: list[object] = []
    for _ in range(2):
        session_shell.run_line_magic("load_ext", "tidb_magic")
        session_shell.run_line_magic("reload_ext", "tidb_magic")
        (ours,) = (one for one in matchers if one not in before)
        assert not any(ours is one for one in seen)
        seen.append(ours)
        session_shell.run_line_magic("unload_ext", "tidb_magic")
        assert session_shell.Completer.custom_matchers is matchers
        assert all(one is other for one, other in zip(matchers, before, strict=True))
    matchers.remove(mine)
    others(session_shell, "%tidb_ps --i|")


def test_completing_imports_nothing_heavy_and_connects_to_nothing() -> None:
    code = """
import socket, sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic('load_ext', 'tidb_magic')
shell.user_ns['x'] = 5
def connect(*args):
    print('connected')
socket.socket.connect = connect
with provisionalcompleter():
    for text in ('%tidb_connect ', '%tidb_ps --sort ', '%tidb_kill ', '%tidb_kill --from ', '%tidb_ps -'):
        print(len({one._origin for one in shell.Completer.completions(text, len(text))}))
print([m for m in ('pandas', 'pymysql', 'ipywidgets', 'anywidget', 'numpy') if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["1", "1", "1", "1", "1", "[]", ""]


def test_in_a_kernel_the_middle_of_a_cell_is_completed() -> None:
    manager, client = start_new_kernel()
    try:
        code = """
%load_ext tidb_magic
from tests.widget.test_table_js import listed, session
magics = get_ipython().magics_manager.registry["TidbMagics"]
magics.seen = listed(session(5, "127.0.0.1:10080"), session(7, "127.0.0.1:10081"), own=frozenset())
"""
        assert client.execute_interactive(code, timeout=60)["content"]["status"] == "ok"
        cell = "import os\nif True:\n    df = %tidb_ps --idle --instance 127.0.0.1:1 --full\nprint(df)\n"
        at = cell.index("127") + len("127.0.0.1:1")
        answer = client.complete(cell, at, reply=True, timeout=60)["content"]
        assert answer["matches"] == ["127.0.0.1:10080", "127.0.0.1:10081"]
        assert (answer["cursor_start"], answer["cursor_end"]) == (cell.index("127"), at)
        told = client.complete("%tidb_kill QUERY ", 17, reply=True, timeout=60)["content"]["metadata"]
        assert [(one["text"], one["type"]) for one in told["_jupyter_types_experimental"]] == [
            ("5", "ann SELECT 5"),
            ("7", "ann SELECT 7"),
        ]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
