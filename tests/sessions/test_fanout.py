"""A list when an instance, PD or the way there is silent."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

import tidb_magic
from tests.balancer import Balancer
from tests.clients import LONG, LONG_SELECT, OTHER_WORK, Client, Gate, eventually, statements
from tidb_magic import Cluster, ProcessList
from tidb_magic.cluster import topology
from tidb_magic.cluster.monitor import SPREAD
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import PATIENCE, Deadline
from tidb_magic.connection.row_reader import Result
from tidb_magic.errors import DeadlineError, Interrupted, NotConnectedError, ServerError, TidbMagicError
from tidb_magic.playground import Playground
from tidb_magic.sessions import fanout
from tidb_magic.sessions.gather import gather
from tidb_magic.sessions.membership import MembersQuestion


@pytest.fixture
def cluster(healed: Playground) -> Iterator[Cluster]:
    with tidb_magic.connect(healed.url(0)) as connected:
        yield connected


@pytest.fixture
def crowd(fragile: Playground, running: Any) -> Iterator[list[Client]]:
    """A session on each instance, of a user that nobody else uses."""
    with Client(fragile) as root:
        root.query("CREATE USER IF NOT EXISTS crowd")
        root.query("GRANT SELECT ON test.* TO crowd")

        def alone() -> bool:
            left = root.query("SELECT ID FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST WHERE USER = 'crowd'")
            for (number,) in left:  # of a test at whose end its instance was frozen
                root.query(f"KILL TIDB CONNECTION {number}")
            return not left

        eventually(alone)
    clients = [Client(fragile, instance, "crowd") for instance in range(3)]
    for client in clients:
        running(client.start(LONG_SELECT.format("crowd")))
    yield clients
    for client in clients:
        client.__exit__(None, None, None)


def timed(cluster: Cluster, **options: Any) -> tuple[float, ProcessList]:
    began = time.monotonic()
    listed = cluster.processlist(user="crowd", idle=True, **options)
    return time.monotonic() - began, listed


def once_complete(cluster: Cluster, *, within: float = 60) -> ProcessList:
    """Ask again until the list is complete, and return it."""
    give_up = time.monotonic() + within
    while not (listed := cluster.processlist(user="crowd", idle=True)).complete:
        assert time.monotonic() < give_up, "not complete in time"
        time.sleep(0.05)
    return listed


def ids(listed: ProcessList) -> list[int]:
    return sorted(int(number) for number in listed["ID"])


def of(*clients: Client) -> list[int]:
    return sorted(client.id for client in clients)


def left_running(fragile: Playground, instance: int, token: str) -> list[Any]:
    """Return the statements with this token that run on an instance."""
    with Client(fragile, instance) as root:
        rows = root.query(f"SELECT ID, INFO FROM INFORMATION_SCHEMA.PROCESSLIST WHERE INFO LIKE '%{token}%'")
        return [row for row in rows if row[0] != root.id]


@pytest.mark.product_deadlines
def test_one_frozen_instance_costs_the_deadline_once_and_is_named_until_it_wakes(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    silent = fragile.status_address(1)
    connection = cluster._pool.connection()
    fragile.freeze(1)
    spent, listed = timed(cluster)
    assert deadline - 0.1 < spent < deadline + OTHER_WORK
    assert ids(listed) == of(crowd[0], crowd[2]), listed
    assert not listed.complete
    assert listed.missing == (silent,)
    assert f"NOT COMPLETE: no answer from {silent}." in repr(listed)
    assert f"{silent}: it accepted the connection and sent no greeting within 3." in repr(listed)
    assert left_running(fragile, 0, connection.token) == []
    assert left_running(fragile, 2, connection.token) == []

    kept = {one.id for one in cluster._pool._owners if one.open}
    spent, listed = timed(cluster, deadline=LONG)
    assert spent < OTHER_WORK
    assert (ids(listed), listed.missing) == (of(crowd[0], crowd[2]), (silent,))
    assert listed.matched == 2
    assert {one.id for one in cluster._pool._owners if one.open} == kept  # used again
    instances = cluster.instances()
    row = instances[instances["INSTANCE"] == silent]
    assert set(row["ANSWERING"]) == {False}  # twice, if it was restarted within a minute
    assert row["SESSIONS"].isna().all()

    fragile.resume(1)
    again = once_complete(cluster)
    assert ids(again) == of(*crowd)
    eventually(lambda: not cluster._pool.monitor.degraded)
    asked = statements(cluster)
    assert cluster.processlist().remarks == ()
    assert len(asked) == 1


def test_an_incomplete_list_waits_for_pd_only_if_its_last_answer_is_old(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = "The registered instances are not known."
    fragile.freeze(1)
    timed(cluster)
    monkeypatch.setattr(MembersQuestion, "_update_members", lambda *_: None)  # PD does not answer
    monkeypatch.setattr(fanout, "_MEMBERS_AGE", LONG)
    spent, listed = timed(cluster, deadline=LONG)
    assert spent < OTHER_WORK
    assert (ids(listed), listed.missing) == (of(crowd[0], crowd[2]), (fragile.status_address(1),))
    assert unknown not in repr(listed)
    monkeypatch.setattr(fanout, "_MEMBERS_AGE", 0.0)
    spent, listed = timed(cluster)
    assert spent >= deadline
    assert unknown in repr(listed)
    fragile.resume(1)
    once_complete(cluster)


def test_when_the_instance_of_our_own_connection_freezes_the_others_are_read(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    own = cluster._pool.connection().id
    fragile.freeze(0)
    spent, listed = timed(cluster)
    assert spent < deadline + OTHER_WORK
    assert ids(listed) == of(crowd[1], crowd[2]), listed
    assert listed.missing == (fragile.status_address(0),)
    assert f"Our statement on connection {own} may still run on root@127.0.0.1:{fragile.port(0)}." in repr(listed)
    spent, listed = timed(cluster, deadline=LONG)
    assert spent < OTHER_WORK
    fragile.resume(0)
    assert ids(once_complete(cluster)) == of(*crowd)


@pytest.mark.product_deadlines
def test_frozen_pd_is_said_and_every_instance_known_before_is_read(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    own = cluster._pool.connection().id
    fragile.freeze("pd")
    spent, listed = timed(cluster)
    assert spent < deadline + OTHER_WORK
    assert ids(listed) == of(*crowd), listed
    assert not listed.complete
    assert listed.missing == ()
    assert "PD is not responding; the list of instances may be out of date" in repr(listed)
    assert f"Our statement on connection {own} may still run" in repr(listed)
    spent, listed = timed(cluster, deadline=LONG)
    assert spent < OTHER_WORK
    with tidb_magic.connect(fragile.url(2)) as late:
        spent, listed = timed(late, deadline=LONG)
        assert spent < OTHER_WORK
        assert ids(listed) == of(crowd[2])  # the local instance
        assert not listed.complete
        assert "PD is not responding" in repr(listed)
        fragile.resume("pd")
        for one in (late, cluster):
            again = once_complete(one)
            assert ids(again) == of(*crowd)


def test_an_instance_without_sessions_is_not_a_missing_one(fragile: Playground, cluster: Cluster) -> None:
    listed = cluster.processlist(user="crowd", idle=True)
    assert (len(listed), listed.complete, listed.missing) == (0, True, ())
    cluster._pool.monitor.degraded = True  # nobody watches: each instance is read by itself
    listed = cluster.processlist(user="crowd", idle=True)
    assert (len(listed), listed.complete, listed.missing) == (0, True, ())
    assert len(re.findall(r"127\.0\.0\.1:\d+", listed.remarks[-1])) == 3
    cluster._pool.monitor.degraded = False


@pytest.mark.parametrize("frozen", [1, 2])
def test_with_only_a_balancer_to_reach_the_others_are_read_through_it(
    fragile: Playground, crowd: list[Client], frozen: int, deadline: float
) -> None:
    with (
        Balancer([fragile.port(instance) for instance in range(3)]) as balancer,
        tidb_magic.connect(balancer.url(), direct="never") as cluster,
    ):
        fragile.freeze(frozen)
        try:
            spent, listed = timed(cluster)
            assert spent < deadline + OTHER_WORK
            assert listed.missing == (fragile.status_address(frozen),)
            assert ids(listed) == of(*(client for at, client in enumerate(crowd) if at != frozen)), listed
            spent, listed = timed(cluster, deadline=LONG)
            assert spent < OTHER_WORK
        finally:
            fragile.resume(frozen)
        again = once_complete(cluster)
        assert ids(again) == of(*crowd)


def test_a_statement_that_the_instances_do_not_accept_is_no_silence(
    fragile: Playground, cluster: Cluster, crowd: list[Client]
) -> None:
    cluster._pool.monitor.degraded = True
    with pytest.raises(TidbMagicError, match="where: TiDB does not accept the condition 'nosuch = 1'"):
        cluster.processlist(where="nosuch = 1")
    with pytest.raises(TidbMagicError, match="match: TiDB does not accept the pattern"):
        cluster.processlist(match="(")
    assert cluster._pool.monitor.unresponsive == {}
    cluster._pool.monitor.degraded = False


def test_filters_sorting_limit_and_counts_are_the_same_read_by_each_instance(
    fragile: Playground, cluster: Cluster, crowd: list[Client]
) -> None:
    asked: tuple[dict[str, Any], ...] = (
        {"user": "crowd"},
        {"user": "crowd", "limit": 2},
        {"user": "crowd", "sort": "ID"},
        {"user": "crowd", "sort": "instance", "limit": 2},
        {"where": "INSTANCE <> 'x' AND USER = 'crowd'", "idle": True},
        {"instance": fragile.status_address(1), "user": "crowd"},
    )
    for options in asked:
        cluster._pool.monitor.degraded = False
        whole = cluster.processlist(**options)
        cluster._pool.monitor.degraded = True
        apart = cluster.processlist(**options)
        same = ["INSTANCE", "ID", "USER", "INFO", "TXN_ID"]
        if "limit" not in options:
            assert sorted(map(str, whole[same].to_numpy())) == sorted(map(str, apart[same].to_numpy()))
        if "sort" in options:
            assert list(whole["ID"]) == list(apart["ID"])
        assert (whole.matched, whole.hidden, len(whole)) == (apart.matched, apart.hidden, len(apart))
        assert whole.dtypes.to_dict() == apart.dtypes.to_dict()
    apart_counts = cluster.count_by("INSTANCE", user="crowd")
    cluster._pool.monitor.degraded = False
    whole_counts = cluster.count_by("INSTANCE", user="crowd")
    same = ["INSTANCE", "SESSIONS", "ACTIVE"]
    assert list(map(str, whole_counts[same].to_numpy())) == list(map(str, apart_counts[same].to_numpy()))


@contextmanager
def ctrl_c_when(happened: Callable[[], object]) -> Iterator[None]:
    def press() -> None:
        eventually(happened)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pressed = threading.Thread(target=press)
    pressed.start()
    yield
    pressed.join()


def test_ctrl_c_ends_the_reading_of_single_instances(
    fragile: Playground, cluster: Cluster, crowd: list[Client]
) -> None:
    assert cluster.processlist().complete
    cluster._pool.monitor.degraded = True
    assert cluster.processlist().complete  # there is a connection to each
    asked = cluster._pool.idle_connection(fragile.status_address(1))
    assert asked
    fragile.freeze(1)
    with pytest.raises(Interrupted, match="Nothing was returned"), ctrl_c_when(lambda: asked.busy):
        cluster.processlist(deadline=LONG)
    fragile.resume(1)
    cluster._pool.monitor.unresponsive.clear()
    eventually(lambda: cluster.processlist(user="crowd").complete)
    cluster._pool.monitor.degraded = False


def test_ctrl_c_while_an_instance_is_silent_leaves_no_statement_of_ours(fragile: Playground, cluster: Cluster) -> None:
    connection = cluster._pool.connection()
    fragile.freeze(1)
    runs = partial(left_running, fragile, 0, connection.token)
    with pytest.raises(Interrupted, match="Our statement was ended on the server"), ctrl_c_when(runs):
        cluster.processlist(deadline=LONG)
    for instance in (0, 2):
        assert left_running(fragile, instance, connection.token) == []
    fragile.resume(1)
    assert left_running(fragile, 1, connection.token) == []


def test_while_no_instance_answers_it_is_waited_for_ten_deadlines(fragile: Playground, cluster: Cluster) -> None:
    for instance in range(3):
        fragile.freeze(instance)
    address = re.escape("127.0.0.1:") + r"\d+"
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(DeadlineError, match=rf"^No instance answered within .*({address}: it .* within .*){{3}}"):
            cluster.processlist(deadline=0.2)
    assert 2 * PATIENCE * 0.2 < time.monotonic() - began < OTHER_WORK
    for instance in range(3):
        fragile.resume(instance)
    eventually(lambda: not cluster._pool.monitor.degraded)
    assert cluster.processlist().complete


def test_the_first_instance_that_answers_ends_the_wait_for_all(fragile: Playground, cluster: Cluster) -> None:
    for instance in range(3):
        fragile.freeze(instance)
    with ThreadPoolExecutor(1) as executor:
        listed = executor.submit(cluster.processlist, idle=True, deadline=2)
        with pytest.raises(TimeoutError):
            listed.result(timeout=3)
        fragile.resume(1)
        assert set(listed.result()["INSTANCE"]) == {fragile.status_address(1)}
        assert not listed.result().complete
    for instance in (0, 2):
        fragile.resume(instance)


def test_what_is_slow_everywhere_is_waited_for_and_makes_no_instance_unresponsive(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    """As on a cluster whose CPUs are saturated: each instance responds, and takes longer than the deadline."""
    spent, listed = timed(cluster, where=f"SLEEP({2.5 * deadline}) >= 0")
    assert (ids(listed), listed.complete, cluster._pool.monitor.unresponsive) == (of(*crowd), True, {}), listed.remarks
    assert spent > 2.5 * deadline


def test_an_instance_that_responds_while_the_others_are_read_is_waited_for(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    fragile.freeze(1)
    with ThreadPoolExecutor(1) as executor:
        slowest = f"SLEEP(IF(@@port = {fragile.port(1)}, 3, 1)) >= 0"
        reading = executor.submit(timed, cluster, where=slowest)
        eventually(lambda: cluster._pool.monitor.degraded)
        fragile.resume(1)
        _, listed = reading.result()
    assert (ids(listed), listed.complete) == (of(*crowd), True), listed.remarks


def test_where_most_instances_took_long_to_respond_one_is_waited_for_beyond_the_deadline(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    for name in ("one", "another", "a third"):  # most, together with the two that run
        cluster._pool.monitor.responded(name, deadline)
    fragile.freeze(1)
    with ThreadPoolExecutor(1) as executor:
        listing = executor.submit(timed, cluster)
        with pytest.raises(TimeoutError):
            listing.result(timeout=2 * deadline)
        fragile.resume(1)
        _, listed = listing.result()
    assert (ids(listed), listed.missing) == (of(*crowd), ())


def test_one_instance_that_took_long_to_respond_does_not_make_the_others_be_waited_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = cluster._pool
    assert pool.monitor.grace(3) == 3
    pool.monitor.responded("slow", 2)  # as one of three that was frozen until now
    assert pool.monitor.grace(3) == 3
    pool.monitor.responded("fast", 0.01)
    assert pool.monitor.grace(3) == 3
    pool.monitor.responded("another", 1)
    assert pool.monitor.grace(3) == SPREAD * 1
    pool.monitor.responded("fast", 20)
    assert pool.monitor.grace(3) == SPREAD * 2
    pool.monitor.responded("another", 30)
    pool.monitor.responded("slow", 30)
    assert pool.monitor.grace(3) == PATIENCE * 3
    monkeypatch.setattr("tidb_magic.cluster.monitor._RECENT", 0)
    assert pool.monitor.grace(3) == 3


def test_an_instance_that_answers_late_is_back_in_the_next_list(
    fragile: Playground, cluster: Cluster, crowd: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidb_magic.cluster.monitor._RETRY", (LONG, LONG))  # so it is not the thread that notes it
    pool, name = cluster._pool, fragile.status_address(1)
    asked: list[str] = []
    query = Connection.query

    def spy(connection: Connection, sql: str, *args: Any, **options: Any) -> Result:
        if connection.instance == name and "PROCESSLIST" in sql:
            asked.append(sql)
        return query(connection, sql, *args, **options)

    pool.monitor.degraded = True
    assert cluster.processlist(user="crowd").complete  # there is a connection to each
    monkeypatch.setattr(Connection, "query", spy)
    fragile.freeze(1)
    for _ in range(3):
        assert timed(cluster)[1].missing == (name,)
    assert len(asked) == 1  # no more than one statement at a time
    fragile.resume(1)
    eventually(lambda: not pool.monitor.unresponsive)
    assert ids(timed(cluster)[1]) == of(*crowd)
    pool.monitor.degraded = False


def test_in_trouble_an_instance_that_can_be_reached_has_the_whole_deadline(
    fragile: Playground, cluster: Cluster, crowd: list[Client]
) -> None:
    cluster._pool.monitor.degraded = True
    listed = cluster.processlist(where="USER = 'crowd' AND SLEEP(0.9) >= 0", idle=True, deadline=20)
    assert (ids(listed), listed.complete) == (of(*crowd), True)
    cluster._pool.monitor.degraded = False


def test_a_kept_connection_that_was_lost_is_opened_again(
    fragile: Playground, cluster: Cluster, crowd: list[Client]
) -> None:
    fragile.freeze(2)
    _, listed = timed(cluster)
    assert listed.missing == (fragile.status_address(2),)
    kept = cluster._pool.idle_connection(fragile.status_address(1))
    assert kept is not None
    with Client(fragile, 1) as root:
        root.query(f"KILL TIDB CONNECTION {kept.id}")
    _, listed = timed(cluster)
    assert ids(listed) == of(crowd[0], crowd[1]), listed
    fragile.resume(2)


def test_a_password_that_was_changed_meanwhile_is_not_tried_again_and_again(
    fragile: Playground, cluster: Cluster
) -> None:
    """Some accounts are locked after a few wrong ones."""
    with Client(fragile) as root:
        root.query("CREATE USER IF NOT EXISTS changed IDENTIFIED BY 'before'")
        with tidb_magic.connect(fragile.url(0).replace("root", "changed"), password="before") as theirs:
            fragile.freeze(1)
            assert theirs.processlist().missing == (fragile.status_address(1),)
            (watch,) = (one for one in theirs._pool._threads if one.name == "tidb_magic_look_after")
            assert watch.is_alive()
            root.query("ALTER USER changed IDENTIFIED BY 'after' FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME 1")
            eventually(lambda: not watch.is_alive())
            assert len(theirs.processlist(idle=True)) >= 1  # by the connections that are open
        fragile.resume(1)
        with tidb_magic.connect(fragile.url(0).replace("root", "changed"), password="after") as again:
            assert again.processlist().complete
        root.query("DROP USER changed")


def test_threads_that_share_a_cluster_do_not_wait_for_each_other_nor_blame_a_healthy_instance(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    fragile.freeze(2)
    with ThreadPoolExecutor(4) as executor:
        found = [one.result() for one in [executor.submit(timed, cluster) for _ in range(4)]]
    fragile.resume(2)
    for spent, listed in found:
        assert spent < deadline + OTHER_WORK
        assert listed.missing == (fragile.status_address(2),)
        assert ids(listed) == of(crowd[0], crowd[1]), listed


def test_two_threads_that_look_for_the_same_instance_both_find_it(fragile: Playground) -> None:
    with tidb_magic.connect(fragile.url(0)) as cluster, ThreadPoolExecutor(4) as executor:
        pool = cluster._pool
        there = next(one for one in pool.topology.membership.instances if one.name == fragile.status_address(1))
        found = [one.result() for one in [executor.submit(pool.connect_to, there, 5.0) for _ in range(4)]]
        assert len({one.id for one in found}) == 1
        assert all(one.open for one in found)


def test_a_kept_connection_to_the_same_address_takes_the_place_of_a_lost_one(
    fragile: Playground, cluster: Cluster
) -> None:
    """On a saturated cluster a new one takes seconds."""
    pool = cluster._pool
    main, here = pool.connection(), pool.topology.registered()[fragile.status_address(0)]
    with Gate(fragile) as gate, ThreadPoolExecutor(1) as executor:
        waits = executor.submit(main.query, gate.statement("busy"), deadline=LONG)
        eventually(lambda: main.busy)
        spare = pool.connect_to(here, LONG)
        assert spare is not main
        gate.open()
        waits.result()
    main.close()
    assert pool.connection() is spare
    assert cluster.processlist().complete


def test_one_instance_that_refuses_a_statement_is_named_and_the_others_are_read(
    fragile: Playground, cluster: Cluster
) -> None:
    """As one of an older version does, or one that is shutting down."""
    refusing = fragile.status_address(1)

    def ask(connection: Connection, instance: str | None, due: Deadline) -> list[Result]:
        if instance == refusing:
            raise ServerError("Server shutdown in progress (error 1053)", 1053)
        return [connection.query("SELECT 1", deadline=due.left)]

    cluster._pool.monitor.degraded = True
    gathered = gather(cluster._pool, ask, 3)
    cluster._pool.monitor.degraded = False
    assert (len(gathered.parts), gathered.complete, gathered.missing) == (2, False, (refusing,))
    assert f"{refusing}: Server shutdown in progress (error 1053)." in gathered.remarks
    assert cluster._pool.monitor.unresponsive == {}


def test_what_pd_says_meanwhile_does_not_make_a_list_complete(
    fragile: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread in the background learns of two more instances after the known one was read."""
    pool = cluster._pool
    everybody = pool.topology.membership.instances
    pool.monitor.degraded = True
    pool.topology.membership = topology.Membership((everybody[0],), pd_unresponsive=True)
    enough = fanout.FanOut._enough

    def meanwhile(reading: Any) -> bool:
        if enough(reading):
            pool.update_members(everybody)
            return True
        return False

    monkeypatch.setattr(fanout.FanOut, "_enough", meanwhile)
    assert not cluster.processlist(idle=True).complete
    pool.monitor.degraded = False


