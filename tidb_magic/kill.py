"""End sessions or their statements, and see that it happened: plan, check, send, verify."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar

import pandas as pd

from tidb_magic.connection import Connection, is_own
from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import ConnectError, DeadlineError, Interrupted, ServerError
from tidb_magic.frames import ShownFrame, Table
from tidb_magic.grammar import KillStatement
from tidb_magic.link import Link
from tidb_magic.render import first_line
from tidb_magic.routing import Capabilities, Route, registered, route, server_ids
from tidb_magic.sessions import DEADLINE, Look, Session, look, resembling

TIMEOUT = 10.0  # seconds, from KILL to proof
_POLL = (0.002, 0.25)  # seconds between two looks: the first, and the longest
_LEAST = 0.5  # seconds that a look gets, also at the end of the timeout

COLUMNS = ["ID", "INSTANCE", "USER", "HOST", "ACTION", "OUTCOME", "REASON", "SECONDS", "STATEMENT", "WARNING", "INFO"]


class Outcome(StrEnum):
    """What became of one target. Each is what was observed, never what the server answered."""

    KILLED = "killed"  # the session is gone
    INTERRUPTED = "interrupted"  # its statement ended, the session lives
    STILL_RUNNING = "still running"  # sent, not ended in time
    UNCONFIRMED = "unconfirmed"  # sent, then nothing answered: it may still happen
    ALREADY_GONE = "already gone"  # two looks found no such session; nothing sent
    REFUSED = "refused"  # nothing sent
    UNREACHABLE = "unreachable"  # the cluster or its instance did not answer; nothing sent
    FAILED = "failed"  # the server refused the KILL
    PLANNED = "planned"  # nothing sent: a plan was asked for


@dataclass(frozen=True)
class Target:
    """One id of a kill: what was seen of it, and what became of it. `seconds` is from KILL to proof."""

    statement: KillStatement
    session: Session | None = None
    outcome: Outcome | None = None
    reason: str = ""
    seconds: float | None = None
    warning: str = ""

    @property
    def id(self) -> int:
        """The connection id."""
        return int(self.statement.connection_id or 0)


class KillReport(ShownFrame):
    """One row for each session that a kill was asked for.

    ID ``Int64``, missing for an id from 2^63 on, which belongs to nobody;
    INSTANCE, USER, HOST and INFO as last seen; ACTION ``QUERY`` or ``CONNECTION``; OUTCOME one of
    `Outcome`; REASON in words; SECONDS ``Float64`` from KILL to proof; STATEMENT as sent, or as it would be;
    WARNING the server's own words.
    """

    _widths: ClassVar[Mapping[str, int]] = MappingProxyType({"INFO": 40, "REASON": 300})

    def _table(self) -> Table:
        shown = ["ID", "INSTANCE", "USER", "ACTION", "OUTCOME", "SECONDS", "INFO", "REASON"]
        rows = [[_cell(value) for value in row] for row in self[shown].itertuples(index=False)]
        counts = self["OUTCOME"].value_counts(sort=False)
        return shown, rows, [", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + "."]


def _cell(value: Any) -> object:
    if pd.isna(value):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else value


def plan(link: Link, statements: Sequence[KillStatement]) -> list[Target]:
    """Look at every target now and decide: `planned`, or what speaks against it. Sends nothing.

    Raises
    ------
    Interrupted
    """
    return _plan(link, list(dict.fromkeys(statements)))[1]


def kill(link: Link, statements: Sequence[KillStatement], *, timeout: float = TIMEOUT) -> KillReport:
    """End what the statements name, one after the other, and report what was seen to happen.

    Parameters
    ----------
    link
        The cluster.
    statements
        Whom to end, and whether the session or only its statement.
    timeout
        Seconds from each KILL to its proof.

    Raises
    ------
    Interrupted
        Ctrl-C. The message says what was sent and what is known of it.
    """
    done: list[Target] = []
    waiting = list(dict.fromkeys(statements))
    sending = False
    try:
        while waiting:
            connection, (target,) = _plan(link, waiting[:1])
            if connection and target.outcome is Outcome.PLANNED:
                sending = True
                began = time.monotonic()
                target = _verify(link, _send(connection, target, timeout), began, timeout)
            done.append(target)
            del waiting[0]
            sending = False
        return report(done)
    except KeyboardInterrupt as error:
        raise Interrupted(_interrupted(done, waiting, error, sending=sending)) from None


def report(targets: Sequence[Target]) -> KillReport:
    """Return the targets as a KillReport."""
    rows = [
        (
            target.id if target.id < 2**63 else None,
            session.instance if session else None,
            session.user if session else None,
            session.host if session else None,
            "QUERY" if target.statement.query else "CONNECTION",
            str(target.outcome),
            target.reason if target.id < 2**63 else f"{target.id}: {target.reason}",
            target.seconds,
            target.statement.sql,
            target.warning,
            session.info if session else None,
        )
        for target in targets
        for session in [target.session]
    ]
    frame = KillReport(pd.DataFrame(rows, columns=COLUMNS, dtype=object))
    dtypes: dict[str, Any] = {"ID": "Int64", "SECONDS": "Float64"}
    for name in COLUMNS:
        frame[name] = frame[name].astype(dtypes[name]) if name in dtypes else frame[name].infer_objects()
    return frame


def _plan(link: Link, statements: Sequence[KillStatement]) -> tuple[Connection | None, list[Target]]:
    """Return the verdicts and the connection that looked: on another instance an id can be somebody else's."""
    ids = [int(one.connection_id) for one in statements if one.connection_id is not None]
    held = None
    meant: dict[int, list[int]] = {}
    try:
        connection = link.connection()
        link.refresh()
        seen = look(connection, ids)
        if not set(ids) <= {session.id for session in seen.sessions}:
            seen = _merged(seen, look(connection, ids))  # COM_CHANGE_USER hides a session for a moment
            held = server_ids(connection)
            absent = {ConnectionId(number) for number in set(ids) - {session.id for session in seen.sessions}}
            meant = {number: resembling(connection, number) for number in absent if number.doubtful}
    except (DeadlineError, ConnectError, ServerError) as error:
        reason = f"not found out where it is. {error}"
        return None, [Target(one, outcome=Outcome.UNREACHABLE, reason=reason) for one in statements]
    return connection, [_judge(one, seen, link.capabilities, held, meant) for one in statements]


