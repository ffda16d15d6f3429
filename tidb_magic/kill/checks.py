"""The checks of a kill: whether a KILL may be sent, and whether an observation proves its effect. No I/O."""

import re
from dataclasses import dataclass, replace

from tidb_magic.cluster.topology import Capabilities, RouteKind
from tidb_magic.connection.own_sessions import Own
from tidb_magic.kill.model import ExpectedSession, Outcome, Target, changed, replaced, same_statement
from tidb_magic.sessions.lookup import Observation, Session

GONE = 0.4  # seconds between two looks that do not find a session, to call it gone
COMMITTING = "Committing"  # STATE of CLUSTER_TIDB_TRX
LOCKS_STAY = "its row locks can stay for about 20 s"  # 8.5.6, measured: until the time to live of the lock is over
NOT_VISIBLE = "none of your sessions has this id, and without PROCESS other users' sessions are not visible"
# What can precede the first word of a statement: blanks, semicolons, comments, the brackets of executable ones.
_LEADING = r"(?s:[\s;(]|/\*(?!T?!).*?\*/|/\*(?:T!(?:\[[\w,\s]*\])?|!\d*)|--(?=\s)[^\n]*\n|#[^\n]*\n)*+"
_DDL = re.compile(rf"{_LEADING}(?:ALTER|CREATE|DROP|TRUNCATE|RENAME|RECOVER|FLASHBACK)\b", re.IGNORECASE)
_IMPORT = re.compile(rf"{_LEADING}IMPORT\s+INTO\b", re.IGNORECASE)
# Functions that TiDB does not interrupt (8.5.6, measured): where, and when their statements end.
_NOT_INTERRUPTED = {
    "BENCHMARK": "BENCHMARK(): it ends by itself, or with its instance",
    "GET_LOCK": (
        "GET_LOCK(): it ends when the session that holds the lock calls RELEASE_LOCK() or is killed, or by its own"
        " timeout"
    ),
    "SLEEP": "SLEEP() for rows that no table stores: it ends by itself, or with its instance",
}
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_CRASHES_BEFORE = (8, 5, 5)  # KILL QUERY of an idle session with an open transaction: pingcap/tidb 65447, 63956


@dataclass(frozen=True)
class KillContext:
    """The route of a KILL, and the privileges that it would be sent with.

    `version` is TiDB's on the session's instance. `protected` are users that security-enhanced mode may protect, which
    TiDB checks on their own instance only.
    """

    kind: RouteKind
    able: Capabilities
    version: str | None
    own: Own
    force: bool = False
    protected: frozenset[str] = frozenset()


def check(target: Target, observation: Observation, context: KillContext) -> Target:
    """Return the target as `planned` if its KILL may be sent now, else why not; or undecided: observe again."""
    now = observation.sessions.get(target.id)
    if now is None:
        return _absent(target, observation, context)
    target = replace(target, session=now, received=observation.received, absent=None)
    if context.own.has(now.instance, now.id, now.host, now.alias):
        return target.ended(Outcome.REFUSED, "it is a connection of tidb_magic itself")
    if observation.user is None:
        reason = "this connection is missing from its own list, so your sessions cannot be distinguished from others"
        return target.ended(Outcome.REFUSED, reason)
    if target.expected is not None and (before := changed(target.expected, now)):
        return target.ended(Outcome.CHANGED, before)
    if not now.matches:
        return target.ended(Outcome.CHANGED, "it does not match the filters any more")
    if target.expected is not None and target.expected.runs:
        target = _timed(target, target.expected, now, observation)
        if target.outcome is not None or target.expected is None or not target.proven:
            return target
    if against := _refusal_reason(target, now, observation, context):
        return target.ended(Outcome.REFUSED, against)
    return target.ended(Outcome.PLANNED, _effect(target, now, context))


