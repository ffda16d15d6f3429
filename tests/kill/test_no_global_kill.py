"""Without global kill ids are 1, 2, 3 ... on each instance: a KILL ends whoever has the id where it arrives."""

import time
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

import tidb_magic
from tests.balancer import Balancer
from tests.clients import LONG_SELECT, OTHER_WORK, Client, eventually, wait_for_right
from tests.kill.test_identity import kills, row_of
from tests.kill.test_kill import INTERRUPTED, only
from tidb_magic import Cluster, ProcessList
from tidb_magic.connection.connection import Connection
from tidb_magic.errors import ConnectError
from tidb_magic.kill import routing
from tidb_magic.playground import Playground


@pytest.fixture
def cluster(no_global_kill: Playground) -> Iterator[Cluster]:
    with tidb_magic.connect(no_global_kill.url(0)) as connected:
        yield connected


def unknown_process(*_: object, **__: object) -> None:
    """What `process_of` returns while two processes have the same INSTANCE."""


@pytest.fixture
def namesakes(no_global_kill: Playground, cluster: Cluster) -> Iterator[list[Client]]:
    """Three sessions with the same id, one on each instance, all of which run a statement."""
    cluster.processlist()
    clients = [Client(no_global_kill, i) for i in range(3)]
    while len({client.id for client in clients}) > 1:
        lowest = min(range(3), key=lambda i: clients[i].id)
        clients[lowest].__exit__(None, None, None)
        clients[lowest] = Client(no_global_kill, lowest)
    for client in clients:
        client.start(LONG_SELECT.format("namesakes"))
    for client in clients:
        eventually(lambda: list(row_of_namesake(cluster, client)["INFO"].notna()) == [True])  # noqa: B023
    yield clients
    for client in clients:
        client.__exit__(None, None, None)


def row_of_namesake(cluster: Cluster, client: Client) -> ProcessList:
    listed = cluster.processlist(idle=True, limit=5000)
    return listed[(listed["ID"] == client.id) & (listed["INSTANCE"] == client.instance)]


def running_on(playground: Playground, client: Client, instance: int) -> bool:
    with Client(playground, instance) as root:
        found = root.query(f"SELECT INFO FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {client.id}")
    return [info is not None and "namesakes" in info for (info,) in found] == [True]


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("instance", [0, 1, 2])
def test_of_three_sessions_with_one_id_only_the_one_that_was_meant_dies(
    no_global_kill: Playground, cluster: Cluster, namesakes: list[Client], instance: int, query: bool
) -> None:
    meant = namesakes[instance]
    row = only(cluster.kill(row_of_namesake(cluster, meant), query=query))
    assert (row["OUTCOME"], row["INSTANCE"]) == ("interrupted" if query else "killed", meant.instance)
    meant.result()
    for i, client in enumerate(namesakes):
        if i != instance:
            assert running_on(no_global_kill, client, i)


def test_an_id_alone_that_three_sessions_have_is_refused(
    cluster: Cluster, namesakes: list[Client], every_statement: list[str]
) -> None:
    row = only(cluster.kill([namesakes[0].id]))
    assert row["OUTCOME"] == "refused"
    assert "3 sessions have this id" in row["REASON"]
    assert "kill it by its row in a list" in row["REASON"]
    assert kills(every_statement) == []


def test_an_id_that_one_session_has_is_killed_wherever_it_is(no_global_kill: Playground, cluster: Cluster) -> None:
    clients = [Client(no_global_kill, 1)]
    while cluster.processlist(where=f"ID = {clients[-1].id}", idle=True).matched > 1:
        clients.append(Client(no_global_kill, 1))
    row = only(cluster.kill([clients[-1].id]))
    assert (row["OUTCOME"], row["INSTANCE"]) == ("killed", clients[-1].instance)
    assert not clients[-1].alive()
    for client in clients:
        client.__exit__(None, None, None)


def test_a_list_verifies_where_the_connection_is_that_read_it(
    no_global_kill: Playground, cluster: Cluster, running: Any, every_statement: list[str]
) -> None:
    """A kill on that instance needs no other list of the cluster."""
    with Client(no_global_kill, 0) as client:
        running(client.start(LONG_SELECT.format("meant")), aged=True)
        listed = row_of(cluster, client)
        every_statement.clear()
        assert only(cluster.kill(listed, query=True))["OUTCOME"] == "interrupted"
        assert [sql for sql in every_statement if "FROM INFORMATION_SCHEMA.CLUSTER_" in sql] == []


