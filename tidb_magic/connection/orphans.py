"""The sessions of kernels that were ended by force, from the record that each kernel keeps while it runs."""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

from tidb_magic.connection.client_sessions import ClientSession

try:
    import fcntl
except ImportError:  # Windows: nothing is recorded there
    fcntl = None  # type: ignore[assignment]

_NAMES = "tidb_magic-{}.json"
_KEPT = 86_400.0  # seconds for which a record is read after its kernel has written it


@dataclass(frozen=True)
class Orphan:
    """A session that a kernel left open: ID and HOST in the process list, and user@host:port of the connection."""

    id: int
    host: str
    address: str


class Orphans:
    """The record of this kernel, and those of kernels that are gone.

    A record is a file that its kernel has locked: the operating system unlocks it however the kernel ends. It holds no
    password and no statement.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._process = 0  # that opened the file; a fork of it has another number
        self._left: dict[Path, list[Orphan]] = {}

    @property
    def left(self) -> list[Orphan]:
        """What other kernels have left open, as far as their records tell."""
        return list(chain.from_iterable(self._left.values()))

    def follow(self, folder: Path) -> None:
        """Begin a record in this folder, and read those that others have left there."""
        if fcntl is None:
            return
        self._process = os.getpid()
        for path in folder.glob(_NAMES.format("*")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                if found := _read(path):
                    self._left[path] = found
        with suppress(OSError):  # a folder that cannot be written
            file = (folder / _NAMES.format(f"{self._process}-{time.time_ns()}")).open("w")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = file

    def unfollow(self) -> None:
        """Remove this kernel's record."""
        if self._file is not None and os.getpid() == self._process:
            with suppress(OSError):
                Path(self._file.name).unlink()
            self._file.close()
        self._file = None
        self._left.clear()

    def note(self, sessions: Iterable[ClientSession]) -> None:
        """Write what this kernel has open now."""
        if self._file is None or os.getpid() != self._process:
            return
        rows = [{"id": one.id, "host": one.host, "address": one.settings.address} for one in sessions]
        with suppress(OSError):
            self._file.seek(0)
            self._file.truncate()
            json.dump(rows, self._file)
            self._file.flush()

    def forget(self, address: str, running: Iterable[tuple[int, str]]) -> None:
        """Forget those at an address but the ones that still run; remove the records that have none left."""
        still = set(running)
        for path, ones in list(self._left.items()):
            kept = [one for one in ones if one.address != address or (one.id, one.host) in still]
            self._left[path] = kept
            if not kept:
                del self._left[path]
                path.unlink(missing_ok=True)


def _read(path: Path) -> list[Orphan]:
    """Return what a kernel has left; nothing while it runs."""
    with path.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while the kernel runs
        found = [Orphan(int(one["id"]), str(one["host"]), str(one["address"])) for one in json.load(file)]
    if not found or time.time() - path.stat().st_mtime > _KEPT:
        path.unlink(missing_ok=True)
        return []
    return found


ORPHANS = Orphans()
