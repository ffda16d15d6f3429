"""What %tidb_connect keeps open: one cluster or several, by their aliases."""

from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from tests.clients import Client
from tests.tracebacks import with_locals
from tidb_magic.errors import NotConnectedError, SettingsError, TidbMagicError
from tidb_magic.playground import Playground

PLANTED = "planted-s3cret"


def connect(shell: InteractiveShell, line: str = "") -> Any:
    return shell.run_line_magic("tidb_connect", line)


def test_with_an_alias_two_are_kept_and_a_word_switches(
    shell: InteractiveShell, playground: Playground, ids64: Playground
) -> None:
    one = connect(shell, f"{playground.url(0)} --alias one")
    two = connect(shell, f"--alias two {ids64.url(0)}")
    assert connect(shell) is two
    assert shell.run_line_magic("tidb_ps", "")["ID"].max() > 2**32
    assert connect(shell, "one") is one
    assert shell.run_line_magic("tidb_ps", "")["ID"].max() < 2**32
    assert not two.closed


def test_the_list_shows_what_is_connected_and_what_matters_for_a_kill(
    shell: InteractiveShell, playground: Playground, no_global_kill: Playground, users: dict[str, str]
) -> None:
    connect(shell, f"{no_global_kill.url(0)} --alias old")
    shell.user_ns["url"] = playground.url(1).replace("root", f"joe:{PLANTED}")
    connect(shell, "url")
    listed = connect(shell, "--list")
    assert listed.to_dict("records") == [
        {
            "ALIAS": "old",
            "CURRENT": False,
            "ADDRESS": f"root@127.0.0.1:{no_global_kill.port(0)}",
            "SOURCE": "",
            "VERSION": "v8.5.6",
            "INSTANCES": 3,
            "GLOBAL_KILL": False,
            "SEES": "all",
            "MAY_END": "all",
            "TLS": "no TLS",
            "CAUTIONS": "compatible-kill-query is on",
        },
        {
            "ALIAS": "",
            "CURRENT": True,
            "ADDRESS": f"joe@127.0.0.1:{playground.port(1)}",
            "SOURCE": "the variable url",
            "VERSION": "v8.5.6",
            "INSTANCES": 3,
            "GLOBAL_KILL": True,
            "SEES": "own",
            "MAY_END": "own",
            "TLS": "no TLS",
            "CAUTIONS": "",
        },
    ]
    assert "compatible-kill-query is on" in repr(listed)
    assert "2 connections." in listed._repr_html_()
    assert PLANTED not in repr(listed) + listed._repr_html_() + repr(connect(shell))


def test_an_empty_list_says_what_to_type(shell: InteractiveShell) -> None:
    assert "0 connections. Type: %tidb_connect mysql://user@host:4000" in repr(connect(shell, "--list"))


def test_one_without_an_alias_replaces_the_last_such_one_only(shell: InteractiveShell, playground: Playground) -> None:
    named = connect(shell, f"{playground.url(0)} --alias named")
    first = connect(shell, playground.url(1))
    second = connect(shell, playground.url(2))
    assert (named.closed, first.closed, second.closed) == (False, True, False)
    assert list(connect(shell, "--list")["ALIAS"]) == ["named", ""]


def test_an_alias_that_is_given_again_is_the_new_one(shell: InteractiveShell, playground: Playground) -> None:
    first = connect(shell, f"{playground.url(0)} --alias prod")
    second = connect(shell, f"{playground.url(1)} --alias prod")
    assert (first.closed, connect(shell, "prod")) == (True, second)


def test_what_is_connected_can_get_an_alias_later(shell: InteractiveShell, playground: Playground) -> None:
    cluster = connect(shell, playground.url(0))
    assert connect(shell, "--alias prod") is cluster
    assert connect(shell, "prod --alias main") is cluster
    assert list(connect(shell, "--list")["ALIAS"]) == ["main"]


def test_after_close_no_other_cluster_takes_its_place_unnoticed(
    shell: InteractiveShell, playground: Playground
) -> None:
    one = connect(shell, f"{playground.url(0)} --alias one")
    two = connect(shell, f"{playground.url(1)} --alias two")
    assert connect(shell, "--close") is two
    assert repr(two) == f"<Cluster {two.address}: closed>"
    for line in ("", "--close"):
        with pytest.raises(NotConnectedError, match="one"):
            connect(shell, line)
    with pytest.raises(NotConnectedError, match="there are: one"):
        shell.run_line_magic("tidb_ps", "")
    assert connect(shell, "one") is one
    connect(shell, "one --close")
    assert one.closed
    for line in ("--close", ""):
        with pytest.raises(NotConnectedError, match="Type: %tidb_connect"):
            connect(shell, line)