def _timed(target: Target, expected: ExpectedSession, now: Session, observation: Observation) -> Target:
    """Note whether a statement is the expected one, as far as this observation proves it."""
    if expected.requested is None:  # an old list: from now on it is watched by the clock
        return replace(target, expected=replace(expected, requested=observation.requested))
    same = same_statement(expected.requested, now, observation)
    if same is False:
        return target.ended(Outcome.CHANGED, "it began after the list was requested, with the same text: list again")
    return replace(target, proven=bool(same))


def unverified(target: Target) -> Target:
    """Return the target as `changed`: its statement may be a later one of the same text."""
    reason = "it may be a later statement with the same text: list again"
    return target.ended(Outcome.CHANGED, reason)


def _absent(target: Target, observation: Observation, context: KillContext) -> Target:
    if observation.missing:
        missing = f"{', '.join(observation.missing)} did not answer"
        return target.ended(Outcome.UNREACHABLE, f"its instance is not known: {missing}")
    if not context.able.see_others:
        return target.ended(Outcome.REFUSED, NOT_VISIBLE)
    target = _missed(target, observation)
    return target.ended(Outcome.ALREADY_GONE, "no session has this id") if _gone(target, observation) else target


def _missed(target: Target, observation: Observation) -> Target:
    return target if target.absent is not None else replace(target, absent=observation.requested)


def _gone(target: Target, observation: Observation) -> bool:
    """Tell whether a session is gone: COM_CHANGE_USER hides a living one for a moment."""
    return target.absent is not None and observation.requested - target.absent >= GONE


def _refusal_reason(target: Target, now: Session, observation: Observation, context: KillContext) -> str | None:
    """Return the reason why this KILL must not be sent, or None."""
    query = target.statement.query
    stranger = now.user != observation.user
    if stranger and not context.able.kill_others:
        whose = f"{now.user}'s session" if now.user else "internal work of TiDB itself"
        return f"it is {whose}, and {observation.user} has neither CONNECTION_ADMIN nor SUPER"
    if stranger and now.user in context.protected:
        return (
            f"security-enhanced mode may protect {now.user}: killing its sessions requires RESTRICTED_CONNECTION_ADMIN"
        )
    if query and not now.runs:
        return "it runs no statement now (an older TiDB would end the session): KILL without QUERY ends the session"
    if query and "in transaction" in now.state and _crashes(context.version):
        return f"KILL QUERY within a transaction can crash TiDB before 8.5.5 (it is {context.version}): end the session"
    if not context.force and (instead := alternative(now)):
        return _unless_forced(instead)
    return None


def _unless_forced(instead: str) -> str:
    return f"{instead}; --force sends the KILL anyway"


def _runs_ddl(job: int | None) -> str:
    how = "ADMIN SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS" if job is None else f"ADMIN CANCEL DDL JOBS {job}"
    return f"it runs DDL, whose job a KILL does not end: {how}"


def with_job(target: Target, job: int, state: str) -> Target:
    """Return a target that runs DDL with its job in the reason."""
    if target.reason == _unless_forced(_runs_ddl(None)):
        return replace(target, reason=_unless_forced(_runs_ddl(job)))
    if target.outcome is Outcome.REFUSED:
        return target
    return replace(target, reason="; ".join(filter(None, [target.reason, f"its DDL job {job} is {state}"])))


def alternative(session: Session) -> str | None:
    """Return a better way to end this session's work, or why it should be left alone; None for usual work."""
    if is_ddl(session):
        return _runs_ddl(None)
    if _starts(session, _IMPORT):
        return "it runs IMPORT INTO, whose job a KILL may leave behind: SHOW IMPORT JOBS, then CANCEL IMPORT JOB"
    if not session.user:
        return (
            "it is internal work of TiDB itself, as auto analyze is:"
            " SHOW ANALYZE STATUS, and SET GLOBAL tidb_enable_auto_analyze = OFF starts no more"
        )
    if session.transaction is not None and session.transaction.state == COMMITTING:
        return "its transaction is committing and may have committed (or waits for a lock in autocommit mode)"
    return None


