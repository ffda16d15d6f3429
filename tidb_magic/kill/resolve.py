"""The targets of a kill: from IDs, from rows of a list, from filters."""

from collections.abc import Iterable, Mapping
from typing import Any, SupportsInt

import pandas as pd

from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.settings import host_port
from tidb_magic.connection_id import ConnectionId
from tidb_magic.display.frame import counted, keys_of
from tidb_magic.errors import ConnectionIdError, OptionError, ServerError
from tidb_magic.kill.model import ExpectedSession, Target
from tidb_magic.kill.parser import KillStatement
from tidb_magic.kill.report import KillReport
from tidb_magic.queries import query as statement
from tidb_magic.sessions.filters import Filters
from tidb_magic.sessions.lookup import runs
from tidb_magic.sessions.processlist import ProcessList
from tidb_magic.sessions.reader import ALL, read

_NO_IDS = {"TIME", "MEM", "DISK", "TXN_ID", "ROWS_AFFECTED", "SESSIONS", "ACTIVE", "LONGEST", "MEMORY", "SERVER_ID"}
Victim = SupportsInt | str | KillStatement
Victims = Victim | Iterable[Victim] | pd.DataFrame


def targets(victims: Victims, pool: Pool, *, query: bool) -> list[Target]:
    """Return one id, several, parsed statements, or the rows of a frame as targets.

    Of a frame the columns INSTANCE, USER, HOST, COMMAND with INFO, and TxnStart say what was seen of each session;
    those that are missing are not compared, and without all of them an id is as good as typed.

    Raises
    ------
    ConnectionIdError
        Something is no connection id. Floats are none: they have lost digits.
    OptionError
        The frame is a list of another cluster, or has no column ID.
    """
    if isinstance(victims, pd.DataFrame):
        return _rows(victims, pool, query=query)
    if isinstance(victims, Mapping):
        raise ConnectionIdError("Give ids or a frame, not a mapping.")
    if isinstance(victims, (str, bytes)) or not isinstance(victims, Iterable) or getattr(victims, "ndim", 1) == 0:
        return [_target(victims, query=query)]
    if isinstance(victims, pd.Series):
        if "ID" in victims.index:
            raise OptionError("This is a row without its frame: df.iloc[[0]], with two brackets, keeps the frame.")
        if victims.name in _NO_IDS:
            raise OptionError(f"This is the column {victims.name}, not ID.")
        _exact(victims)
    return [_target(one, query=query) for one in victims]


def _target(victim: Any, *, query: bool) -> Target:
    if isinstance(victim, KillStatement):
        return Target(victim)
    return Target(KillStatement(ConnectionId(victim), query=query))


def matching(pool: Pool, filters: Filters, *, query: bool, deadline: float) -> tuple[list[Target], list[str]]:
    """Return the sessions that match now, without tidb_magic's own, and remarks on that list.

    Raises
    ------
    OptionError
        The filters exclude no session.
    DeadlineError, ConnectError, ServerError
        As of a list.
    """
    listed = read(pool, filters, limit=ALL, deadline=deadline)
    if not _narrows(pool, filters, deadline):
        raise OptionError(
            "These filters match every session. Add one that excludes some: a user, a time or a statement."
        )
    if filters.where is not None and len(listed):
        _check(pool, filters.where, listed["INSTANCE"], deadline)
    others = [key for key in keys_of(listed) if key not in listed.own]
    found = [Target(KillStatement(ConnectionId(number), query=query), ExpectedSession(name)) for name, number in others]
    remarks = [_no_instance(pool, filters.instance)] if filters.instance and not len(listed) else []
    if (own := len(listed) - len(found)) and filters.match is None:  # our own statement holds the pattern
        remarks.append(f"{counted(own, 'session')} of tidb_magic itself {'matches' if own == 1 else 'match'} too.")
    if listed.hidden:
        remarks.append(f"{counted(listed.hidden, 'idle session')} would match with --idle.")
    if not listed.see_others:
        remarks.append("Only your own sessions are visible: PROCESS is needed to see the others'.")
    if not listed.complete:
        missing = ", ".join(listed.missing)
        remarks.append(
            f"NOT COMPLETE: no answer from {missing}, whose sessions were not checked." if missing else "NOT COMPLETE."
        )
        remarks += listed.remarks
    return found, [remark for remark in remarks if remark]


