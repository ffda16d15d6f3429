"""What a list reads: statements of any size and kind, sorted, by the rights and the server that there are."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tidb_magic
from tests.balancer import Balancer
from tests.clients import LONG, LONG_SELECT, Client, eventually, statements
from tidb_magic import Cluster, ConnectionId, ProcessList
from tidb_magic.errors import DeadlineError, OptionError
from tidb_magic.playground import Playground

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><script>alert(1)</script>",
    "' \" ` \\ %s %(user)s {condition} &amp; &lt;",
    "\x00\x01\x1b[2J\x1b]8;;http://x\x07",
    "\u202ecod.exe\u2066 \u200b\u2028\u2029",
    "👩‍👩‍👧 e\u0301 한글 \U0001f600",
]


def info(listed: ProcessList, client: Client) -> str:
    (text,) = listed.loc[listed["ID"] == client.id, "INFO"]
    return str(text)


def test_a_statement_of_a_megabyte_is_cut_with_its_true_length_and_whole_with_full(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    sql = LONG_SELECT.format("é" * 500_000 + "the end")
    with Client(playground, 1, charset="utf8mb4") as client:
        running(client.start(sql))
        listed = cluster.processlist()
        cut = info(listed, client)
        assert sql.startswith(cut.removesuffix("\\xc3"))  # 16 KiB can end within a character
        assert len(cut.removesuffix("\\xc3").encode()) in (16_383, 16_384)
        assert dict(listed.cut) == {(client.instance, client.id): len(sql.encode())}
        assert "1 statement ends after 16 KiB of 976.6 KiB: --full brings all of it." in repr(listed)
        whole = cluster.processlist(full=True)
        assert info(whole, client) == sql
        assert "--full" not in repr(whole)
        assert len(whole._repr_html_() or "") < 100_000
        assert cluster.processlist().complete


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_sql_and_alias_is_exact_in_the_frame_and_shown_harmless(
    playground: Playground, cluster: Cluster, running: Any, text: str
) -> None:
    sql = f"{LONG_SELECT.format('hostile')} WHERE n >= 0 AND '{escaped(text)}' <> ''"
    with Client(playground, 1, charset="utf8mb4") as client:
        client.query(f"SET tidb_session_alias = '{escaped(text.strip()[:20])}'")
        running(client.start(sql))
        listed = cluster.processlist()
        assert info(listed, client) == sql
        shown = [repr(listed), listed._repr_html_() or ""]
        assert not any(active in one for one in shown for active in ("\x1b", "\x00", "\u202e", "\u2066", "\u200b"))
        assert "<img" not in shown[1]
        assert "<script" not in shown[1]
        (alias,) = listed.loc[listed["ID"] == client.id, "SESSION_ALIAS"]
        (stored,) = client_alias(playground, client)
        assert alias == stored
        assert cluster.processlist().complete


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def client_alias(playground: Playground, client: Client) -> tuple[str]:
    with Client(playground, 1, charset="utf8mb4") as root:
        ((alias,),) = root.query(f"SELECT SESSION_ALIAS FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {client.id}")
    return (alias,)


def test_a_hostile_user_and_database_are_shown_and_found(playground: Playground, cluster: Cluster) -> None:
    user = "<b>o'%\\😀"
    with Client(playground, charset="utf8mb4") as root:
        root.query(f"CREATE USER IF NOT EXISTS '{escaped(user)}'")
        root.query("CREATE DATABASE IF NOT EXISTS `<i>x%s`")
        root.query(f"GRANT ALL ON `<i>x%s`.* TO '{escaped(user)}'")
    with Client(playground, 2, user, database="<i>x%s", charset="utf8mb4") as client:
        listed = cluster.processlist(user=user, db="<i>x%s", idle=True)
        assert list(listed["ID"]) == [client.id]
        assert (listed["USER"].iloc[0], listed["DB"].iloc[0]) == (user, "<i>x%s")
        assert "<b>" not in (listed._repr_html_() or "")
        counts = cluster.count_by("USER", "DB", user=user)
        assert (counts["USER"].iloc[0], counts["DB"].iloc[0]) == (user, "<i>x%s")
        assert "<b>" not in (counts._repr_html_() or "")


def test_a_session_of_another_charset_is_cut_and_read_as_bytes(
    playground: Playground, cluster: Cluster, running: Any
) -> None:
    with Client(playground, 1, charset="latin1") as client:
        running(client.start("SELECT /* " + "é" * 20_000 + " */ SUM(SLEEP(0.05)) FROM test.numbers"))
        assert info(cluster.processlist(), client) == "SELECT /* " + "\\xe9" * (16_384 - 10)
        assert info(cluster.processlist(full=True), client).count("\\xe9") == 20_000
        assert cluster.processlist().complete


def test_a_transaction_is_shown_by_id_and_start_time_in_utc(playground: Playground, cluster: Cluster) -> None:
    with Client(playground, 1) as client:
        client.query("BEGIN")
        client.query("SELECT * FROM test.numbers WHERE n = 1")
        listed = cluster.processlist()
        row: Any = listed[listed["ID"] == client.id].iloc[0]
        with Client(playground) as root:
            ((number,),) = root.query(
                f"SELECT ID FROM INFORMATION_SCHEMA.CLUSTER_TIDB_TRX WHERE SESSION_ID = {client.id}"
            )
        assert number == row.TXN_ID
        assert timedelta(0) <= datetime.now(UTC) - row.TXN_START_TIME < timedelta(minutes=1)
        assert str(listed["TXN_START_TIME"].dtype) == "datetime64[ms, UTC]"
        assert str(listed["TXN_ID"].dtype) == "Int64"
        assert listed.loc[listed["TxnStart"] == "", "TXN_ID"].isna().all()


def test_sorting_is_the_servers_numbers_from_the_largest_text_from_a(playground: Playground, cluster: Cluster) -> None:
    with Client(playground, 1), Client(playground, 2):
        by_id = list(cluster.processlist(idle=True, sort="id")["ID"])
        assert by_id == sorted(by_id, reverse=True)
        by_instance = list(cluster.processlist(idle=True, sort="Instance")["INSTANCE"])
        assert by_instance == sorted(by_instance)
        assert list(cluster.processlist(idle=True, sort="ID", limit=1)["ID"]) == by_id[:1]
        asked = statements(cluster)
        with pytest.raises(OptionError, match="sort: the process list has no column 'MEMORY'"):
            cluster.processlist(sort="MEMORY")
        assert asked == []


def test_a_reading_without_our_own_session_is_not_complete(playground: Playground) -> None:
    """With this planner TiDB 8.5.6 answers with no row at all, and no warning; the list of a large cluster fails."""
    with tidb_magic.connect(playground.url(0)) as cluster:
        cluster._pool.sessions = 1
        cluster._pool.connection().query("SET tidb_enable_cascades_planner = ON", deadline=LONG)
        for ask in (cluster.processlist, cluster.instances, lambda: cluster.count_by("USER")):
            found = ask()
            assert not found.complete
            assert "The list lacks the session that read it" in repr(found)


def test_every_call_of_a_list_is_one_statement(playground: Playground, cluster: Cluster) -> None:
    asked = statements(cluster)
    cluster.processlist()
    cluster.processlist(idle=True, user="root", sort="MEM", full=True)
    cluster.processlist(idle=True, user="nobody")
    cluster.count_by("USER", "INSTANCE")
    assert len(asked) == 4


@pytest.mark.parametrize("known", [1, None])  # few sessions, or nothing known of how many
def test_the_server_ends_every_list_by_its_deadline(cluster: Cluster, known: int | None) -> None:
    sleeps = f"SLEEP(0 * (ID = {cluster._pool.main.id})) >= 0"
    asked = statements(cluster)
    cluster._pool.sessions = known
    cluster.processlist(where=sleeps, idle=True)
    cluster.processlist(where=sleeps)
    cluster.count_by("USER", where=sleeps)
    assert len(asked) == 3
    for sql in tuple(asked):
        slow = sql.replace("SLEEP(0 ", "SLEEP(5 ") % {"limit": 5, "milliseconds": 100, "info_cut": 16}
        with pytest.raises(DeadlineError, match="ended our statement by its deadline"):
            cluster._pool.connection().query(slow, deadline=LONG)


@pytest.fixture
def several(playground: Playground) -> None:
    """Create the user `several`."""
    with Client(playground) as root:
        root.query("CREATE USER IF NOT EXISTS several")


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("sort", ["ID", "DB", "INSTANCE"])
def test_a_list_of_few_sessions_is_read_without_order_and_comes_in_the_same_order(
    playground: Playground, cluster: Cluster, sort: str
) -> None:
    with ExitStack() as stack:
        for instance in (2, 1, 0):
            stack.enter_context(Client(playground, instance, "several"))
            stack.enter_context(Client(playground, instance, "several")).query("USE information_schema")
        asked = statements(cluster)
        ordered = cluster.processlist(user="several", idle=True, sort=sort)
        cluster.processlist()  # counts how many there are
        listed = cluster.processlist(user="several", idle=True, sort=sort)
    assert ["ORDER BY" in sql for sql in asked] == [True, True, False]
    assert list(listed["ID"]) == list(ordered["ID"])
    assert len(listed) == listed.matched == 6


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("known", [1, None])
def test_a_list_of_more_than_its_limit_shows_the_first_and_counts_all(
    playground: Playground, cluster: Cluster, known: int | None
) -> None:
    with ExitStack() as stack:
        for instance in (0, 1, 2, 2):
            stack.enter_context(Client(playground, instance, "several"))
        cluster._pool.sessions = known
        listed = cluster.processlist(user="several", idle=True, limit=3, sort="ID")
        assert (len(listed), listed.matched, listed.hidden) == (3, 4, 0)
        assert list(listed["ID"]) == sorted(listed["ID"], reverse=True)
        listed = cluster.processlist(user="several")
        assert (len(listed), listed.matched, listed.hidden) == (0, 0, 4)


@pytest.fixture
def roles(playground: Playground) -> Iterator[Client]:
    """Users who hold PROCESS by a default role, by a role that is none, and not at all."""
    with Client(playground) as root:
        root.query("CREATE ROLE IF NOT EXISTS seer")
        root.query("GRANT PROCESS ON *.* TO seer")
        for user in ("bydefault", "byset", "bynothing"):
            root.query(f"CREATE USER IF NOT EXISTS {user}")
        root.query("GRANT seer TO bydefault, byset")
        root.query("SET DEFAULT ROLE seer TO bydefault")
        yield root


@pytest.mark.parametrize(("user", "sees"), [("bydefault", True), ("byset", False), ("bynothing", False)])
def test_process_by_a_default_role_by_set_role_and_not_at_all(
    playground: Playground, roles: Client, user: str, *, sees: bool
) -> None:
    with Client(playground, 1), tidb_magic.connect(playground.url(0).replace("root", user)) as cluster:
        for set_role in (False, True):
            if set_role and user == "byset":
                cluster._pool.connection().query("SET ROLE seer", deadline=5)
            listed = cluster.processlist(idle=True)
            assert ("root" in set(listed["USER"])) is sees
            assert ("Only your own sessions are visible: PROCESS is needed" in repr(listed)) is not sees
            assert (listed.see_others, listed.complete) == (sees, True)


def test_process_that_was_taken_away_meanwhile_is_said(
    playground: Playground, roles: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles.query("CREATE USER IF NOT EXISTS fallen")
    roles.query("GRANT PROCESS ON *.* TO fallen")
    with tidb_magic.connect(playground.url(0).replace("root", "fallen")) as cluster:
        assert cluster.processlist(idle=True).see_others
        roles.query("REVOKE PROCESS ON *.* FROM fallen")
        monkeypatch.setattr("tidb_magic.sessions.reader._RIGHTS_AGE", 0)
        listed = cluster.processlist(idle=True)
        assert set(listed["USER"]) == {"fallen"}
        assert not listed.see_others


def test_in_security_enhanced_mode_instances_are_told_apart_by_the_ids_of_their_sessions(sem: Playground) -> None:
    with (
        Balancer([sem.port(at) for at in range(3)]) as balancer,
        tidb_magic.connect(balancer.url()) as cluster,
    ):
        clients = [Client(sem, at) for at in range(3)]
        servers = {ConnectionId(client.id).server_id for client in clients}
        listed = cluster.processlist(idle=True)
        assert {client.id for client in clients} <= set(listed["ID"])
        assert listed.complete
        instances = cluster.instances()
        assert set(instances["INSTANCE"]) == set(listed["INSTANCE"])
        assert set(instances["SERVER_ID"]) == servers
        assert instances["ADDRESS"].isna().all()
        names = dict(zip(listed["ID"], listed["INSTANCE"], strict=True))
        sem.freeze(1)
        try:
            partial = cluster.processlist(idle=True, deadline=1.5)
            assert partial.missing == (names[clients[1].id],)
            assert {clients[0].id, clients[2].id} <= set(partial["ID"])
            assert clients[1].id not in set(partial["ID"])
            assert {names[clients[0].id], names[clients[2].id]} == set(partial["INSTANCE"])
        finally:
            sem.resume(1)
        eventually(lambda: cluster.processlist(idle=True).complete)
        sem.freeze("pd")
        try:
            with tidb_magic.connect(sem.url(0)) as late:
                alone = late.processlist(idle=True)
                assert not alone.complete
                assert "PD is not responding" in repr(alone)
                assert clients[0].id in set(alone["ID"])
        finally:
            sem.resume("pd")
        for client in clients:
            client.__exit__(None, None, None)