def next_step(session: Session, *, query: bool) -> str:
    """Return why a delivered KILL may not have ended this session's work, and what to do then.

    TiDB 8.5.6, measured: it tests between two batches of rows, and when it writes to the client, whether it was killed.

    >>> now = Session("a:1", 2, "ann", "b:3", "Query", 7, "", "SELECT BENCHMARK(9, 1)", "")
    >>> next_step(now, query=True)
    'TiDB does not interrupt BENCHMARK(): it ends by itself, or with its instance'
    """
    if instead := alternative(session):
        return instead
    for function, what in _NOT_INTERRUPTED.items():
        if re.search(rf"\b{function}\s*\(", session.info or "", re.IGNORECASE):
            return f"TiDB does not interrupt {what}"
    if query:
        return f"if its client does not read the result, end the connection: %tidb_kill {session.id}"
    return f"TiDB ends it when the rows that it works on are done: %tidb_ps --idle --where 'ID = {session.id}' shows it"


def is_ddl(session: Session) -> bool:
    """Tell whether a session runs DDL."""
    return _starts(session, _DDL)


def _starts(session: Session, words: re.Pattern[str]) -> bool:
    """Tell whether a session's statement begins with these words.

    >>> session = Session("a:1", 2, "ann", "b:3", "Query", 7, "", "/* x */ /*!40101 Alter*/ table t ADD i INT", "")
    >>> _starts(session, _DDL), _starts(session, _IMPORT)
    (True, False)
    """
    return bool(session.runs and words.match(session.info or ""))


def _crashes(version: str | None) -> bool:
    numbers = _VERSION.match(version or "")
    return numbers is None or tuple(map(int, numbers.groups())) < _CRASHES_BEFORE


def _effect(target: Target, now: Session, context: KillContext) -> str:
    """Describe the route of a KILL and its effect."""
    route = (
        "by a connection to its instance" if context.kind is RouteKind.OWNER else f"TiDB forwards it to {now.instance}"
    )
    if target.statement.query:
        said = ["ends its statement; the session stays", *_kept_open(now), route]
    else:
        said = ["ends the session", *rolled_back(now), route]
    if context.force and (instead := alternative(now)):
        said.append(f"although {instead}")
    return "; ".join(said)


def _kept_open(session: Session) -> list[str]:
    """Return a note that KILL QUERY leaves the transaction open, if there is one with changes."""
    if session.transaction is None or not session.transaction.keys or "in transaction" not in session.state:
        return []
    return [f"its transaction of {session.transaction.changes} stays open: KILL QUERY cannot free its locks"]


def rolled_back(session: Session, *, ended: bool = False) -> list[str]:
    """Return notes on what ending a session does to its transaction, or did."""
    if session.transaction is None or not session.transaction.keys:
        return []
    if session.transaction.state == COMMITTING:
        is_ = "was" if ended else "is"
        return [f"its transaction {is_} committing: whether that succeeds is not known", LOCKS_STAY]
    return [f"{'rolled' if ended else 'rolls'} back {session.transaction.changes}", LOCKS_STAY]


def verify(target: Target, observation: Observation, able: Capabilities) -> Target:
    """Return the target with the outcome that an observation shows; without one if nothing has happened yet."""
    before, now = target.session, observation.sessions.get(target.id)
    if before is None or observation.missing or observation.user is None:
        return target
    if now is not None and target.statement.query and replaced(before, target.received, now, observation):
        return target.ended(Outcome.INTERRUPTED)
    if now is not None:
        return replace(target, absent=None)
    if not target.statement.query:
        return target.ended(Outcome.KILLED, "; ".join(rolled_back(before, ended=True)))
    target = _missed(target, observation)
    if not _gone(target, observation):
        return target
    if able.see_others:
        return target.ended(Outcome.KILLED, "its whole session ended")
    return target.ended(Outcome.INTERRUPTED, "its session is not visible any more: it ended, or it changed its user")
