"""Single sessions, fetched by ID: the observations that a KILL is checked and verified by."""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE, hint
from tidb_magic.connection.row_reader import Result
from tidb_magic.connection_id import ConnectionId
from tidb_magic.display.frame import counted
from tidb_magic.display.render import Bytes
from tidb_magic.queries import fragment, query
from tidb_magic.sessions.processlist import INFO_CUT

GRACE = 0.2  # seconds that the server may take to say that its own deadline has passed
Condition = tuple[str, Mapping[str, object]]  # SQL, and the values that are bound to it
ANYTHING: Condition = ("TRUE", MappingProxyType({}))
_SILENT = re.compile(r"^\[([^\]]*(?:\[[^\]]*\][^\]]*)?)\]\(\d+\)")
_VALUES = ("INSTANCE", "ID", "USER", "HOST", "COMMAND", "TIME", "STATE", "INFO", "TxnStart", "SESSION_ALIAS")
# Goes on while the machine sleeps, as the servers' clocks do; Linux' monotonic clock does not, macOS' does.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class Rights:
    """The sessions that may be ended: those of `user`, or all."""

    user: str
    others: bool


@dataclass(frozen=True)
class Transaction:
    """A session's transaction as INFORMATION_SCHEMA.TIDB_TRX shows it: what it would roll back.

    A statement in autocommit mode that waits for a lock is ``Committing`` there (8.5.6, measured).
    """

    state: str
    keys: int
    size: int  # bytes

    @property
    def changes(self) -> str:
        """What it would roll back, in words."""
        size = f" ({Bytes(self.size)})" if self.size else ""
        return f"{counted(self.keys, 'key')}{size}"


@dataclass(frozen=True)
class Session:
    """One session as the list shows it.

    `time` is in seconds; `info` is its statement, at most 16 KiB of it, None while it runs none. `matches` is whether
    the filters that were looked with hold.
    """

    instance: str
    id: int
    user: str
    host: str
    command: str
    time: int
    state: str
    info: str | None
    txn_start: str
    alias: str = ""
    matches: bool = True
    transaction: Transaction | None = None

    @property
    def runs(self) -> bool:
        """Whether it runs a statement."""
        return runs(self.command, self.info, self.user)


def runs(command: str | None, info: str | None, user: str | None) -> bool:
    """Tell whether a session runs a statement. Auto analyze does, as a session without user whose COMMAND is Sleep."""
    return info is not None and (command != "Sleep" or user == "")


@dataclass(frozen=True)
class Observation:
    """The sessions that one statement returned, on one instance or in the cluster.

    `user` is the USER and `own` the ID of the connection that ran it, by its own row; None if that row was missing.
    `missing` are instances that did not answer; it is empty if every registered one did. `requested` and `received`
    are moments of `clock`.
    """

    sessions: Mapping[int, Session] = field(default_factory=lambda: MappingProxyType({}))
    user: str | None = None
    own: ConnectionId | None = None
    missing: tuple[str, ...] = ()
    requested: float = 0.0
    received: float = 0.0


def clock() -> float:
    """Return the seconds that ages of statements are measured with; no other clock here can be compared with it."""
    return time.clock_gettime(_CLOCK)


def fetch_sessions(  # noqa: PLR0913 (the sessions, the place, the options)
    connection: Connection,
    ids: Collection[int],
    *,
    instance: str | None = None,
    condition: Condition = ANYTHING,
    with_transactions: bool = False,
    deadline: float = DEADLINE,
) -> Observation:
    """Fetch the sessions with these IDs: on the instance of this connection if it is named, else in the cluster.

    `condition` is what they should match, as SQL with its parameters; `with_transactions` adds their
    transactions. In a cluster without global kill several sessions can have an ID: fetch on the instance then.

    Raises
    ------
    DeadlineError, ConnectError, ServerError, Interrupted
    """
    matches, parameters = condition
    args = {
        **parameters,
        "ids": (*ids, int(connection.id or 0)),
        "instance_name": instance,
        "info_cut": INFO_CUT,
        "milliseconds": hint(deadline),
    }
    sql = _statement(connection, matches, whole=instance is None, with_transactions=with_transactions)
    requested = clock()
    result = connection.query(sql, args, deadline=deadline + (GRACE if instance is None else 0), leave=True)
    received = clock()
    found = sessions(result, ids)
    missing = unresponsive_instances(result.warnings) or (("an instance",) if result.warnings else ())
    seen = Observation({one.id: one for one in found}, missing=missing, requested=requested, received=received)
    own = result.by_name["tidb_magic_own"]
    if own and own[0] != connection.id:
        connection.moved(ConnectionId(own[0]))
    if itself := _itself(connection, result) if instance else find_itself(connection, result):
        return replace(seen, user=itself.user, own=ConnectionId(itself.id))
    return seen


