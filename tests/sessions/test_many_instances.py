"""Lists of clusters with more instances than a machine can run: simulated ones."""

import threading
from typing import Any

import pytest

import tidb_magic
from benchmarks.simulated import Options, simulated
from tests.clients import LONG
from tidb_magic.cluster import pool
from tidb_magic.cluster.monitor import Monitor
from tidb_magic.sessions.fanout import _AT_ONCE, Asked, FanOut


def test_the_list_of_many_instances_is_one_statement(every_statement: list[str]) -> None:
    with simulated(Options(instances=120, sessions=6_000)) as url, tidb_magic.connect(url) as cluster:
        del every_statement[:]
        listed = cluster.processlist(deadline=LONG)
        assert (len(listed), listed.hidden, listed.complete) == (200, 5_800, True)
        assert len(every_statement) == 1
        assert cluster._pool._owners == []


def test_of_many_instances_some_are_asked_at_once_and_as_many_connections_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be asked at once by a thread, and keep a connection, otherwise."""
    ask, lock, at_work, most = FanOut._ask_one, threading.Lock(), list[str](), list[int]()

    def counted(self: FanOut, name: str, asked: Asked) -> None:
        with lock:
            at_work.append(name)
            most.append(len(at_work))
        ask(self, name, asked)
        with lock:
            at_work.remove(name)

    monkeypatch.setattr(FanOut, "_ask_one", counted)
    monkeypatch.setattr("tidb_magic.sessions.fanout._LONG", LONG)  # else those that take long count no more
    silent = 70
    with (
        simulated(Options(instances=150, sessions=1_500, silent=frozenset({silent}))) as url,
        tidb_magic.connect(url) as cluster,
    ):
        listed: Any = cluster.processlist(deadline=2, limit=1_000)
        assert listed.missing == (f"10.0.{silent}.1:10080",)
        assert listed["INSTANCE"].nunique() == 149
        assert max(most) <= _AT_ONCE
        assert len(cluster._pool._owners) <= pool._MOST + 1


def test_how_long_an_instance_took_to_respond_is_noted_once_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is kept since then is found at once, which says nothing."""
    noted: list[float] = []
    monkeypatch.setattr(Monitor, "responded", lambda _self, _name, seconds: noted.append(seconds))
    options = Options(instances=20, sessions=200, silent=frozenset({7}))
    with simulated(options) as url, tidb_magic.connect(url) as cluster:
        assert len(cluster.processlist(deadline=2).missing) == 1
    assert len(noted) == 19
    assert min(noted) >= options.delay
