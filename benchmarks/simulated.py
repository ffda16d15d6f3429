"""Many TiDB instances that are simulated: servers that speak as much of MySQL's protocol as connecting and lists need.

They answer after a set time with sessions as TiDB 8.5.6 lists them. What such a cluster costs its own processors is not
simulated.
"""

import asyncio
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection as Pipe
from typing import Any

from pymysql.constants import CLIENT, FIELD_TYPE

COLUMNS = {
    **dict.fromkeys(("ID", "TIME", "MEM", "DISK", "ROWS_AFFECTED", "TIDB_CPU", "TIKV_CPU"), "bigint"),
    **dict.fromkeys(("INSTANCE", "USER", "HOST", "DB", "COMMAND", "STATE", "INFO", "DIGEST"), "varchar"),
    **dict.fromkeys(("TxnStart", "RESOURCE_GROUP", "SESSION_ALIAS"), "varchar"),
}
STATEMENT = "SELECT /* report {} */ region, SUM(amount) FROM orders GROUP BY region"
_COUNTS = ("tidb_magic_length", "tidb_magic_sessions", "tidb_magic_ids", "tidb_magic_shown")
_ADDED = 3  # of them that count; the first is the length of a long statement
_NUMBERS = {name for name, kind in COLUMNS.items() if kind == "bigint"} | {*_COUNTS}
_CAPABILITIES = (
    CLIENT.LONG_PASSWORD | CLIENT.PROTOCOL_41 | CLIENT.TRANSACTIONS | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH
)
_PLUGIN, _SALT = b"mysql_native_password\0", b"12345678"
_UTF8, _AUTOCOMMIT = 45, b"\x02\x00"
_OK, _END, _NULL = b"\x00\x00\x00" + _AUTOCOMMIT + b"\x00\x00", b"\xfe\x00\x00" + _AUTOCOMMIT, b"\xfb"
_QUERY = 3
Row = Sequence[object]


@dataclass(frozen=True)
class Options:
    """A simulated cluster: `active` of the sessions run a statement; `delay` is the seconds until each answer.

    The instances with the numbers `silent` accept connections and answer nothing; then neither does the list of the
    cluster.
    """

    instances: int
    sessions: int
    active: int = 200
    delay: float = 0.02
    silent: frozenset[int] = frozenset()


@contextmanager
def simulated(options: Options) -> Iterator[str]:
    """Run such a cluster in a process of its own; yield the URL of its first instance."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(options, there), daemon=True)
    process.start()
    try:
        yield f"mysql://root@127.0.0.1:{here.recv()}"
    finally:
        process.kill()
        process.join()


def _serve(options: Options, pipe: Pipe) -> None:
    async def serve() -> None:
        cluster, loop = Cluster(options), asyncio.get_running_loop()
        for number in range(options.instances):
            server = await loop.create_server(lambda number=number: Server(cluster, number), "127.0.0.1", 0)  # type: ignore[misc]
            cluster.ports.append(server.sockets[0].getsockname()[1])
        _ = cluster.active, cluster.all  # which takes seconds
        pipe.send(cluster.ports[0])
        await asyncio.Event().wait()

    asyncio.run(serve())


# -- the protocol --------------------------------------------------------------------------------------------------


def packets(payloads: Iterable[bytes], first: int) -> bytes:
    """Return packets with their headers, numbered from `first`."""
    return b"".join(
        len(one).to_bytes(3, "little") + bytes([number % 256]) + one for number, one in enumerate(payloads, first)
    )


def text(value: object) -> bytes:
    """Return a value as a text of the protocol."""
    if value is None:
        return _NULL
    data = str(value).encode()
    return (bytes([len(data)]) if len(data) < 251 else b"\xfc" + len(data).to_bytes(2, "little")) + data


def column(name: str) -> bytes:
    """Return the definition of a column."""
    kind = FIELD_TYPE.LONGLONG if name in _NUMBERS else FIELD_TYPE.VAR_STRING
    fixed = _UTF8.to_bytes(2, "little") + (1024).to_bytes(4, "little") + bytes([kind, 0, 0, 0, 0, 0])
    return b"".join(map(text, ("def", "", "", "", name, name))) + b"\x0c" + fixed


class ResultSet:
    """An encoded result set, whose first row is that of the session that asks."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Row]) -> None:
        head = [bytes([len(columns)]), *map(column, columns), _END]
        self._head, self._own = packets(head, 1), 1 + len(head)
        encoded = [b"".join(map(text, row)) for row in rows]
        self._rest = packets([*encoded, _END], self._own + 1)

    def answer(self, own: Row) -> bytes:
        """Return it with the row of the session that asks."""
        return self._head + packets([b"".join(map(text, own))], self._own) + self._rest