def _judge(
    statement: KillStatement,
    seen: Look,
    able: Capabilities,
    registered_ids: set[int] | None,
    meant: Mapping[int, Sequence[int]] = MappingProxyType({}),
) -> Target:
    number = statement.connection_id
    if number is None:
        return Target(statement, outcome=Outcome.REFUSED, reason="CONNECTION_ID() is tidb_magic's own connection")
    found = [session for session in seen.sessions if session.id == number]
    # Without global kill the session that was meant can be where nobody answers, and this one its namesake.
    if seen.missing and not (found and able.global_kill):
        silent = f"{', '.join(seen.missing)} did not answer"
        return Target(statement, outcome=Outcome.UNREACHABLE, reason=f"not found out where it is: {silent}")
    if not found and not able.see_others:
        reason = f"{seen.user} has no such session, and without PROCESS other users' sessions are not visible"
        return Target(statement, outcome=Outcome.REFUSED, reason=reason)
    if not found:
        reason = _absent(number, able, registered_ids)
        if mistaken := number.mistaken_for(meant.get(number, ())):
            reason = f"no session has this id: {mistaken}"
        return Target(statement, outcome=Outcome.ALREADY_GONE, reason=reason)
    if against := _against(statement, found, seen, able):
        return Target(statement, found[0], Outcome.REFUSED, against)
    way = route(found[0].instance, seen.here, able)
    if not isinstance(way, Route):
        return Target(statement, found[0], Outcome.REFUSED, way)
    there = "this connection is on its instance" if way is Route.OWNER else f"TiDB forwards it to {found[0].instance}"
    return Target(statement, found[0], Outcome.PLANNED, there)


def _absent(number: ConnectionId, able: Capabilities, registered_ids: set[int] | None) -> str:
    """Say in words what the absence of an id means."""
    if able.global_kill and number.defect:
        return f"no session has this id: {number.defect}"
    if able.global_kill and registered_ids is not None and number.server_id not in registered_ids:
        return (
            f"no session has this id; no registered instance has its server id {number.server_id}"
            " (restarted, or cut off from PD)"
        )
    return "no session has this id"


def _against(statement: KillStatement, found: Sequence[Session], seen: Look, able: Capabilities) -> str | None:
    """Return why this KILL must not be sent, or None."""
    session = found[0]
    if len(found) > 1:
        where = ", ".join(one.instance for one in found)
        return f"{len(found)} sessions have this id (on {where}): it does not say which one is meant"
    if seen.here is None or seen.user is None:
        return "this connection did not find itself in the list, so it cannot tell its own sessions from others"
    if is_own(session.instance, session.id):
        return "it is a connection of tidb_magic itself"
    if not session.user:
        return "it is internal work of TiDB itself"
    if session.user != seen.user and not able.kill_others:
        return f"it is {session.user}'s session, and {seen.user} has neither CONNECTION_ADMIN nor SUPER"
    if statement.query and not session.runs:
        return "it runs no statement now (an older TiDB would end the session); KILL without QUERY ends the session"
    return None


