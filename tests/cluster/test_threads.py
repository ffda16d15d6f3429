"""Many threads on one Cluster, while an instance freezes and wakes: no outcome is wrong, and no stranger is hit."""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

import tidb_magic
from tests.clients import LONG_SELECT, Client
from tests.kill.test_kill import INTERRUPTED
from tidb_magic import Cluster
from tidb_magic.playground import Playground

SECONDS = 60
FROZEN = 1
STRANGERS = "SELECT /* stranger */ SUM(SLEEP(0.05)) FROM test.numbers AS a, test.numbers AS b"  # for hours


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


class Work:
    """What the threads do, each again and again; every method returns what was wrong."""

    def __init__(self, cluster: Cluster, playground: Playground, strangers: Sequence[Client]) -> None:
        self.cluster, self.playground, self.strangers = cluster, playground, strangers
        self.over = threading.Event()
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()

    def repeat(self, name: str, number: int) -> None:
        chance = random.Random(number)
        while not self.over.is_set():
            try:
                self.wrong += getattr(self, name)(chance)
            except Exception as error:  # noqa: BLE001 (none is expected)
                self.wrong.append(f"{name}: {error!r}")
            self.done[name] += 1

    def kill(self, chance: random.Random) -> list[str]:
        with Client(self.playground, chance.choice([0, 2])) as victim:
            victim.start(LONG_SELECT.format("victim"))
            while victim.id not in set(self.cluster.processlist(match="/. victim", limit=5000)["ID"]):
                pass
            row = self.cluster.kill([victim.id], query=True).iloc[0]
            if row["OUTCOME"] != "interrupted":
                return [f"{row['OUTCOME']}: {row['REASON']}"]
            code = victim.error_code()
            return [] if code == INTERRUPTED and victim.alive() else [f"interrupted, and the client got {code}"]

    def processlist(self, _: random.Random) -> list[str]:
        listed = self.cluster.processlist(limit=5000)
        theirs = {one.id for one in self.strangers if one.instance not in listed.missing}
        if theirs <= set(listed["ID"]) and (listed.complete or listed.remarks):
            return []
        return [f"strangers left out: {listed!r}"]

    def locks(self, _: random.Random) -> list[str]:
        return [] if len(self.cluster.locks().frame) == 0 else ["a wait for a lock that no session holds"]

    def instances(self, _: random.Random) -> list[str]:
        known = set(self.cluster.instances()["INSTANCE"])
        return [] if len(known) == 3 else [f"instances: {known}"]

    def counts(self, _: random.Random) -> list[str]:
        users = set(self.cluster.count_by("USER")["USER"])
        return [] if "root" in users else [f"users: {users}"]

    def freeze(self, chance: random.Random) -> list[str]:
        self.playground.freeze(FROZEN)
        self.over.wait(chance.uniform(0.1, 4))
        self.playground.resume(FROZEN)
        self.over.wait(chance.uniform(0.1, 4))
        return []


THREADS = [*["kill"] * 6, *["processlist"] * 4, *["locks"] * 2, *["instances"] * 2, "counts", "freeze"]


@pytest.mark.slow
@pytest.mark.product_deadlines
@pytest.mark.usefixtures("_switching")
def test_sixteen_threads_on_one_cluster_get_no_wrong_outcome(healed: Playground) -> None:
    with tidb_magic.connect(healed.url(0)) as cluster, Client(healed, 0) as first, Client(healed, 2) as second:
        strangers = [one.start(STRANGERS) for one in (first, second)]
        work = Work(cluster, healed, strangers)
        threads = [threading.Thread(target=work.repeat, args=(name, number)) for number, name in enumerate(THREADS)]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS)
        work.over.set()
        for thread in threads:
            thread.join()
        assert work.wrong == []
        assert work.done.keys() == set(THREADS)
        assert all(one._thread and one._thread.is_alive() for one in strangers)