@dataclass
class Cluster:
    """What the instances answer."""

    options: Options
    ports: list[int] = field(default_factory=list)
    _local: dict[int, ResultSet] = field(default_factory=dict)

    def name(self, instance: int) -> str:
        """Return the INSTANCE of an instance."""
        return f"10.{instance // 250}.{instance % 250}.1:10080"

    def number(self, instance: int, local: int) -> int:
        """Return a connection ID of 32 bits."""
        return (instance + 1) << 21 | local << 1

    def session(self, number: int) -> Row:
        """Return one session of the crowd, with the columns that a list adds."""
        options, instance = self.options, number % self.options.instances
        busy = number < options.active
        does = ("Query", "autocommit", STATEMENT.format(number)) if busy else ("Sleep", "", None)
        return self.row(instance, 100 + number // options.instances, *does)

    def row(self, instance: int, local: int, command: str, state: str, info: str | None) -> Row:
        """Return a session by the columns of `listed`."""
        client = f"10.9.{local % 250}.7:{20_000 + local % 40_000}"
        values = {
            "INSTANCE": self.name(instance),
            "ID": self.number(instance, local),
            "USER": f"user_{local % 8}",
            "HOST": client,
            "DB": "shop",
            "COMMAND": command,
            "TIME": local % 900,
            "STATE": state,
            "INFO": info,
            "DIGEST": "e5796985ccafe2f71126ed6c0ac939ffa015a8c0744a24b7aee6d587103fd2f7",
            "TxnStart": "",
            "RESOURCE_GROUP": "default",
            "SESSION_ALIAS": "",
            "tidb_magic_length": None,
        }
        return [values.get(name, 0) for name in self.listed[:-_ADDED]] + [None] * _ADDED

    def counts(self, instance: int) -> Row:
        """Return the row of a list that counts the sessions of an instance, with the one that asks."""
        options = self.options
        here = range(instance, options.sessions, options.instances)
        shown = len(range(instance, options.active, options.instances))
        values = {"INSTANCE": self.name(instance), "ID": self.number(instance, 1)}
        counted = {"tidb_magic_sessions": len(here), "tidb_magic_ids": len(here), "tidb_magic_shown": shown}
        return [(values | counted).get(name) for name in self.listed]

    @cached_property
    def listed(self) -> list[str]:
        """The columns of a list."""
        names = [new for name in COLUMNS for new in ((name, _COUNTS[0]) if name == "INFO" else (name,))]
        return [*names, *_COUNTS[-_ADDED:]]

    @cached_property
    def active(self) -> ResultSet:
        """The active sessions of the cluster, and the counts of all."""
        counts = map(self.counts, range(self.options.instances))
        return ResultSet(self.listed, [*map(self.session, range(self.options.active)), *counts])

    @cached_property
    def all(self) -> ResultSet:
        """All sessions of the cluster, without counts."""
        names = self.listed[:-_ADDED]
        return ResultSet(names, (self.session(number)[:-_ADDED] for number in range(self.options.sessions)))

    def local(self, instance: int) -> ResultSet:
        """Return the active sessions of one instance, and the counts of all of its sessions."""
        if instance not in self._local:
            here = range(instance, self.options.active, self.options.instances)
            self._local[instance] = ResultSet(self.listed, [*map(self.session, here), self.counts(instance)])
        return self._local[instance]

    def registered(self) -> list[Row]:
        """Return the rows of CLUSTER_INFO."""
        return [
            (f"127.0.0.1:{port}", self.name(number), "8.0.11-TiDB-v8.5.6", number + 1, "1h2m3s")
            for number, port in enumerate(self.ports)
        ]


class Server(asyncio.Protocol):
    """One connection to a simulated instance."""

    _count = 0

    def __init__(self, cluster: Cluster, instance: int) -> None:
        Server._count += 1
        self._cluster, self._instance = cluster, instance
        self._local = 1 + Server._count % 90  # numbers that no session of the crowd has
        self._id = cluster.number(instance, self._local)
        self._known, self._data = False, b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the greeting."""
        self._transport = transport
        if self._instance in self._cluster.options.silent:
            return
        low, high = _CAPABILITIES % 2**16, _CAPABILITIES >> 16
        self._transport.write(
            packets(
                [
                    b"\x0a8.0.11-TiDB-v8.5.6\0"
                    + self._id.to_bytes(4, "little")
                    + _SALT
                    + b"\0"
                    + low.to_bytes(2, "little")
                    + bytes([_UTF8])
                    + _AUTOCOMMIT
                    + high.to_bytes(2, "little")
                    + bytes([21])
                    + bytes(10)
                    + _SALT
                    + b"1234\0"
                    + _PLUGIN
                ],
                0,
            )
        )

    def data_received(self, data: bytes) -> None:
        """Answer each statement after the delay."""
        self._data += data
        while len(self._data) >= 4:
            length = int.from_bytes(self._data[:3], "little")
            payload, self._data = self._data[4 : 4 + length], self._data[4 + length :]
            if not self._known:
                self._known = True
                self._transport.write(packets([_OK], 2))
            elif payload[:1] != bytes([_QUERY]):
                self._transport.close()
            elif (answer := self._answer(payload[1:].decode())) is not None:
                delay = self._cluster.options.delay
                asyncio.get_running_loop().call_later(delay, self._transport.write, answer)

    def _answer(self, sql: str) -> bytes | None:
        cluster = self._cluster
        rows: dict[str, Callable[[], tuple[Sequence[str], list[Row]]]] = {
            "TIDB_VERSION()": lambda: (("ID", "version"), [(self._id, "Release Version: v8.5.6")]),
            "SELECT CONNECTION_ID()": lambda: (("ID",), [(self._id,)]),
            "INFORMATION_SCHEMA.COLUMNS": lambda: (("name", "type"), [*COLUMNS.items()]),
            "tidb_config": lambda: (
                ("a", "b", "c", "TIME"),
                [("true", "false", *cluster.name(self._instance).split(":"))],
            ),
            "SHOW GRANTS": lambda: (("grants",), [("GRANT ALL PRIVILEGES ON *.* TO 'root'@'%'",)]),
            "CLUSTER_INFO": lambda: (("a", "b", "c", "ID", "e"), cluster.registered()),
        }
        for part, known in rows.items():
            if part in sql:
                columns, (own, *others) = known()
                return ResultSet(columns, others).answer(own)
        if cluster.options.silent and "FROM INFORMATION_SCHEMA.CLUSTER_" in sql:
            return None
        if "tidb_magic_length" not in sql:
            return packets([_OK], 1)
        own = cluster.row(self._instance, self._local, "Query", "autocommit", sql[:400])
        if "FROM INFORMATION_SCHEMA.PROCESSLIST" in sql:
            return cluster.local(self._instance).answer(own)
        return cluster.active.answer(own) if "LIMIT" in sql else cluster.all.answer(own[:-_ADDED])
