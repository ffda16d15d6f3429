"""One thread for all deadlines, and none when nobody waits."""

import threading
import time
from contextlib import ExitStack

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

    with dog.watch(0.6, lambda: act("last")), dog.watch(0.2, lambda: act("first")):
        with dog.watch(0.4, lambda: act("forgotten")):
            pass
        eventually(lambda: len(acted) == 2)
    assert acted == ["first", "last"]
    assert moments["first"] >= 0.2
    assert moments["last"] >= 0.6


def test_at_rest_there_is_no_thread_and_a_watch_starts_one_again() -> None:
    dog = Watchdog()
    for _ in range(20):
        with dog.watch(3_600, lambda: None):
            assert dog._thread is not None
        dog.rest()
        assert dog._thread is None
    with dog.watch(3_600, lambda: None):
        dog.rest()  # a watch is open
        assert dog._thread is not None
    dog.rest()


def test_to_end_the_thread_does_not_wait_until_it_would_end_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "_IDLE", 20.0)
    dog, began = Watchdog(), time.monotonic()
    with dog.watch(3_600, lambda: None):
        pass
    dog.rest()
    assert time.monotonic() - began < 20


def test_many_share_a_thread_that_ends_when_nobody_waits() -> None:
    eventually(lambda: not threads())
    dog = Watchdog()
    with ExitStack() as watches:
        for _ in range(100):
            watches.enter_context(dog.watch(3_600, lambda: None))
        assert len(threads()) == 1
    eventually(lambda: not threads(), within=10)
    acted = threading.Event()
    with dog.watch(0.01, acted.set):
        assert acted.wait(10)
    eventually(lambda: not threads(), within=10)