def _statement(connection: Connection, matches: str, *, whole: bool, with_transactions: bool) -> str:
    if whole:
        source, name = "INFORMATION_SCHEMA.CLUSTER_PROCESSLIST", "INSTANCE"
    elif matches == "TRUE":  # the usual one, and the fastest
        source, name = "INFORMATION_SCHEMA.PROCESSLIST", "%(instance_name)s"
    else:
        source, name = f"(\n{query('sessions_local', condition='TRUE')}\n) AS CLUSTER_PROCESSLIST", "INSTANCE"
    alias = "SESSION_ALIAS" if "SESSION_ALIAS" in connection.columns else "''"
    hint = f"{fragment('server_deadline')} " if whole else ""
    order = fragment("every_instance") if whole else ""
    plain = {"instance": name, "sessions": source, "alias": alias, "matches": f"({matches})"}
    if not with_transactions:
        return query("session_by_id", hint=hint, order=order, **plain)
    sessions = query("session_by_id", hint="", order="", **plain)
    if whole:
        table, instance = "CLUSTER_TIDB_TRX", f" {fragment('same_instance')}"
    else:
        table, instance = "TIDB_TRX", ""
    return query(
        "session_by_id_with_transaction",
        sessions=sessions,
        hint=hint,
        transactions=table,
        instance=instance,
        order=order,
    )


def resembling(connection: Connection, number: int, *, deadline: float = DEADLINE) -> list[int]:
    """Return IDs of sessions that resemble an ID that no session has. Raises what `fetch_sessions` raises."""
    around = 2**10  # a float holds every 1,024th number below 2^63
    args = {"number": number, "lowest": max(number - around, 0), "highest": number + around}
    result = connection.query(query("similar_ids"), args | {"milliseconds": hint(deadline)}, deadline=deadline + GRACE)
    return list(result.by_name["ID"])


def sessions(result: Result, ids: Collection[int]) -> tuple[Session, ...]:
    """Return the rows with these ids as sessions, each once (a restarted instance can be listed twice)."""
    at = [result.columns.index(name) for name in _VALUES if name in result.columns]
    named, nothing = result.by_name, [None] * len(result.rows)
    states, keys, sizes = (named.get(f"tidb_magic_{name}", nothing) for name in ("trx", "keys", "bytes"))
    matches = named.get("tidb_magic_matches", [1] * len(result.rows))
    found: dict[tuple[str, int], Session] = {}
    for row, matching, *trx in zip(result.rows, matches, states, keys, sizes, strict=True):
        if row[at[1]] in ids:
            transaction = None if trx[0] is None else Transaction(trx[0], trx[1] or 0, trx[2] or 0)
            # No more values than these, the last one the alias.
            session = Session(*(row[column] for column in at), matches=bool(matching), transaction=transaction)  # type: ignore[misc]
            found.setdefault((session.instance, session.id), session)
    return tuple(found.values())


def unresponsive_instances(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return the instances that TiDB's warnings name as not answering.

    >>> unresponsive_instances(["[127.0.0.1:10081](1) rpc error: code = Unavailable desc = connection error"])
    ('127.0.0.1:10081',)
    """
    return tuple(match[1] for warning in warnings if (match := _SILENT.match(warning)))


def find_itself(connection: Connection, result: Result) -> Session | None:
    """Return the session that asked, and note where the cluster's list has it."""
    itself = _itself(connection, result)
    if itself is not None:
        connection.instance = connection.proven = itself.instance
    return itself


def _itself(connection: Connection, result: Result) -> Session | None:
    """Return the session that asked, known by the token in its statement; with global kill off ids are not unique."""
    for session in sessions(result, () if connection.id is None else {connection.id}):
        if session.info is not None and connection.token in session.info:
            return session
    return None
