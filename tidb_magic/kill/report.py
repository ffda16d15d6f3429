"""What became of a kill, and of all kills of this process, as DataFrames."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar

import pandas as pd

from tidb_magic.display.frame import TEXT, ShownFrame, Table, counted, typed
from tidb_magic.display.render import statement
from tidb_magic.kill.audit import KEPT, KILLS, PLANS
from tidb_magic.kill.model import Outcome, Target

COLUMNS = ["ID", "INSTANCE", "USER", "HOST", "ACTION", "OUTCOME", "REASON", "SECONDS", "STATEMENT", "WARNING", "INFO"]
_DTYPES: Mapping[str, Any] = MappingProxyType({"ID": "Int64", "SECONDS": "Float64"})
_SYMBOLS: Mapping[str, str] = MappingProxyType(
    {
        Outcome.KILLED: "✓",
        Outcome.INTERRUPTED: "✓",
        Outcome.ALREADY_GONE: "✓",
        Outcome.STILL_RUNNING: "…",
        Outcome.UNCONFIRMED: "?",
        Outcome.PLANNED: "○",
    }
)
_WIDTHS: Mapping[str, int] = MappingProxyType({"INFO": 40, "REASON": 300})


class KillReport(ShownFrame):
    """One row for each session that a kill was asked for.

    ID ``Int64``, missing for an ID from 2^63 on, which no session has;
    INSTANCE, USER, HOST and INFO as last seen, text as all others; ACTION ``QUERY`` or ``CONNECTION``; OUTCOME one of
    `Outcome`; REASON in words; SECONDS ``Float64`` from KILL to proof; STATEMENT as sent, or as it would be;
    WARNING the server's own words.

    Attributes
    ----------
    cluster : str
        Where it was, as ``user@host:port``.
    remarks : tuple of str
        Sentences on the whole: what was not looked at, why nothing was sent, how to carry out what is planned.
    waiters : DataFrame or None
        After a kill of root blockers, the sessions that waited for them: WAITER_ID ``Int64``, WAITER_INSTANCE,
        WAITED_FOR ``Int64``, LOCK; NOW (``no longer waiting``: it got the lock, gave up or ended; ``waiting for ID
        now``, ``still waiting``, ``not known`` where its instance did not answer); SECONDS ``Float64`` from the proof
        of the kill until that was seen.
    """

    cluster: str = ""
    remarks: tuple[str, ...] = ()
    waiters: pd.DataFrame | None = None

    _metadata: ClassVar[list[str]] = ["cluster", "remarks", "waiters"]
    _widths: ClassVar[Mapping[str, int]] = _WIDTHS

    def _table(self) -> Table:
        shown = ["ID", "INSTANCE", "USER", "ACTION", "OUTCOME", "SECONDS", "INFO", "REASON"]
        marked = self[shown].assign(OUTCOME=[marked_outcome(outcome) for outcome in self["OUTCOME"]])
        marked["INFO"] = pd.array([statement(None if pd.isna(one) else one) for one in self["INFO"]], dtype=TEXT)
        counts = Counter(self["OUTCOME"])
        total = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "No session matches"
        where = f" ({self.cluster})" if self.cluster else ""
        return shown, _cells(marked), [f"{total}{where}.", *self.remarks]


class History(ShownFrame):
    """What this process planned and killed, oldest first.

    The columns of KillReport, and before them TIME ``datetime64[us]`` in this machine's time zone; CLUSTER as
    ``user@host:port``; ASKED ``kill`` or ``plan``; WHY the reason that was given.
    """

    def _table(self) -> Table:
        shown = ["TIME", "CLUSTER", "ASKED", "ID", "INSTANCE", "USER", "ACTION", "OUTCOME", "WHY", "REASON"]
        frame = self[shown].assign(
            TIME=[f"{moment:%Y-%m-%d %H:%M:%S}" for moment in self["TIME"]],
            OUTCOME=[marked_outcome(outcome) for outcome in self["OUTCOME"]],
        )
        latest = f" The latest {KEPT:,} plans and {KEPT:,} kills are kept." if len(self) >= KEPT else ""
        return shown, _cells(frame), [f"{counted(len(self), 'row')}.{latest}"]

    _widths: ClassVar[Mapping[str, int]] = _WIDTHS


def marked_outcome(outcome: str) -> str:
    """Return an outcome with a symbol, which says without colour whether it is what was wanted.

    >>> marked_outcome("killed"), marked_outcome("refused")
    ('✓ killed', '✗ refused')
    """
    return f"{_SYMBOLS.get(outcome, '✗')} {outcome}"


def _cells(frame: pd.DataFrame) -> list[list[object]]:
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False)]


def _cell(value: Any) -> object:
    if pd.isna(value):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else value


def report(targets: Sequence[Target], remarks: Sequence[str] = (), cluster: str = "") -> KillReport:
    """Return the targets as a KillReport."""
    frame = KillReport(_columns([_row(target) for target in targets], COLUMNS))
    frame.remarks = tuple(remarks)
    frame.cluster = cluster
    return frame


def history() -> History:
    """Return what this process planned and killed, in any cluster."""
    entries = sorted((*PLANS, *KILLS), key=lambda entry: entry[0])
    moments = pd.to_datetime([moment for moment, *_ in entries], utc=True)
    rows = [(*said, *_row(target)) for _, *said, target in entries]
    times = {"TIME": moments.as_unit("us").tz_convert(datetime.now().astimezone().tzinfo)}
    return History(times | _columns(rows, ["CLUSTER", "ASKED", "WHY", *COLUMNS]))


def _row(target: Target) -> tuple[object, ...]:
    session, too_large = target.session, target.id >= 2**63
    return (
        None if too_large else int(target.id),
        target.instance,
        session.user if session else target.expected.user if target.expected else None,
        session.host if session else target.expected.host if target.expected else None,
        "QUERY" if target.statement.query else "CONNECTION",
        str(target.outcome),
        f"{int(target.id)}: {target.reason}" if too_large else target.reason,
        target.seconds,
        target.statement.sql,
        target.warning,
        session.info if session else target.expected.info if target.expected else None,
    )


def _columns(rows: Sequence[tuple[object, ...]], columns: Sequence[str]) -> dict[str, Any]:
    values = zip(*rows, strict=True) if rows else [() for _ in columns]
    return typed(dict(zip(columns, values, strict=True)), _DTYPES)