def test_a_cluster_that_a_program_closed_is_not_connected_any_more(
    shell: InteractiveShell, playground: Playground
) -> None:
    connect(shell, playground.url(0)).close()
    assert len(connect(shell, "--list")) == 0
    with pytest.raises(NotConnectedError, match="Type: %tidb_connect"):
        shell.run_line_magic("tidb_ps", "")
    assert not connect(shell, playground.url(0)).closed


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("--list prod", UsageError, "--list stands alone, and --close with an alias or alone"),
        ("--close --alias x", UsageError, "--list stands alone, and --close with an alias or alone"),
        ("mysql://db --alias 'a b'", UsageError, "argument --alias: letters, digits, - and _"),
        ("mysql://db --alias sql", UsageError, "letters, digits, - and _, and neither sql nor playground"),
        ("mysql://db --alias ''", UsageError, "argument --alias: letters"),
        ("mysql://db --ssl-ca ''", UsageError, "argument --ssl-ca: it is empty"),
        ("--section ''", UsageError, "argument --section: it is empty"),
        ("mysql://db --section prod", SettingsError, "Name one thing to connect to"),
        ("mysql://db --ssl-ca /nowhere/ca.pem", SettingsError, "there is no file /nowhere/ca.pem"),
        ("main --ssl-ca /nowhere/ca.pem", UsageError, "main is already connected: --close it first"),
        ("main --alias other", UsageError, "other is another connection, to root@.*: --close it first"),
        ("--alias other", UsageError, "other is another connection, to root@.*: --close it first"),
        ("nothing", SettingsError, "The variable nothing holds None, nothing to connect to"),
        ("db.example.com:4000", SettingsError, "Did you mean mysql://db.example.com:4000\\?"),
        ("--ssl-ca /nowhere/ca.pem", NotConnectedError, "No cluster is configured"),
        (f"joe:{PLANTED}@db:4000", SettingsError, r"^'\.\.\.@db:4000' is not a URL"),
        ("prod", SettingsError, "'prod' is not a URL .*, a variable or an alias \\(there are: other, main\\)"),
        ("prod --close", SettingsError, "No connection is called 'prod': %tidb_connect --list shows them"),
        ("text", SettingsError, "The variable text holds a text that is not a URL"),
        ("number", SettingsError, "builtins.int is neither a URL nor"),
        ("url", SettingsError, r"Cannot connect \(the variable url\): the port is not a number"),
    ],
)
def test_a_mistake_is_one_line_and_what_is_connected_stays(
    shell: InteractiveShell, playground: Playground, line: str, kind: type[Exception], says: str
) -> None:
    connect(shell, f"{playground.url(1)} --alias other")
    cluster = connect(shell, f"{playground.url(0)} --alias main")
    shell.user_ns |= {"nothing": None, "text": PLANTED, "number": 5, "url": f"mysql://joe:{PLANTED}@db:port"}
    with pytest.raises(kind, match=says) as refused:
        connect(shell, line)
    assert "\n" not in str(refused.value)
    assert PLANTED not in str(refused.value)
    if isinstance(refused.value, TidbMagicError) and PLANTED not in line:  # which is in the frames of IPython
        assert PLANTED not in with_locals(refused.value)
    assert connect(shell, "main") is cluster
    assert not cluster.closed


def test_a_connection_that_the_server_ended_is_replaced_before_it_is_used(
    shell: InteractiveShell, playground: Playground, every_statement: list[str]
) -> None:
    cluster = connect(shell, playground.url(0))
    cluster.processlist()
    with Client(playground, 1) as client:
        cluster.kill([client.id])  # opens a connection to its instance
    ours = [cluster._pool._main, *cluster._pool._owners]
    with Client(playground, 0) as root, Client(playground, 1) as victim:
        for one in ours:
            root.query(f"KILL TIDB CONNECTION {one.id}")
        while any(one.open for one in ours):
            pass
        before = [one.id for one in ours]
        listed = cluster.processlist()
        assert (listed.complete, listed.remarks) == (True, ())
        report = cluster.kill([victim.id])
        assert list(report["OUTCOME"]) == ["killed"]
        now = [one.id for one in (cluster._pool._main, *cluster._pool._owners)]
        assert set(now).isdisjoint(before)
        assert [one._driver._sock for one in ours] == [None, None]  # not left to the garbage collector


def test_an_open_connection_is_not_taken_for_lost(shell: InteractiveShell, playground: Playground) -> None:
    cluster = connect(shell, playground.url(0))
    before = cluster._pool.connection().id
    for _ in range(3):
        cluster.processlist(idle=True)
    assert cluster._pool.connection().id == before