def test_a_condition_may_name_the_table_in_trouble_too(
    fragile: Playground, cluster: Cluster, crowd: list[Client]
) -> None:
    for degraded in (False, True):
        cluster._pool.monitor.degraded = degraded
        assert ids(cluster.processlist(where="CLUSTER_PROCESSLIST.USER = 'crowd'", idle=True)) == of(*crowd)
    cluster._pool.monitor.degraded = False


def test_a_closed_cluster_says_so(fragile: Playground) -> None:
    cluster = tidb_magic.connect(fragile.url(0))
    cluster.close()
    for ask in (cluster.processlist, cluster.instances, lambda: cluster.kill(5)):
        with pytest.raises(NotConnectedError, match="This cluster was closed"):
            ask()
    cluster.close()


def test_closing_in_trouble_leaves_no_thread_and_no_connection(fragile: Playground, deadline: float) -> None:
    cluster = tidb_magic.connect(fragile.url(0))
    fragile.freeze("pd")
    try:
        cluster.processlist()
        eventually(lambda: cluster._pool._probe)  # it asks PD, which takes TiDB 6 s
        began = time.monotonic()
        cluster.close()
        assert time.monotonic() - began < OTHER_WORK
    finally:
        fragile.resume("pd")
    eventually(lambda: not [one.name for one in threading.enumerate() if one.name.startswith("tidb_magic")])
    assert all(not one.open for one in [cluster._pool._main, *cluster._pool._owners])


