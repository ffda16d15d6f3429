"""A list of sessions as the table in the browser gets it: plain values, ids as text, nothing that has to be secret."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tidb_magic.processlist import SHOWN, ProcessList
from tidb_magic.sessions import runs

FIRST = 1_000  # rows that are sent at once; the others follow in parts, so that a long list is drawn as fast as a short
PART = 5_000
TEXT_SENT = 400  # characters of a statement; the whole is sent when somebody opens it
_GROUPS = 5  # bars, the largest ones
_OWN, _RUNS = 1, 2  # marks of a row
_REASONS = (
    "",
    "It is a connection of tidb_magic itself.",
    "It runs no statement.",
    "It is another user's session: that takes CONNECTION_ADMIN or SUPER.",
)


@dataclass(frozen=True)
class Rights:
    """Whose sessions may be ended: those of `user`, or all."""

    user: str
    others: bool


def snapshot(frame: ProcessList, rights: Rights, version: int, waiting: int | None) -> dict[str, Any]:
    """Return what the table shows of a list: what is to be said of the whole, and its first rows.

    ``taken`` is in milliseconds since the epoch. `waiting` is how many sessions wait for locks, None if not asked.
    """
    times = frame["TIME"].dropna() if "TIME" in frame.columns else ()
    header = {
        "instances": _groups(frame, "INSTANCE"),
        "users": _groups(frame, "USER"),
        "longest": int(max(times)) if len(times) else None,
        "waiting": waiting,
        "missing": list(frame.missing),
    }
    taken = frame.taken_at
    return {
        "version": version,
        "taken": None if taken is None else round(taken.timestamp() * 1000),
        "total": len(frame),
        "columns": [name for name in SHOWN if name in frame.columns],
        "reasons": list(_REASONS),
        "header": header,
        "footer": frame.footer(),
        "part": part(frame.iloc[:FIRST], frame, rights),
    }


def part(rows: ProcessList, frame: ProcessList, rights: Rights) -> dict[str, list[Any]]:
    """Return some rows of a frame by columns, and for each its marks and why it cannot be ended."""
    values = {name: values_of(rows, name) for name in SHOWN if name in rows.columns}
    nothing = [None] * len(rows)
    texts, users, commands = (values.get(name, nothing) for name in ("INFO", "USER", "COMMAND"))
    keys = zip(values["INSTANCE"], values["ID"], strict=True)
    marks, queries, connections = [], [], []
    for key, text, user, command in zip(keys, texts, users, commands, strict=True):
        own, busy = key in frame.own, "INFO" not in values or runs(command, text, user)
        against = 1 if own else 3 if not rights.others and user != rights.user and "USER" in values else 0
        marks.append(_OWN * own + _RUNS * busy)
        connections.append(against)
        queries.append(against or (0 if busy else 2))
    values["ID"] = [str(number) for number in values["ID"]]
    values["INFO"] = [text and text[:TEXT_SENT] for text in texts]
    lengths = [len(text or "") for text in texts]
    return values | {"marks": marks, "lengths": lengths, "no_query": queries, "no_connection": connections}


def values_of(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return a column as Python's own values, None where one is missing."""
    column = frame[name]
    return list(column.astype(object).where(column.notna(), None))


def _groups(frame: ProcessList, name: str) -> list[tuple[str, int]]:
    if name not in frame.columns:
        return []
    counts = frame[name].value_counts().head(_GROUPS)
    return [(str(value), int(number)) for value, number in counts.items()]