def _merged(first: Look, second: Look) -> Look:
    sessions = {(session.instance, session.id): session for session in (*first.sessions, *second.sessions)}
    missing = tuple(dict.fromkeys((*first.missing, *second.missing)))
    return replace(second, sessions=tuple(sessions.values()), missing=missing)


def _send(connection: Connection, target: Target, timeout: float) -> Target:
    """Send the KILL. The target comes back without an outcome if the server took it."""
    try:
        answer = connection.query(target.statement.sql, deadline=timeout)
    except ServerError as error:
        return replace(target, outcome=Outcome.FAILED, reason=str(error))
    except (ConnectError, DeadlineError) as error:
        return replace(target, outcome=Outcome.UNCONFIRMED, reason=f"sent, it may still happen. {error}")
    if answer.warnings:
        return replace(target, outcome=Outcome.FAILED, reason="TiDB warned", warning=first_line(answer.warnings[0]))
    return replace(target, outcome=None, reason="")


def _verify(link: Link, target: Target, began: float, timeout: float) -> Target:
    """Look until the session is gone or its statement has changed, or until the timeout."""
    before = target.session
    if target.outcome is not None or before is None:
        return replace(target, seconds=time.monotonic() - began)
    pause, longest = _POLL
    while True:
        left = timeout - (time.monotonic() - began)
        unseen = ""
        try:
            connection = link.connection(within=max(left, _LEAST))
            now, unseen = _look_again(connection, before, max(left, _LEAST))
            if now is None and not unseen:  # COM_CHANGE_USER hides a session for a moment
                now, unseen = _look_again(connection, before, max(left, _LEAST))
        except (DeadlineError, ConnectError, ServerError) as error:
            unseen = str(error)
        spent = time.monotonic() - began
        if not unseen and (proof := _proof(target.statement, before, now, link.capabilities)):
            return replace(target, outcome=proof[0], reason=proof[1], seconds=spent)
        if spent >= timeout:
            break
        time.sleep(pause)
        pause = min(pause * 2, longest)
    if unseen:
        return replace(target, outcome=Outcome.UNCONFIRMED, reason=f"sent, it may still happen. {unseen}")
    what = "its statement" if target.statement.query else "the session"
    reason = f"sent and delivered, {what} did not end within {timeout:g} s"
    return replace(target, outcome=Outcome.STILL_RUNNING, reason=reason)


def _look_again(connection: Connection, before: Session, left: float) -> tuple[Session | None, str]:
    """Return the session as it is now, None if it is gone; and why that is not certain, if it is not."""
    seen = look(connection, [before.id], deadline=min(DEADLINE, left))
    now = next((one for one in seen.sessions if one.instance == before.instance), None)
    if now is None and seen.missing:
        return None, f"{', '.join(seen.missing)} did not answer."
    if now is None and (seen.here is None or not registered(connection, before.instance)):
        return None, f"{before.instance} is not registered any more, so nobody asked it."
    return now, ""


def _proof(
    statement: KillStatement, before: Session, now: Session | None, able: Capabilities
) -> tuple[Outcome, str] | None:
    """Return what a look shows to have happened, and what to say of it; None if nothing has yet."""
    if now is None and not statement.query:
        return Outcome.KILLED, ""
    if now is None and able.see_others:
        return Outcome.KILLED, "its whole session ended"
    if now is None:
        return Outcome.INTERRUPTED, "its session is not visible any more: it ended, or it changed its user"
    changed = not now.runs or now.user != before.user or now.info != before.info or now.time < before.time
    return (Outcome.INTERRUPTED, "") if statement.query and changed else None


def _interrupted(
    done: Sequence[Target], waiting: Sequence[KillStatement], error: KeyboardInterrupt, *, sending: bool
) -> str:
    said = [str(error)] if isinstance(error, Interrupted) else []
    if sending:
        said.append(f"{waiting[0].sql} was sent, what came of it was not seen: look with %tidb_ps.")
    said += [f"{target.id}: {target.outcome}." for target in done]
    if not_sent := [str(one.connection_id) for one in waiting[int(sending) :]]:
        said.append(f"Nothing was sent for {', '.join(not_sent)}.")
    return " ".join(said)