def _no_instance(pool: Pool, name: str) -> str:
    """Return a remark on an instance that is not there."""
    names = pool.topology.registered()
    return "" if name in names else f"There is no instance {name} in the list; there are: {', '.join(names)}."


def _check(pool: Pool, where: str, answered: Iterable[str], deadline: float) -> None:
    """Check that a condition is complete without the rest: ``1) OR (1`` would undo the other filters."""
    kept = (pool.idle_connection(name) for name in dict.fromkeys(answered))
    connection = next((one for one in kept if one is not None), None) or pool.connection(within=deadline)
    sessions = statement("sessions_local", condition="TRUE")
    try:
        alone = statement("validate_condition", sessions=sessions, condition=where.replace("%", "%%"))
        connection.query(alone, {"instance_name": ""}, deadline=deadline)
    except ServerError as error:
        raise OptionError(f"where: TiDB does not accept the condition {where!r}. {error}") from error


def _narrows(pool: Pool, filters: Filters, deadline: float) -> bool:
    if filters.narrows is not None:
        return filters.narrows
    left_out = Filters(where=f"COALESCE((\n{filters.where}\n), 0) = 0", idle=True)
    return read(pool, left_out, limit=1, deadline=deadline).matched > 0


def _exact(ids: "pd.Series[Any]") -> None:
    if pd.api.types.is_float_dtype(ids.dtype):
        raise ConnectionIdError(
            "These ids are floats, which have lost digits: ids above 2^53 need the dtype Int64, as in %tidb_ps."
        )
    if ids.isna().any():
        raise ConnectionIdError("An id is missing: drop these rows first.")


def _rows(frame: pd.DataFrame, pool: Pool, *, query: bool) -> list[Target]:
    names = list(frame.columns)
    if "ASKED" in names:
        raise OptionError("The history is of the past and of any cluster: list again.")
    if names.count("ID") != 1:
        raise OptionError("The frame must have exactly one column ID, as rows of %tidb_ps have.")
    requested = None
    if isinstance(frame, ProcessList) and frame.origin is not None:
        address = host_port(pool.settings.host, pool.settings.port)
        if frame.origin.address != address:
            raise OptionError(
                f"The frame is a list of {frame.origin.address}, and this cluster is {address}: list again."
            )
        requested = frame.origin.requested
    _exact(frame["ID"])
    texts = {name: frame[name].tolist() for name in _IDENTITY if names.count(name) == 1}
    # The rows of a plan say themselves what was planned.
    scopes = frame["ACTION"].tolist() if isinstance(frame, KillReport) and "ACTION" in names else [""] * len(frame)
    found: dict[tuple[str | None, int], Target] = {}
    for at, number in enumerate(frame["ID"].tolist()):
        row = {name: None if pd.isna(values[at]) else str(values[at]) for name, values in texts.items()}
        expected = _expected(row, requested)
        target = Target(KillStatement(ConnectionId(number), query=query or scopes[at] == "QUERY"), expected)
        if found.setdefault((row.get("INSTANCE"), target.id), target) != target:
            raise OptionError(f"The frame has {int(target.id)} twice, with different values: list again.")
    return list(found.values())


_IDENTITY = ("INSTANCE", "USER", "HOST", "COMMAND", "INFO", "TxnStart")


def _expected(row: Mapping[str, str | None], requested: float | None) -> ExpectedSession | None:
    if not any(value is not None for value in row.values()):
        return None
    ran = None
    if "COMMAND" in row or "INFO" in row:
        ran = runs(row.get("COMMAND"), row.get("INFO", ""), row.get("USER"))
    txn_start = (row["TxnStart"] or "") if "TxnStart" in row else None
    return ExpectedSession(
        row.get("INSTANCE"), row.get("USER"), row.get("HOST"), ran, row.get("INFO"), txn_start, requested
    )
