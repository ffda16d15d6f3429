"""Connecting from Python: passwords, and that they show nowhere."""

import pickle
import sys
from functools import partial
from typing import Any

import pytest

import tidb_magic
from tests.tracebacks import with_locals
from tidb_magic import Cluster
from tidb_magic.api import PasswordInUrlWarning
from tidb_magic.connection.settings import Secret
from tidb_magic.errors import AuthenticationError, ConnectError, CopyError, Interrupted, TidbMagicError
from tidb_magic.playground import Playground

PLANTED = "planted-s3cret"


@pytest.fixture
def url(playground: Playground, users: dict[str, str]) -> str:
    return playground.url(1).replace("root", "joe")


def test_an_empty_password_is_tried_before_anybody_is_asked(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getpass", lambda _: pytest.fail("asked"))
    tidb_magic.connect(playground.url(0)).close()


def test_a_person_is_asked_for_the_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return PLANTED

    monkeypatch.setattr("getpass.getpass", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with tidb_magic.connect(url) as cluster:
        assert len(cluster.processlist()) == 1
        cluster._pool.connection().close()
        assert len(cluster.processlist()) == 1  # it connects again without asking
    assert asked == [f"Password for joe@127.0.0.1:{url.rpartition(':')[2]}: "]


@pytest.mark.parametrize("problem", [EOFError, NotImplementedError])
def test_without_a_person_the_error_says_how_to_pass_it(
    url: str, monkeypatch: pytest.MonkeyPatch, problem: type[Exception]
) -> None:
    def nobody(_: str) -> str:
        raise problem

    with pytest.raises(AuthenticationError, match="it cannot be prompted for here"):
        tidb_magic.connect(url)  # the tests have no terminal
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", nobody)
    with pytest.raises(AuthenticationError, match=r"Pass it as connect\(url, password=...\)"):
        tidb_magic.connect(url)


def test_a_password_in_the_url_works_and_is_warned_about(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(PasswordInUrlWarning, match="stays in this notebook") as warned:
        tidb_magic.connect(url.replace("joe", f"joe:{PLANTED}")).close()
    shown = [f"{one.filename} {one.message} {one.line or ''}" for one in warned]
    assert not any(PLANTED in text for text in shown)
    assert warned[0].filename == "tidb_magic.connect"  # a warning shows the line it points to: there is none


def test_a_planted_password_shows_nowhere(url: str, recwarn: pytest.WarningsRecorder) -> None:
    shown: list[str] = []
    with tidb_magic.connect(url, password=PLANTED) as cluster:
        connection = cluster._pool.connection()
        listed, report = cluster.processlist(), cluster.kill([7])
        for thing in (cluster, cluster._pool, connection, connection.settings, listed, report):
            shown += [repr(thing), str(thing), repr(getattr(thing, "__dict__", ""))]
        shown += [repr(vars(connection._driver)), listed._repr_html_() or "", report._repr_html_() or ""]
        shown += [pickle.dumps(one).decode("latin1") for one in (listed, report)]
        with pytest.raises(CopyError):
            pickle.dumps(cluster)
        for sql, deadline in (("SELECT nothing", 5), ("SELECT SLEEP(5)", 0.2), ("SELECT 1", 5)):
            with pytest.raises(TidbMagicError) as failed:
                connection.query(sql, deadline=deadline)
            shown.append(with_locals(failed.value))
    assert not any(PLANTED in text for text in shown)


@pytest.mark.parametrize("where", ["127.0.0.1:1", "localhost:1", "no.such.host.invalid:4000"])
def test_a_planted_password_shows_in_no_traceback_of_a_failed_connect(where: str) -> None:
    with pytest.raises(TidbMagicError) as failed:
        tidb_magic.connect(f"mysql://joe@{where}", password=PLANTED)
    assert PLANTED not in with_locals(failed.value)
    with pytest.warns(PasswordInUrlWarning), pytest.raises(TidbMagicError) as typed:
        tidb_magic.connect(f"mysql://joe:{PLANTED}@{where}")
    assert PLANTED not in with_locals(typed.value)


@pytest.mark.parametrize("hit", ["connect", "_request_authentication", "_get_server_information"])
def test_a_planted_password_shows_in_no_traceback_of_an_interrupt(
    url: str, monkeypatch: pytest.MonkeyPatch, hit: str
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pymysql.connections.Connection.{hit}", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"No connection was opened\.") as interrupted:
        tidb_magic.connect(url, password=PLANTED)
    assert PLANTED not in with_locals(interrupted.value)


@pytest.mark.parametrize(
    ("problem", "raised"),
    [(OSError, ConnectError), (RuntimeError, ConnectError), (KeyboardInterrupt, Interrupted)],
)
def test_frames_of_the_driver_that_hold_the_password_are_cut_off(
    url: str, monkeypatch: pytest.MonkeyPatch, problem: type[BaseException], raised: type[BaseException]
) -> None:
    def broken(password: bytes, _: bytes) -> bytes:
        raise problem(len(password))

    monkeypatch.setattr("pymysql._auth.scramble_native_password", broken)
    with pytest.raises(raised) as failed:
        tidb_magic.connect(url, password=PLANTED)
    assert PLANTED not in with_locals(failed.value)


def test_the_secret_is_forgotten_by_the_driver(url: str) -> None:
    with tidb_magic.connect(url, password=PLANTED) as cluster:
        assert cluster._pool.connection()._driver.password == b""
        assert isinstance(cluster._pool.settings.password, Secret)


def test_the_traceback_helper_sees_what_a_frame_holds() -> None:
    def leak(password: str) -> None:
        raise ValueError(len(password))

    with pytest.raises(ValueError, match=str(len(PLANTED))) as leaked:
        leak(PLANTED)
    assert PLANTED in with_locals(leaked.value)


def test_a_cluster_says_what_matters_for_a_kill(playground: Playground, no_global_kill: Playground, url: str) -> None:
    with tidb_magic.connect(playground.url(0)) as cluster:
        assert repr(cluster).startswith("<Cluster root@127.0.0.1:")
        assert "TiDB v8.5.6, 3 instances, global kill on, sees all sessions, may end all sessions" in repr(cluster)
    with tidb_magic.connect(no_global_kill.url(0)) as cluster:
        assert "global kill off" in repr(cluster)
        assert "caution: compatible-kill-query is on" in repr(cluster)
    with tidb_magic.connect(url, password=PLANTED) as cluster:
        assert "sees own sessions, may end own sessions" in repr(cluster)


@pytest.mark.parametrize(
    ("view", "statements"), [("processlist", 1), ("count_by", 1), ("instances", 2), ("locks", 5 + 3), ("waiting", 1)]
)
def test_each_view_takes_as_many_statements_as_the_page_on_scale_says(
    cluster: Cluster, every_statement: list[str], view: str, statements: int
) -> None:
    read = partial(getattr(cluster, view), *(["USER"] if view == "count_by" else []))
    read()  # opens connections
    del every_statement[:]
    read()
    assert len(every_statement) == statements
