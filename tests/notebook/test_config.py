"""The settings: which goes first, what is refused, what show_sql hides."""

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets import TraitError
from traitlets.config import Config

from tests.clients import Client, eventually
from tests.widget.test_table_js import listed, session
from tidb_magic import Cluster
from tidb_magic.errors import SettingsError
from tidb_magic.notebook.magics import TidbMagics
from tidb_magic.playground import Playground
from tidb_magic.sessions.lookup import Rights
from tidb_magic.widget.payload import part
from tidb_magic.widget.settings import TableSettings
from tidb_magic.widget.table import SessionTable

NAMES = sorted(TidbMagics.class_trait_names(config=True))
SECRET = "SELECT card FROM shop.payments WHERE owner = 'ann'"


def magics(shell: InteractiveShell) -> TidbMagics:
    found = shell.magics_manager.registry["TidbMagics"]
    assert isinstance(found, TidbMagics)
    return found


def loaded(shell: InteractiveShell) -> TidbMagics:
    shell.run_line_magic("reload_ext", "tidb_magic")
    return magics(shell)


@pytest.fixture
def profile(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Config:
    """What stands in ipython_config.py, from the next loading on."""
    config = Config()
    monkeypatch.setattr(shell, "config", config)
    return config


def test_option_goes_before_config_before_profile_before_environment_before_default(
    shell: InteractiveShell, playground: Playground, profile: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(line: str = "--idle") -> int:
        return int(shell.run_line_magic("tidb_ps", line).limit)

    with Client(playground), Client(playground), Client(playground), Client(playground), Client(playground):
        loaded(shell)
        shell.run_line_magic("tidb_connect", playground.url(0))
        assert limit() == 200
        monkeypatch.setenv("TIDB_MAGIC_LIMIT", "5")
        loaded(shell)
        shell.run_line_magic("tidb_connect", playground.url(0))
        assert limit() == 5
        profile.TidbMagics.limit = 4
        loaded(shell)
        shell.run_line_magic("tidb_connect", playground.url(0))
        assert limit() == 4
        shell.run_line_magic("config", "TidbMagics.limit = 3")
        assert limit() == 3
        assert limit("--idle --limit 2") == 2
        assert len(shell.run_line_magic("tidb_ps", "--by ID")) == 3


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_help_and_a_variable(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shell.run_line_magic("config", "TidbMagics")
    assert f"TidbMagics.{name}=" in capsys.readouterr().out
    assert TidbMagics.class_traits()[name].help
    other = {
        "direct": "never",
        "stop": "ask",
        "audit_file": "kills.jsonl",
        "audit_sql": "true",
        "show_sql": "false",
    }.get(name, "7")
    before = getattr(magics(shell), name)
    monkeypatch.setenv(f"TIDB_MAGIC_{name.upper()}", other)
    after = getattr(loaded(shell), name)
    assert after != before
    assert type(after) is type(before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "many"),
        ("deadline", "-1"),
        ("timeout", "soon"),
        ("direct", "maybe"),
        ("show_sql", "7"),
    ],
)
def test_a_bad_value_in_the_environment_is_one_line_at_loading(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TIDB_MAGIC_{name.upper()}", value)
    with pytest.raises(
        SettingsError, match=f"^TIDB_MAGIC_{name.upper()} of the environment is '{value}', not an?y? "
    ) as refused:
        shell.run_line_magic("reload_ext", "tidb_magic")
    assert "\n" not in str(refused.value)


def test_a_bad_value_in_the_profile_is_one_line_at_loading(shell: InteractiveShell, profile: Config) -> None:
    profile.TidbMagics.limit = "many"
    shell.run_line_magic("unload_ext", "tidb_magic")
    before = list(shell.configurables)
    with pytest.raises(
        SettingsError, match=r"^The profile contains an invalid setting; the magics are not loaded\."
    ) as no:
        shell.run_line_magic("load_ext", "tidb_magic")
    assert shell.configurables == before
    assert "'limit'" in str(no.value)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("deadline", 0), ("direct", "maybe"), ("max_victims", "x")])
