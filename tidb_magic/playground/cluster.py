"""Playground: start, break and stop a real TiDB cluster on loopback."""

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Self

import psutil

from tidb_magic.playground import processes, servers
from tidb_magic.playground.build import build
from tidb_magic.playground.errors import PlaygroundError
from tidb_magic.playground.processes import LOOPBACK
from tidb_magic.playground.records import DEFAULT, Options, State, lock, record_file, recorded

START_TIMEOUT = 120.0  # seconds; a start takes 5 to 10 on two idle cores
Server = int | Literal["pd", "store"]


class Playground:
    """A real TiDB cluster of `instances` tidb-servers, PD and a store on this machine.

    Use it in a ``with`` block, or `start` and `stop` it. Instances are numbered from 0; PD and the store are
    called ``"pd"`` and ``"store"``. User root has no password. Everything listens on 127.0.0.1 only; the data is
    in a temporary folder and gone at stop.

    Parameters
    ----------
    name
        The name under which another process finds it; by default a unique one.
    options
        The fields of `Options`.

    Raises
    ------
    PlaygroundError
        Not Linux or macOS, no Go to build with, a port taken, a server that died at start.
    """

    def __init__(self, *, name: str | None = None, **options: Any) -> None:
        self.state = State(name or "", "", Options(**options), {})

    # -- starting and stopping ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Build the servers if needed, start them and return when every instance answers."""
        binaries = build()
        with lock(self.name) if self.name else nullcontext():
            with lock("ports"):
                self._record_new()
            try:
                self._start_servers(binaries)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End the processes that this playground started, frozen ones too, and remove its data."""
        if not self.state.folder:
            return
        with lock(self.name):
            self._catch_up()
            processes.end(process for process in map(self._process, self.state.pids) if process)
            shutil.rmtree(self.folder, ignore_errors=True)
            if any(state.folder == self.state.folder for state in recorded()):
                record_file(self.name).unlink()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name under which another process finds it."""
        return self.state.name

    @property
    def options(self) -> Options:
        """How it was set up."""
        return self.state.options

    @property
    def folder(self) -> Path:
        """The temporary folder with data and logs."""
        return Path(self.state.folder)

    def url(self, instance: int = 0) -> str:
        """Return ``mysql://root@127.0.0.1:PORT`` of one instance; with TLS also where its CA is."""
        return servers.sql_url(self.state, instance)

    def urls(self) -> list[str]:
        """Return the URL of every instance."""
        return [self.url(instance) for instance in range(self.options.instances)]

    def port(self, instance: int) -> int:
        """Return the port that SQL clients connect to."""
        return self.state.ports[f"tidb-{instance}"]

    def status_address(self, instance: int) -> str:
        """Return what CLUSTER_PROCESSLIST.INSTANCE shows for this instance (without security-enhanced mode)."""
        return f"{LOOPBACK}:{self.state.ports[f'tidb-{instance}-status']}"

    def status(self) -> dict[str, str]:
        """Return ``running``, ``frozen`` or ``stopped`` for every server by its name."""
        self._catch_up()
        states = {}
        for server in self.state.pids:
            process = self._process(server)
            frozen = process is not None and process.status() == psutil.STATUS_STOPPED
            states[server] = "stopped" if process is None else "frozen" if frozen else "running"
        return states

    # -- faults ------------------------------------------------------------------------------------------------

    def freeze(self, server: Server) -> None:
        """Stop the process where it is: it keeps its ports and connections and answers nothing (SIGSTOP)."""
        process = self._running(server)
        process.send_signal(signal.SIGSTOP)
        while process.status() != psutil.STATUS_STOPPED:  # a busy process stops a moment later
            time.sleep(0.001)

    def resume(self, server: Server) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._running(server).send_signal(signal.SIGCONT)

    def crash(self, server: Server) -> None:
        """End the process without a word (SIGKILL). An instance stays registered for up to about a minute."""
        processes.end([self._running(server)])

    def restart(self, server: Server) -> None:
        """Start the server again on its ports, ended before if it runs; return when it answers."""
        self._catch_up()
        if process := self._process(_key(server)):
            processes.end([process])
        self._spawn(_key(server), build())
        self._wait_for([_key(server)])

    # -- inside ------------------------------------------------------------------------------------------------

    def _record_new(self) -> None:
        name = self.name
        if name and record_file(name).exists():
            raise PlaygroundError(f"A playground named {name} is there already. Stop it first, or give another name.")
        taken = {port for other in recorded() for port in other.ports.values()}
        options = self.options
        if options.port is not None:
            wanted = range(options.port, options.port + options.instances)
            if busy := [port for port in wanted if port in taken or not processes.is_free(port)]:
                raise PlaygroundError(
                    f"Port {busy[0]} is taken (the instances would use {wanted[0]} to {wanted[-1]})."
                    " Choose another --port, or none to get free ones."
                )
            taken |= set(wanted)
        names = ["pd", "pd-peer", "store", *(f"tidb-{i}-status" for i in range(options.instances))]
        if options.port is None:
            names += [f"tidb-{i}" for i in range(options.instances)]
        ports = dict(zip(names, processes.free_ports(len(names), taken), strict=True))
        if options.port is not None:
            ports |= {f"tidb-{i}": options.port + i for i in range(options.instances)}
        folder = Path(tempfile.mkdtemp(prefix="tidb-playground-")).resolve()
        self._save(replace(self.state, name=name or folder.name, folder=str(folder), ports=ports))

    def _catch_up(self) -> None:
        """Take over what another process has recorded of this playground since: a server started again."""
        self.state = next((state for state in recorded() if state.folder == self.state.folder), self.state)

    def _save(self, state: State) -> None:
        self.state = state
        state.save()

    def _start_servers(self, binaries: dict[str, Path]) -> None:
        if self.options.tls:
            servers.certify(self.folder)
        instances = [f"tidb-{i}" for i in range(self.options.instances)]
        # The first instance makes the system tables.
        for group in (["pd"], ["store"], instances[:1], instances[1:]):
            for server in group:
                self._spawn(server, binaries)
            self._wait_for(group)
        if self.options.workload:
            self._spawn("workload", binaries)
            self._wait_for(["workload"])

    def _spawn(self, server: str, binaries: dict[str, Path]) -> None:
        command, environment = servers.command(server, self.state, binaries)
        pid = processes.spawn(command, self.folder, self.folder / f"{server}.out", **environment)
        self._save(replace(self.state, pids=self.state.pids | {server: pid}))

    def _wait_for(self, group: list[str]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        for server in group:
            while not servers.answers(server, self.state):
                if self._process(server) is None:
                    raise PlaygroundError(
                        f"{server} died at start. Its last lines:\n{servers.last_lines(server, self.state)}"
                    )
                if time.monotonic() > deadline:
                    raise PlaygroundError(
                        f"{server} does not answer after {START_TIMEOUT:.0f} s. Its last lines:\n"
                        f"{servers.last_lines(server, self.state)}"
                    )
                time.sleep(0.02)

    def _process(self, server: str) -> psutil.Process | None:
        pid = self.state.pids.get(server)
        return None if pid is None else processes.find(pid, self.folder)

    def _running(self, server: Server) -> psutil.Process:
        key = _key(server)
        self._catch_up()
        if key not in self.state.pids:
            known = ", ".join(name.removeprefix("tidb-") for name in self.state.pids)
            raise PlaygroundError(f"There is no server {server!r} in this playground. It has: {known}.")
        process = self._process(key)
        if process is None:
            raise PlaygroundError(f"{key} does not run. restart({server!r}) starts it again.")
        return process


def running() -> Iterator[Playground]:
    """Yield every playground of this user that has a record, whoever started it."""
    for state in recorded():
        playground = Playground()
        playground.state = state
        yield playground


def find(name: str = DEFAULT) -> Playground | None:
    """Return the running playground of this name; one that is being started is waited for.

    A record whose servers are all gone is cleared away.
    """
    with lock(name):
        for playground in running():
            if playground.name == name:
                if any(state != "stopped" for state in playground.status().values()):
                    return playground
                playground.stop()
    return None


def obtain(options: Options, name: str = DEFAULT) -> Playground:
    """Return the running playground of this name, started with these options if none runs."""
    with lock(name):
        return find(name) or Playground(name=name, **asdict(options)).start()


def _key(server: Server) -> str:
    return server if isinstance(server, str) else f"tidb-{server}"
