"""Balancers: HAProxy, and a small one in which each new connection goes to the next server, whatever its state."""

import itertools
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from tests.clients import eventually
from tests.programs import installed

_HAPROXY = """defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""


class Balancer:
    """Listens on a loopback port of its own while it is open, as HAProxy and the like do."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._next = itertools.cycle(ports)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        self.passed: list[bytes] = []  # what clients sent
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, user: str = "root") -> str:
        return f"mysql://{user}@127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", next(self._next)))
                except ConnectionRefusedError:
                    client.close()
                    continue
                self._sockets += [client, server]
                for source, target, passed in ((client, server, self.passed), (server, client, None)):
                    threading.Thread(target=_pump, args=(source, target, passed), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class HAProxy:
    """HAProxy on a loopback port, as the programs of a cluster connect to it. It is installed if it is missing."""

    def __init__(self, ports: Sequence[int]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        servers = "".join(f"  server tidb-{number} 127.0.0.1:{port}\n" for number, port in enumerate(ports))
        self._folder = TemporaryDirectory()
        configuration = Path(self._folder.name) / "haproxy.cfg"
        configuration.write_text(f"{_HAPROXY}listen tidb\n  bind 127.0.0.1:{self.port}\n{servers}")
        program = installed("haproxy")
        if program is None:
            raise RuntimeError("HAProxy is missing. Install the package haproxy.")
        self._process = subprocess.Popen([program, "-db", "-f", configuration], stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        eventually(self._listens)
        return self

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


def _pump(source: socket.socket, target: socket.socket, passed: list[bytes] | None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if passed is not None:
                passed.append(data)
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