def test_where_no_table_names_the_instances_the_seen_ones_are_listed(
    fragile: Playground, cluster: Cluster, crowd: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on TiDB Cloud Starter, where CLUSTER_INFO and TIDB_SERVERS_INFO do not exist."""

    def absent(*_: object) -> Any:
        raise ServerError("Table 'INFORMATION_SCHEMA.CLUSTER_INFO' doesn't exist (error 1146)", 1146)

    monkeypatch.setattr(topology, "_cluster_info", absent)
    monkeypatch.setattr(topology, "_servers", absent)
    with tidb_magic.connect(fragile.url(0)) as cloud:
        asked = statements(cloud)
        listed = cloud.processlist(user="crowd")
        assert len(asked) == 1
        assert (ids(listed), listed.complete, listed.remarks) == (of(*crowd), True, ())
        instances = cloud.instances()
        assert set(instances["INSTANCE"]) == {fragile.status_address(at) for at in range(3)}
        assert instances["ADDRESS"].isna().all()
        assert instances["ANSWERING"].all()
        cloud._pool.monitor.degraded = True
        alone = cloud.processlist(user="crowd")
        assert not alone.complete
        assert "The registered instances are not known." in repr(alone)
        cloud._pool.monitor.degraded = False


def test_an_instance_that_advertises_loopback_is_not_looked_for_on_this_machine(fragile: Playground) -> None:
    there = topology.Instance("a", "127.0.0.1", 4000)
    far = tidb_magic.api.Settings("db.example.com")  # type: ignore[attr-defined]
    near = tidb_magic.api.Settings("127.0.0.1", 4001)  # type: ignore[attr-defined]
    auto, always, never = topology.Direct.AUTO, topology.Direct.ALWAYS, topology.Direct.NEVER
    assert topology.direct_settings(there, far, auto) == "it advertises 127.0.0.1, which is this machine"
    assert topology.direct_settings(there, near, never) == "direct connections are disabled"
    assert topology.direct_settings(topology.Instance("a"), near, always) == "its address is not known"
    for settings, direct in ((far, always), (near, auto)):
        route = topology.direct_settings(there, settings, direct)
        assert isinstance(route, type(far))
        assert (route.host, route.port, route.trusted) == ("127.0.0.1", 4000, False)


def test_an_instance_restarted_within_a_minute_shows_no_session_twice(
    fragile: Playground, cluster: Cluster, deadline: float, crowd: list[Client]
) -> None:
    silent = fragile.status_address(1)
    fragile.crash(1)
    spent, listed = timed(cluster)
    assert spent < deadline + OTHER_WORK
    assert (ids(listed), listed.missing) == (of(crowd[0], crowd[2]), (silent,))
    fragile.restart(1)
    with Client(fragile, 1, "crowd") as new:
        eventually(lambda: cluster.processlist(user="crowd", idle=True).complete)
        instances = cluster.instances()
        twice = instances[instances["INSTANCE"] == silent]  # the old one is registered for a minute after the crash
        assert len(twice) > 1
        assert sum(twice["ANSWERING"]) == 1
        assert twice["SERVER_ID"].is_unique
        assert list(instances.groupby("INSTANCE")["ANSWERING"].sum()) == [1, 1, 1]
        listed = cluster.processlist(user="crowd", idle=True)
        assert ids(listed) == of(crowd[0], crowd[2], new), listed
        eventually(lambda: not cluster._pool.monitor.degraded)
        assert ids(cluster.processlist(user="crowd", idle=True)) == of(crowd[0], crowd[2], new)
        more = [Client(fragile, 1, "crowd") for _ in range(4)]
        for options in ({"idle": True}, {"idle": True, "limit": 4, "sort": "INSTANCE"}, {"where": "ID > 0"}):
            listed = cluster.processlist(instance=silent, user="crowd", **options)
            assert listed.matched + listed.hidden == 5
            assert len(listed) == min(listed.limit, listed.matched)
            assert listed["ID"].is_unique
        cluster._pool.sessions = 2  # so few that all are read, until it turns out that there are more
        listed = cluster.processlist(instance=silent, user="crowd", idle=True, limit=4, sort="INSTANCE")
        assert (listed.matched, len(listed)) == (5, 4)
        assert len(cluster.processlist(instance=silent, user="crowd", idle=True, limit=100)) == 5
        counts = cluster.count_by("INSTANCE", user="crowd")
        assert list(counts[counts["INSTANCE"] == silent]["SESSIONS"]) == [5]
        for client in more:
            client.__exit__(None, None, None)


@pytest.mark.slow
def test_an_instance_whose_registration_ended_is_no_missing_one(
    fragile: Playground, cluster: Cluster, crowd: list[Client]
) -> None:
    silent = fragile.status_address(2)
    fragile.crash(2)
    _, listed = timed(cluster)
    assert listed.missing == (silent,)
    again = once_complete(cluster, within=150)
    assert ids(again) == of(crowd[0], crowd[1])
    assert again.missing == ()
    assert silent not in set(cluster.instances()["INSTANCE"])
    fragile.restart(2)
    eventually(lambda: silent in set(cluster.instances()["INSTANCE"]))
    assert cluster.processlist().complete
