"""The benchmarks end when a part of them hangs, and say which."""

import subprocess
import sys
import threading
from pathlib import Path

from benchmarks.crowd import connect, hang_up, query
from tests.clients import Client, eventually
from tidb_magic.playground import Playground

HANGS = """
import socket
import threading
from benchmarks.limit import limited

ours, _ = socket.socketpair()
file = ours.makefile("rb")
threading.Thread(target=file.read, daemon=True).start()  # holds the lock of the file
with limited(0.02) as run:
    run.stop = lambda: print("The servers were stopped.", flush=True)
    run.part = "The closing of a file"
    while True:
        file.close()
"""


def test_a_part_that_hangs_is_named_the_servers_are_stopped_and_the_process_ends() -> None:
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", HANGS], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("The closing of a file did not end: the benchmarks took more than 0.02 minutes.\n")
    assert "most recent call first" in done.stderr  # where each thread is
    assert done.stdout == "The servers were stopped.\n"


def test_a_connection_can_be_closed_while_another_thread_reads_from_it(playground: Playground) -> None:
    driver = connect(playground, 0)
    number = query(driver, "SELECT CONNECTION_ID()")[0][0]
    failed: list[Exception] = []

    def read() -> None:
        try:
            query(driver, "SELECT /* hangs up */ SLEEP(600)")
        except Exception as error:  # noqa: BLE001 (the driver raises many kinds)
            failed.append(error)

    with Client(playground, 0) as root:
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        eventually(
            lambda: root.query(f"SELECT 1 FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {number} AND INFO != ''")
        )
        hang_up(driver)
        thread.join(60)
        assert not thread.is_alive()
        assert len(failed) == 1
        root.query(f"KILL TIDB CONNECTION {number}")  # its statement would run on
