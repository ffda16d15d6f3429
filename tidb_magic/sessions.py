"""Single sessions, and a look at some of them: what a KILL is decided by."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tidb_magic.connection import Connection
from tidb_magic.driver import Result
from tidb_magic.queries import query

DEADLINE = 3.0  # seconds
GRACE = 0.2  # seconds that the server may take to say that its own deadline has passed
_SILENT = re.compile(r"^\[([^\]]*(?:\[[^\]]*\][^\]]*)?)\]\(\d+\)")


@dataclass(frozen=True)
class Session:
    """One session as the list shows it. `time` is in seconds; `info` is its statement, None while it runs none."""

    instance: str
    id: int
    user: str
    host: str
    command: str
    time: int
    info: str | None
    txn_start: str

    @property
    def runs(self) -> bool:
        """Whether it runs a statement."""
        return self.command != "Sleep" and self.info is not None


@dataclass(frozen=True)
class Look:
    """What one reading of the cluster saw.

    `here` is the INSTANCE and `user` the USER of the connection that looked; both None if it did not see itself.
    `missing` are instances that did not answer; it is empty if every registered one did.
    """

    sessions: tuple[Session, ...]
    here: str | None
    user: str | None
    missing: tuple[str, ...]


def look(connection: Connection, ids: Sequence[int], *, deadline: float = DEADLINE) -> Look:
    """Look at the sessions with these ids, wherever they are.

    Raises
    ------
    DeadlineError, ConnectError, ServerError, Interrupted
    """
    own = () if connection.id is None else (int(connection.id),)
    args = {"ids": (*ids, *own), "milliseconds": hint(deadline)}
    result = connection.query(query("sessions"), args, deadline=deadline + GRACE)
    itself = find_itself(connection, result)
    missing = silent(result.warnings) or (("an instance",) if result.warnings else ())
    return Look(sessions(result, ids), itself.instance if itself else None, itself.user if itself else None, missing)


def resembling(connection: Connection, number: int, *, deadline: float = DEADLINE) -> list[int]:
    """Look for the ids that somebody may have meant with an id that nobody has. As `look` for what can go wrong."""
    around = 2**10  # a float holds every 1,024th number below 2^63
    args = {"number": number, "lowest": max(number - around, 0), "highest": number + around}
    result = connection.query(query("resembling"), args | {"milliseconds": hint(deadline)}, deadline=deadline + GRACE)
    return list(result.by_name["ID"])


def sessions(result: Result, ids: Collection[int]) -> tuple[Session, ...]:
    """Return the rows with these ids as sessions, each once (a restarted instance can be listed twice)."""
    names = ("INSTANCE", "ID", "USER", "HOST", "COMMAND", "TIME", "INFO", "TxnStart")
    at = [result.columns.index(name) for name in names]
    found: dict[tuple[str, int], Session] = {}
    for row in result.rows:
        if row[at[1]] in ids:
            session = Session(*(row[column] for column in at))
            found.setdefault((session.instance, session.id), session)
    return tuple(found.values())


def silent(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return the instances that TiDB's warnings name as not answering.

    >>> silent(["[127.0.0.1:10081](1) rpc error: code = Unavailable desc = connection error"])
    ('127.0.0.1:10081',)
    """
    return tuple(match[1] for warning in warnings if (match := _SILENT.match(warning)))


def find_itself(connection: Connection, result: Result) -> Session | None:
    """Return the session that asked, known by the token in its statement; with global kill off ids are not unique."""
    for session in sessions(result, () if connection.id is None else {connection.id}):
        if session.info is not None and connection.token in session.info:
            connection.instance = session.instance
            return session
    return None


def hint(deadline: float) -> int:
    """Return a deadline as the hint takes it. 0 would be none."""
    return max(1, round(deadline * 1000))