def test_the_accident_of_tidbs_documentation_by_hand_a_bystander_dies(
    no_global_kill: Playground, namesakes: list[Client]
) -> None:
    """With compatible-kill-query a plain KILL ends whoever has the id on the instance where it arrives."""
    with Client(no_global_kill, 0) as by_hand:
        by_hand.query(f"KILL {namesakes[1].id}")  # meant is the one on the second instance
    assert isinstance(namesakes[0].result(), pymysql.Error)  # the bystander
    assert running_on(no_global_kill, namesakes[1], 1)


def test_the_accident_of_tidbs_documentation_asked_of_us_only_the_one_meant_dies(
    no_global_kill: Playground, cluster: Cluster, namesakes: list[Client]
) -> None:
    assert "caution: compatible-kill-query is on" in repr(cluster)
    assert only(cluster.kill(row_of_namesake(cluster, namesakes[1])))["OUTCOME"] == "killed"
    assert isinstance(namesakes[1].result(), pymysql.Error)
    assert running_on(no_global_kill, namesakes[0], 0)
    assert running_on(no_global_kill, namesakes[2], 2)


def test_through_a_balancer_the_owner_is_found_and_proved(
    no_global_kill: Playground, namesakes: list[Client], every_statement: list[str]
) -> None:
    with (
        Balancer([no_global_kill.port(i) for i in range(3)]) as balancer,
        tidb_magic.connect(balancer.url(), direct="never") as cluster,
    ):
        row = only(cluster.kill(row_of_namesake(cluster, namesakes[2]), query=True))
        assert row["OUTCOME"] == "interrupted"
        assert namesakes[2].error_code() == INTERRUPTED
        assert len(kills(every_statement)) == 1
    for i in (0, 1):
        assert running_on(no_global_kill, namesakes[i], i)


@pytest.mark.parametrize("registered", ["once", "twice"])
def test_where_there_is_no_alias_the_process_proves_the_owner_unless_it_is_registered_twice(
    no_global_kill: Playground,
    cluster: Cluster,
    namesakes: list[Client],
    monkeypatch: pytest.MonkeyPatch,
    every_statement: list[str],
    registered: str,
) -> None:
    """As on TiDB 6.5, which has no tidb_session_alias."""
    from tidb_magic.cluster import topology

    introduce = topology.introduce

    def as_65(connection: Connection, **kwargs: Any) -> Any:
        told = introduce(connection, **kwargs)
        connection.columns = {name: kind for name, kind in connection.columns.items() if name != "SESSION_ALIAS"}
        return told

    monkeypatch.setattr(topology, "introduce", as_65)
    if registered == "twice":
        monkeypatch.setattr(routing, "process_of", unknown_process)
    row = only(cluster.kill(row_of_namesake(cluster, namesakes[1])))
    if registered == "twice":
        assert row["OUTCOME"] == "refused"
        assert "is registered twice or not at all. Try again in a minute." in row["REASON"]
        assert kills(every_statement) == []
    else:
        assert (row["OUTCOME"], row["REASON"]) == ("killed", "")
        assert running_on(no_global_kill, namesakes[0], 0)
        assert "SESSION_ALIAS" not in cluster._pool._owners[0].columns


def test_the_process_proves_the_owner_to_a_user_with_few_privileges(
    no_global_kill: Playground, namesakes: list[Client], every_statement: list[str]
) -> None:
    with Client(no_global_kill, 0) as root:
        root.query("CREATE USER IF NOT EXISTS few")
        root.query("GRANT PROCESS, CONNECTION_ADMIN ON *.* TO few")
    wait_for_right(no_global_kill, "few", "", "PROCESS", "CONNECTION_ADMIN")
    with tidb_magic.connect(no_global_kill.url(0).replace("root@", "few@")) as few:
        row = only(few.kill(row_of_namesake(few, namesakes[1])))
    assert (row["OUTCOME"], row["REASON"]) == ("killed", "")
    assert not [sql for sql in every_statement if "SESSION_ALIAS LIKE" in sql]