def test_a_bad_value_is_refused(shell: InteractiveShell, name: str, value: Any) -> None:
    before = getattr(magics(shell), name)
    with pytest.raises(TraitError):
        setattr(magics(shell), name, value)
    assert getattr(magics(shell), name) == before


def test_timeout_is_that_of_a_kill(connected: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    kill = Cluster.kill

    def noted(self: Cluster, victims: Any, **how: Any) -> Any:
        given.append(how["timeout"])
        return kill(self, victims, **how)

    monkeypatch.setattr(Cluster, "kill", noted)
    connected.run_line_magic("config", "TidbMagics.timeout = 4")
    connected.run_line_magic("tidb_kill", "12345678")
    connected.run_line_magic("tidb_kill", "12345678 --timeout 2")
    assert given == [4.0, 2.0]


# -- show_sql ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hidden(shell: InteractiveShell) -> Iterator[InteractiveShell]:
    magics(shell).show_sql = False
    yield shell
    magics(shell).show_sql = True


def test_without_show_sql_a_list_shows_what_kind_of_statement_runs(hidden: InteractiveShell) -> None:
    frame = listed(session(1, INFO=SECRET), session(2, INFO=f"/* {SECRET} */ update x"), session(3, INFO="(1)"))
    given = part(frame, frame, Rights("ann", others=True))
    shown = "".join(map(repr, (frame, frame.head(1), frame._repr_html_(), given)))
    assert "card" not in shown
    for kind in ("SELECT …", "UPDATE …", " …"):
        assert kind in repr(frame)
    assert frame["INFO"].iloc[0] == SECRET  # what a kill is compared with
    magics(hidden).show_sql = True
    assert SECRET in repr(frame)


def test_without_show_sql_the_table_hands_no_statement_to_the_browser(
    hidden: InteractiveShell, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = listed(session(1, INFO=SECRET))
    frame.origin = cluster.processlist().origin
    table = SessionTable(frame, TableSettings(3.0, 50, 10.0, 2.0))
    heard: list[Any] = []
    monkeypatch.setattr(table, "send", heard.append)
    version = table.version
    table._hear(None, {"kind": "text", "version": version, "instance": "10.0.0.1:10080", "id": "1"}, [])
    assert eventually(lambda: heard)[0]["text"] == "SELECT …"
    assert "card" not in str(table.get_state())
    table.close()


def test_without_show_sql_a_report_and_the_locks_show_none(hidden: InteractiveShell, playground: Playground) -> None:
    hidden.run_line_magic("tidb_connect", playground.url(0))
    with Client(playground, 1) as holder, Client(playground, 2) as waiter, Client(playground) as root:
        root.query("CREATE TABLE IF NOT EXISTS test.cards (number VARCHAR(20) PRIMARY KEY, owner VARCHAR(20), n INT)")
        root.query("REPLACE INTO test.cards VALUES ('4711-0815', 'ann', 0)")
        holder.query("BEGIN")
        holder.query("UPDATE test.cards SET n = n + 1 WHERE number = '4711-0815'")
        waiter.query("BEGIN")
        waiter.start("UPDATE test.cards SET n = n + 1 WHERE number = '4711-0815'")
        forest = eventually(
            lambda: (found := hidden.run_line_magic("tidb_ps", "--locks")) and len(found.roots) and found
        )
        counts = hidden.run_line_magic("tidb_ps", "--by USER,INFO")
        report = hidden.run_line_magic("tidb_kill", "QUERY --match 4711 --command Query --yes")
    shown = "".join(
        one + two for one, two in ((repr(x), x._repr_html_()) for x in (forest, forest.frame, report, counts))
    )
    assert "0815" not in shown
    assert "test.cards" in shown
    assert "UPDATE …" in shown
    assert "0815" in str(forest.waits["LOCK"].tolist())
