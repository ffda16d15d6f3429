"""The playground: a real cluster that starts, breaks and stops as it says."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pymysql
import pytest

import tidb_magic
from tests.clients import LONG_SELECT, Client, eventually
from tests.conftest import furnish
from tidb_magic.playground import Playground, PlaygroundError
from tidb_magic.playground.__main__ import main
from tidb_magic.playground.cluster import find, running
from tidb_magic.playground.processes import is_free

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("starts")]


@pytest.fixture(scope="module")
def fragile() -> Iterator[Playground]:
    """A cluster to break."""
    with Playground(instances=3) as started:
        yield furnish(started)


def processes_of(playground: Playground) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(playground.folder) in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def count(playground: Playground, instance: int = 0) -> Any:
    """Read a table; None while the cluster does not answer."""
    try:
        with Client(playground, instance, connect_timeout=2, read_timeout=2) as client:
            return client.query("SELECT COUNT(*) FROM test.numbers")[0][0]
    except pymysql.Error:
        return None


def test_every_instance_serves_and_knows_the_others(fragile: Playground) -> None:
    for instance in range(3):
        with (
            Client(fragile, instance) as client,
            Client(fragile, (instance + 1) % 3),
            Client(fragile, (instance + 2) % 3),
        ):
            assert client.query("SELECT VERSION()") == (("8.0.11-TiDB-v8.5.6",),)
            listed = client.query("SELECT DISTINCT INSTANCE FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST")
            assert {fragile.status_address(i) for i in range(3)} == {address for (address,) in listed}
            served = client.query("SELECT INSTANCE FROM INFORMATION_SCHEMA.CLUSTER_INFO WHERE TYPE = 'tidb'")
            assert {address for (address,) in served} == {f"127.0.0.1:{fragile.port(i)}" for i in range(3)}
    assert fragile.urls() == [f"mysql://root@127.0.0.1:{fragile.port(i)}" for i in range(3)]


def test_everything_listens_on_loopback_only_and_in_its_own_session(fragile: Playground) -> None:
    servers = processes_of(fragile)
    assert len(servers) == 5
    for server in servers:
        listening = [one.laddr.ip for one in server.net_connections() if one.status == psutil.CONN_LISTEN]
        assert set(listening) == {"127.0.0.1"}
        assert os.getsid(server.pid) == server.pid != os.getsid(0)  # Ctrl-C in the terminal does not reach it


def test_a_frozen_instance_accepts_and_never_greets(fragile: Playground) -> None:
    fragile.freeze(1)
    try:
        assert fragile.status()["tidb-1"] == "frozen"
        with socket.create_connection(("127.0.0.1", fragile.port(1)), timeout=5) as client:
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
        assert count(fragile, 0) is not None
    finally:
        fragile.resume(1)
    assert fragile.status()["tidb-1"] == "running"
    assert eventually(lambda: count(fragile, 1))


def test_a_frozen_store_stops_tables_and_not_the_local_process_list(fragile: Playground) -> None:
    fragile.freeze("store")
    try:
        assert count(fragile) is None
        with Client(fragile, 0) as client:
            assert client.query("SELECT COUNT(*) > 0 FROM INFORMATION_SCHEMA.PROCESSLIST") == ((1,),)
    finally:
        fragile.resume("store")
    assert eventually(lambda: count(fragile))


def test_a_frozen_pd_stops_the_cluster_list_and_not_the_local_one(fragile: Playground) -> None:
    with Client(fragile, 0, read_timeout=2) as stuck:
        fragile.freeze("pd")
        try:
            with pytest.raises(pymysql.Error):
                stuck.query("SELECT COUNT(*) FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST")
            with Client(fragile, 1) as client:
                assert client.query("SELECT COUNT(*) > 0 FROM INFORMATION_SCHEMA.PROCESSLIST") == ((1,),)
        finally:
            fragile.resume("pd")
    assert eventually(lambda: count(fragile))


@pytest.mark.parametrize("server", [2, "store", "pd"])
def test_a_crashed_server_starts_again_on_its_port_with_its_data(fragile: Playground, server: Any) -> None:
    before = eventually(lambda: count(fragile))
    name = f"tidb-{server}" if isinstance(server, int) else server
    ports = dict(fragile.state.ports)
    fragile.crash(server)
    assert fragile.status()[name] == "stopped"
    with pytest.raises(PlaygroundError, match=rf"restart\({server!r}\) starts it again"):
        fragile.freeze(server)
    if isinstance(server, int):
        assert count(fragile, server) is None
        with Client(fragile, 0) as client:  # still registered for up to a minute
            assert len(client.query("SELECT 1 FROM INFORMATION_SCHEMA.CLUSTER_INFO WHERE TYPE = 'tidb'")) == 3
    fragile.restart(server)
    assert fragile.status()[name] == "running"
    assert dict(fragile.state.ports) == ports
    assert eventually(lambda: count(fragile, server if isinstance(server, int) else 0)) == before


def test_an_unknown_server_is_named(fragile: Playground) -> None:
    with pytest.raises(PlaygroundError, match=r"no server 7 .* It has: pd, store, 0, 1, 2\."):
        fragile.freeze(7)


def test_two_side_by_side_do_not_meet_and_stop_ends_exactly_its_own_frozen_ones_too(fragile: Playground) -> None:
    with Playground(instances=1) as second:
        assert not set(second.state.ports.values()) & set(fragile.state.ports.values())
        with Client(second) as client:
            assert len(client.query("SELECT 1 FROM INFORMATION_SCHEMA.CLUSTER_INFO WHERE TYPE = 'tidb'")) == 1
        second.freeze(0)
        second.freeze("pd")
        assert {one.name for one in running()} >= {second.name, fragile.name}
    assert processes_of(second) == []
    assert not second.folder.exists()
    assert second.name not in {one.name for one in running()}
    assert len(processes_of(fragile)) == 5


def test_a_pid_that_belongs_to_somebody_else_now_is_not_ended(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    playground = Playground(name=f"stale-{os.getpid()}")
    playground.state = replace(playground.state, folder=str(tmp_path / "gone"), pids={"pd": stranger.pid})
    assert playground.status() == {"pd": "stopped"}
    playground.stop()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_an_old_handle_ends_only_its_own(tmp_path: Path) -> None:
    """The playground was stopped and started again under its name elsewhere, and a server was restarted there."""
    name = f"again-{os.getpid()}"
    old = Playground(instances=1, name=name).start()
    elsewhere = find(name)
    assert elsewhere is not None
    elsewhere.crash(0)
    elsewhere.restart(0)
    assert old.status()["tidb-0"] == "running"  # the record says its new pid
    old_folder = old.folder
    elsewhere.stop()
    with Playground(instances=1, name=name) as new:
        old.stop()
        assert set(new.status().values()) == {"running"}
        assert find(name) is not None
    assert not old_folder.exists()


def test_a_start_leaves_the_current_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Playground(instances=1) as playground:
        furnish(playground)
        with Client(playground) as client:
            client.query("SELECT SLEEP(0.5)")  # slow enough for TiDB's log of slow statements
            slow = playground.folder / "tidb-0-slow.log"
            eventually(lambda: slow.exists() and "SLEEP" in slow.read_text())
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_named() -> None:
    with ExitStack() as taken:
        port = 0
        while not port or not is_free(port - 1):
            port = taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        with pytest.raises(PlaygroundError, match=rf"Port {port} is taken .* Choose another --port"):
            Playground(instances=2, port=port - 1).start()


def test_a_server_that_dies_at_start_shows_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidb_magic.playground.records.Options.toml", lambda *_: "no-such-setting = 1\n[")
    playground = Playground(instances=1)
    with pytest.raises(PlaygroundError, match=r"(?s)tidb-0 died at start. Its last lines:\n.*toml"):
        playground.start()
    assert processes_of(playground) == []
    assert not playground.folder.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"instances": 0}, "1 to 16 instances"),
        ({"instances": 99}, "1 to 16 instances"),
        ({"connection_ids": 33}, "32 or 64 bits"),
        ({"port": 70000}, "out of range"),
        ({"name": "../elsewhere"}, "letters, digits"),
    ],
)
def test_what_cannot_be_started_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlaygroundError, match=says):
        Playground(**options).start()


def test_tls_is_used_with_tls(with_tls: Playground) -> None:
    with Client(with_tls, ssl_disabled=False) as client:
        assert client.query("SHOW STATUS LIKE 'Ssl_cipher'")[0][1]
    with tidb_magic.connect(with_tls.url()) as cluster:
        assert cluster.processlist().complete


def test_in_security_enhanced_mode_it_lists_and_kills(sem: Playground) -> None:
    with tidb_magic.connect(sem.url(0)) as cluster, Client(sem, 1) as client:
        assert "global kill on" in repr(cluster)  # from the ids: @@tidb_config is refused here
        client.start(LONG_SELECT.format("sem"))
        eventually(lambda: client.id in set(cluster.processlist()["ID"]))
        listed = cluster.processlist(idle=True)
        assert not any(":" in instance for instance in listed["INSTANCE"])  # a UUID, no address
        assert list(cluster.kill([client.id], query=True)["OUTCOME"]) == ["interrupted"]


def test_the_workload_is_worth_reading() -> None:
    with Playground(instances=3, workload=True) as playground, tidb_magic.connect(playground.url(0)) as cluster:
        eventually(lambda: len(cluster.processlist(match="^UPDATE stock")) == 2)
        in_transaction = "COMMAND = 'Sleep' AND TxnStart <> ''"  # its last statement can be listed for a moment
        eventually(lambda: len(cluster.processlist(where=in_transaction)))
        listed = cluster.processlist(idle=True)
        assert set(listed["INSTANCE"]) == {playground.status_address(i) for i in range(3)}
        info = listed["INFO"].fillna("")
        assert info.str.contains("nightly report").sum() == 2
        holders = listed[(listed["COMMAND"] == "Sleep") & (listed["TxnStart"] != "")]
        assert list(holders["USER"]) == ["app"]
        waiters = listed[info.str.startswith("UPDATE stock")]
        assert len(waiters) == 2
        with Client(playground, 1) as root:
            # An instance lists its own waiters twice.
            edges = "SELECT COUNT(DISTINCT TRX_ID) FROM INFORMATION_SCHEMA.DATA_LOCK_WAITS"
            eventually(lambda: root.query(edges) == ((2,),))
            grants = str(root.query("SHOW GRANTS FOR monitor")) + str(root.query("SHOW GRANTS FOR oncall"))
            assert "PROCESS" in grants
            assert "CONNECTION_ADMIN" in grants
        victim = int(listed.loc[info.str.contains("export for finance"), "ID"].iloc[0])
        assert list(cluster.kill([victim])["OUTCOME"]) == ["killed"]

        def back() -> bool:
            now = cluster.processlist()
            return bool(now["INFO"].str.contains("export for finance", na=False).any())

        assert eventually(back)


def test_the_command_line_starts_shows_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"cli-{os.getpid()}"
    command = [sys.executable, "-m", "tidb_magic.playground"]
    started = subprocess.run(
        [*command, "start", "--instances", "1", "--name", name, "--global-kill", "off"],
        capture_output=True,
        text=True,
        check=True,
    )
    try:
        assert f"{name} runs, after" in started.stdout
        assert f"stop --name {name}" in started.stdout
        playground = find(name)
        assert playground is not None  # its processes outlive the one that started them
        assert playground.url() in started.stdout
        with tidb_magic.connect(playground.url()) as cluster:
            assert "global kill off" in repr(cluster)
        capsys.readouterr()
        assert main(["start", "--instances", "1", "--name", name, "--global-kill", "off"]) == 0
        assert playground.url() in capsys.readouterr().out  # the one that runs
        assert main(["start", "--instances", "2", "--name", name]) == 1
        assert "runs with other options" in capsys.readouterr().err
        assert main(["status"]) == 0
        assert "tidb-0    running" in capsys.readouterr().out
    finally:
        assert main(["stop", "--name", name]) == 0
    assert find(name) is None
    assert processes_of(playground) == []
    assert main(["stop", "--name", name]) == 0
    assert f"No playground named {name} runs." in capsys.readouterr().out


def test_a_record_whose_servers_are_gone_does_not_stand_in_the_way() -> None:
    name = f"gone-{os.getpid()}"
    playground = Playground(instances=1, name=name).start()
    for process in processes_of(playground):
        process.kill()
        process.wait()
    assert find(name) is None
    with Playground(instances=1, name=name):
        pass


def test_windows_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(PlaygroundError, match="Linux and macOS only"):
        Playground().start()
