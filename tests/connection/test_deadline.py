"""One thread for all deadlines, and none when nobody waits."""

import threading
import time

import pytest

from tests.clients import eventually
from tidb_magic.connection import deadline
from tidb_magic.connection.deadline import Watchdog


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "tidb_magic-deadlines"]


def test_each_acts_at_its_time_whatever_the_order_and_the_forgotten_ones_never() -> None:
    dog, acted = Watchdog(), list[str]()
    began = time.monotonic()
    moments: dict[str, float] = {}

    def act(name: str) -> None:
        acted.append(name)
        moments[name] = time.monotonic() - began

    dog.watch(0.6, lambda: act("last"))
    forgotten = dog.watch(0.4, lambda: act("forgotten"))
    dog.watch(0.2, lambda: act("first"))
    dog.forget(forgotten)
    eventually(lambda: len(acted) == 2)
    assert acted == ["first", "last"]
    assert moments["first"] >= 0.2
    assert moments["last"] >= 0.6


def test_at_rest_there_is_no_thread_and_a_watch_starts_one_again() -> None:
    dog = Watchdog()
    for _ in range(20):
        dog.forget(dog.watch(3_600, lambda: None))
        dog.rest()
        assert dog._thread is not None
        assert not dog._thread.is_alive()
    watch = dog.watch(3_600, lambda: None)
    dog.rest()  # somebody waits
    assert dog._thread is not None
    assert dog._thread.is_alive()
    dog.forget(watch)
    dog.rest()


def test_to_end_the_thread_does_not_wait_until_it_would_end_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "_IDLE", 20.0)
    dog, began = Watchdog(), time.monotonic()
    dog.forget(dog.watch(3_600, lambda: None))
    dog.rest()
    assert time.monotonic() - began < 20


def test_many_share_a_thread_that_ends_when_nobody_waits() -> None:
    eventually(lambda: not threads())
    dog = Watchdog()
    watches = [dog.watch(3_600, lambda: None) for _ in range(100)]
    assert len(threads()) == 1
    for watch in watches:
        dog.forget(watch)
    eventually(lambda: not threads(), within=10)
    acted = threading.Event()
    dog.watch(0.01, acted.set)
    assert acted.wait(10)
    eventually(lambda: not threads(), within=10)