def test_an_owner_that_is_not_reachable_is_refused_and_nothing_is_sent(
    no_global_kill: Playground, namesakes: list[Client], every_statement: list[str]
) -> None:
    with tidb_magic.connect(no_global_kill.url(0), direct="never") as cluster:
        row = only(cluster.kill(row_of_namesake(cluster, namesakes[1])))
        assert row["OUTCOME"] == "refused"
        assert "global kill is off" in row["REASON"]
        assert "direct connections are disabled" in row["REASON"]
    assert kills(every_statement) == []
    assert running_on(no_global_kill, namesakes[1], 1)


@pytest.mark.parametrize("proof", ["by the process", "by an alias"])
@pytest.mark.parametrize("leads", ["to another instance", "to another cluster with the same addresses"])
def test_an_address_that_leads_elsewhere_is_refused_and_nothing_is_sent(
    no_global_kill: Playground,
    second_cluster: Playground,
    cluster: Cluster,
    namesakes: list[Client],
    every_statement: list[str],
    monkeypatch: pytest.MonkeyPatch,
    leads: str,
    proof: str,
) -> None:
    """What a server says of its own address is believed for a list, and is not enough for a KILL."""
    from tidb_magic.cluster import topology

    meant = namesakes[1]
    listed = row_of_namesake(cluster, meant)
    port = no_global_kill.port(2) if leads == "to another instance" else second_cluster.port(1)
    settings, introduce = topology.direct_settings, topology.introduce

    def elsewhere(*args: Any) -> Any:
        route = settings(*args)
        return (
            route
            if isinstance(route, str)
            else type(route)(route.host, port, route.user, route.password, trusted=route.trusted)
        )

    def pretending(connection: Connection, **kwargs: Any) -> Any:
        told = introduce(connection, **kwargs)
        if connection.settings.port == port:
            connection.instance = meant.instance
        return told

    monkeypatch.setattr(topology, "direct_settings", elsewhere)
    monkeypatch.setattr(topology, "introduce", pretending)
    if proof != "by the process":
        monkeypatch.setattr(routing, "process_of", unknown_process)
    row = only(cluster.kill(listed))
    assert row["OUTCOME"] == "refused"
    assert "leads elsewhere" in row["REASON"]
    assert kills(every_statement) == []
    for i, client in enumerate(namesakes):
        assert running_on(no_global_kill, client, i)


def test_a_proof_that_is_not_to_be_had_is_refused(
    no_global_kill: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, every_statement: list[str]
) -> None:
    with Client(no_global_kill, 1) as client:
        listed = row_of_namesake(cluster, client)
        monkeypatch.setattr(routing, "each_once", lambda _: [])
        monkeypatch.setattr(routing, "process_of", unknown_process)
        row = only(cluster.kill(listed))
        assert row["OUTCOME"] == "refused"
        assert "the cluster's list has that one nowhere" in row["REASON"]
        assert kills(every_statement) == []


