"""Processes of a playground: started in their own sessions, distinguished from later processes with the same pid."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from random import SystemRandom

import psutil

from tidb_magic.playground.errors import PlaygroundError

LOOPBACK = "127.0.0.1"
# Below the ports that systems hand to outgoing connections, so that a crashed server finds its port free again.
PORTS = range(10_000, 32_000)


def spawn(command: list[str], folder: Path, output: Path, **environment: str) -> int:
    """Start a process in `folder` that Ctrl-C in this terminal does not reach; return its pid."""
    with output.open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,  # servers write some files to where they are
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | environment,
            start_new_session=True,
        )
    process.returncode = 0  # it outlives this object on purpose; without it Python warns that it still runs
    return process.pid


def find(pid: int, folder: Path) -> psutil.Process | None:
    """Return the living process `pid` if it is the one started for `folder`, else None.

    Every command line of a playground holds its folder, whose name no other playground ever has.
    """
    try:
        process = psutil.Process(pid)
        for _ in range(100):
            if process.status() == psutil.STATUS_ZOMBIE:
                process.wait(timeout=0)  # ours to reap if it is a child of this process
                return None
            if arguments := process.cmdline():
                return process if any(str(folder) in argument for argument in arguments) else None
            time.sleep(0.002)  # just started: its command line is empty for a moment
    except psutil.Error:  # it is gone, or another user's
        pass
    return None


def end(processes: Iterable[psutil.Process]) -> None:
    """End the processes at once, frozen ones too, and wait until they are gone."""
    ended = list(processes)
    for process in ended:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(ended, timeout=30)
    if alive:
        raise PlaygroundError(f"These processes did not end: {', '.join(str(process.pid) for process in alive)}.")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    """Tell whether a server accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def free_ports(count: int, taken: set[int]) -> list[int]:
    """Return `count` free ports, none of them in `taken`."""
    ports: list[int] = []
    for port in SystemRandom().sample(PORTS, len(PORTS)):
        if len(ports) == count:
            break
        if port not in taken and is_free(port):
            ports.append(port)
    return ports
