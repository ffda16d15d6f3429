"""What is set up, and what is recorded of it on disk, so that another process can use and stop it."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock

from tidb_magic.playground.build import cache_folder
from tidb_magic.playground.errors import PlaygroundError

DEFAULT = "default"
FIRST_SQL, CA, CERT, KEY = "first.sql", "ca.pem", "cert.pem", "key.pem"  # in the folder


@dataclass(frozen=True)
class Options:
    """How the cluster is set up; the words are those of TiDB's configuration.

    `port` is that of the first instance, the others follow; by default they are free ones. `initialize` is SQL for the
    first start, each statement with a semicolon; no right is checked, also with `sem`. `stats_lease` is how often
    statistics are looked after: the shorter, the sooner auto analyze runs.
    """

    instances: int = 3
    port: int | None = None
    global_kill: bool = True
    compatible_kill_query: bool = False
    connection_ids: Literal[32, 64] = 32
    sem: bool = False
    tls: bool = False
    workload: bool = False
    initialize: str = ""
    stats_lease: str = "3s"

    def __post_init__(self) -> None:
        """Refuse what cannot be started."""
        if not 1 <= self.instances <= 16:
            raise PlaygroundError(f"A playground has 1 to 16 instances, not {self.instances}.")
        if self.connection_ids not in (32, 64):
            raise PlaygroundError(f"Connection ids have 32 or 64 bits, not {self.connection_ids}.")
        if self.port is not None and not 1 <= self.port <= 65536 - self.instances:
            raise PlaygroundError(f"Port {self.port} is out of range for {self.instances} instances.")

    @property
    def first_sql(self) -> str:
        """What the first instance runs at its first start, without any check of rights."""
        # The store has no ingest, without which a fast ADD INDEX never ends.
        return (
            f"SET GLOBAL tidb_enable_dist_task = OFF;\nSET GLOBAL tidb_ddl_enable_fast_reorg = OFF;\n{self.initialize}"
        )

    def toml(self, folder: Path) -> str:
        """Return the configuration of a tidb-server; JSON's texts, booleans and numbers are TOML's."""
        lines = [
            f"initialize-sql-file = {json.dumps(str(folder / FIRST_SQL))}",
            f"enable-global-kill = {json.dumps(self.global_kill)}",
            f"compatible-kill-query = {json.dumps(self.compatible_kill_query)}",
            f"enable-32bits-connection-id = {json.dumps(self.connection_ids == 32)}",
            "[tikv-client]",
            "max-batch-size = 0",  # batched requests would bypass the store's records of lock waits
            "[performance]",
            f"stats-lease = {json.dumps(self.stats_lease)}",
            "[security]",
            f"enable-sem = {json.dumps(self.sem)}",
            "auto-tls = false",
        ]
        if self.tls:
            lines += [f"ssl-cert = {json.dumps(str(folder / CERT))}", f"ssl-key = {json.dumps(str(folder / KEY))}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class State:
    """What is recorded of a playground on disk, so that another process can use and stop it."""

    name: str
    folder: str
    options: Options
    ports: dict[str, int]
    pids: dict[str, int] = field(default_factory=dict)

    def save(self) -> None:
        """Write the record, whole or not at all."""
        record = record_file(self.name)
        half = record.with_suffix(f".{os.getpid()}")
        half.write_text(json.dumps(asdict(self)))
        half.replace(record)


def recorded() -> Iterator[State]:
    """Yield the record of every playground of this user, whoever started it."""
    for record in sorted(_folder().glob("*.json")):
        try:
            found = json.loads(record.read_text())
            yield State(**found | {"options": Options(**found["options"])})
        except (OSError, ValueError, TypeError, KeyError, PlaygroundError):
            continue  # stopped a moment ago, or written by another version


def record_file(name: str) -> Path:
    """Return where the playground of this name is recorded."""
    if not re.fullmatch(r"[\w-]+", name):
        raise PlaygroundError(f"A playground's name holds letters, digits, - and _ only, not {name!r}.")
    return _folder() / f"{name}.json"


def lock(name: str) -> FileLock:
    """Return the lock that is held while the playground of this name starts; the holder can enter it again."""
    return FileLock(record_file(name).with_suffix(".lock"), is_singleton=True)


def _folder() -> Path:
    folder = cache_folder() / "running"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