def test_the_proof_of_an_owner_that_took_long_to_reach_has_the_whole_deadline(
    no_global_kill: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, prove, left = routing._connect, routing._prove, list[float]()

    def slowly(pool: Any, location: Any, within: float) -> Connection:
        connection = connect(pool, location, within)
        time.sleep(min(within, 0.5))  # as on a machine that does other work
        return connection

    def noted(pool: Any, connection: Connection, location: Any, within: float, deadline: float) -> None:
        left.append(within)
        prove(pool, connection, location, within, deadline)

    monkeypatch.setattr(routing, "_connect", slowly)
    monkeypatch.setattr(routing, "_prove", noted)
    with Client(no_global_kill, 1) as client:
        assert only(cluster.kill(row_of_namesake(cluster, client), deadline=0.5))["OUTCOME"] == "killed"
    assert left[0] > 0.4


@pytest.mark.parametrize("lost", ["owner", "main"])
def test_a_connection_that_was_lost_while_nobody_used_it_is_opened_and_proved_again(
    no_global_kill: Playground, cluster: Cluster, lost: str
) -> None:
    with Client(no_global_kill, 1) as first, Client(no_global_kill, 1) as second:
        assert only(cluster.kill(row_of_namesake(cluster, first)))["OUTCOME"] == "killed"
        listed = row_of_namesake(cluster, second)
        connection = cluster._pool._main if lost == "main" else cluster._pool._owners[0]
        with Client(no_global_kill, 0 if lost == "main" else 1) as by_hand:
            by_hand.query(f"KILL TIDB CONNECTION {connection.id}")
        assert only(cluster.kill(listed))["OUTCOME"] == "killed"


def test_what_was_proved_of_a_direct_connection_holds_while_another_instance_is_frozen(
    no_global_kill: Playground, cluster: Cluster
) -> None:
    with Client(no_global_kill, 1) as first, Client(no_global_kill, 1) as second:
        assert only(cluster.kill(row_of_namesake(cluster, first)))["OUTCOME"] == "killed"
        listed = row_of_namesake(cluster, second)
        no_global_kill.freeze(2)
        try:
            began = time.monotonic()
            assert only(cluster.kill(listed))["OUTCOME"] == "killed"
            assert time.monotonic() - began < OTHER_WORK
        finally:
            no_global_kill.resume(2)
            eventually(lambda: cluster.processlist().complete and not cluster._pool.monitor.degraded)


def test_the_proof_asks_no_other_instance(no_global_kill: Playground, cluster: Cluster) -> None:
    """The cluster's own list fails while one is frozen, and on an overloaded cluster."""
    with Client(no_global_kill, 1) as client:
        listed = row_of_namesake(cluster, client)
        no_global_kill.freeze(2)
        try:
            row = only(cluster.kill(listed))
            assert (row["OUTCOME"], row["REASON"]) == ("killed", "")
        finally:
            no_global_kill.resume(2)
            eventually(lambda: cluster.processlist().complete and not cluster._pool.monitor.degraded)


def test_the_proof_needs_no_super(no_global_kill: Playground) -> None:
    with Client(no_global_kill, 0) as root:
        root.query("CREATE USER IF NOT EXISTS ends")
        root.query("GRANT PROCESS, CONNECTION_ADMIN ON *.* TO ends")
    with Client(no_global_kill, 1, "ends"), Client(no_global_kill, 0, "ends"):  # both instances know the user
        pass
    url = no_global_kill.url(0).replace("root", "ends")
    with tidb_magic.connect(url) as cluster, Client(no_global_kill, 1) as client:
        assert only(cluster.kill(row_of_namesake(cluster, client)))["OUTCOME"] == "killed"


def test_where_global_kill_is_unknown_nothing_is_forwarded(
    playground: Playground, monkeypatch: pytest.MonkeyPatch, every_statement: list[str]
) -> None:
    with tidb_magic.connect(playground.url(0), direct="never") as cluster, Client(playground, 1) as client:
        pool = cluster._pool
        pool.capabilities = type(pool.capabilities)(None, None, see_others=True, kill_others=True)
        row = only(cluster.kill(row_of(cluster, client)))
        assert row["OUTCOME"] == "refused"
        assert "global kill is unknown" in row["REASON"]
        assert kills(every_statement) == []


def test_the_same_id_after_a_restart_is_changed(second_cluster: Playground, every_statement: list[str]) -> None:
    """Local ids start at 1 again: the row of an old list is somebody else's."""
    with tidb_magic.connect(second_cluster.url(0)) as cluster:
        before = Client(second_cluster, 1)
        listed = row_of_namesake(cluster, before)
        second_cluster.crash(1)
        before.__exit__(None, None, None)
        second_cluster.restart(1)
        after = Client(second_cluster, 1)
        others = []
        while after.id != before.id:
            others.append(after)
            after = Client(second_cluster, 1)
        eventually(lambda: not cluster.processlist(idle=True).missing)
        row = only(cluster.kill(listed))
        assert row["OUTCOME"] == "changed"
        assert row["REASON"].startswith("its HOST was '127.0.0.1:")
        assert kills(every_statement) == []
        assert after.alive()
        for client in (after, *others):
            client.__exit__(None, None, None)


def test_a_connection_that_is_lost_at_the_deadline_is_opened_again_with_another_one(
    no_global_kill: Playground, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, prove, given = routing._connect, routing._prove, list[float]()

    def noted(pool: Any, location: Any, within: float) -> Connection:
        given.append(within)
        return connect(pool, location, within)

    def lost(pool: Any, connection: Connection, location: Any, within: float, deadline: float) -> None:
        if len(given) == 1:
            time.sleep(deadline)  # in which its proof is waited for
            connection.close()
            raise ConnectError("That could not be verified.")
        prove(pool, connection, location, within, deadline)

    monkeypatch.setattr(routing, "_connect", noted)
    monkeypatch.setattr(routing, "_prove", lost)
    with Client(no_global_kill, 1) as client:
        assert only(cluster.kill(row_of_namesake(cluster, client), deadline=0.5))["OUTCOME"] == "killed"
    assert given[1] > 0.4
