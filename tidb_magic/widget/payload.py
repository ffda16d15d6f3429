"""A list of sessions as the table in the browser gets it: plain values, ids as text, nothing that has to be secret."""

from collections.abc import Callable
from typing import Any

from tidb_magic.display.frame import keys_of, values_of
from tidb_magic.display.render import statement
from tidb_magic.locks.lock_forest import HEADER, LockForest
from tidb_magic.sessions.lookup import Rights, runs
from tidb_magic.sessions.processlist import SHOWN, ProcessList

FIRST = 200  # rows that are sent at once; the others follow in parts, so that a long list is drawn as fast as a short
PART = 5_000
TEXT_SENT = 400  # characters of a statement; the whole is sent when it is opened
_GROUPS = 5  # bars, the largest ones
Part = dict[str, list[Any]]  # rows by columns
_OWN, _RUNS = 1, 2  # marks of a row
_TREE = ("DEPTH", "SESSION", "WAITS", "HOLDS", "BEHIND", "FREES", "TRANSACTION")
_NOTHING: dict[str, Any] = {"marks": 0, "cut": 0}  # of rows that are no sessions
_REASONS = (
    "",
    "It is a connection of tidb_magic itself.",
    "It runs no statement.",
    "It is another user's session: killing it requires CONNECTION_ADMIN or SUPER.",
    "It waits itself: kill the root of its tree.",
    "It is not a session.",
)
_OURS, _IDLE, _STRANGER, _WAITS, _NOBODY = range(1, 6)  # places in it


def snapshot(frame: ProcessList, rights: Rights, version: int, first: int | None = FIRST) -> dict[str, Any]:
    """Return what the table shows of a list: its header and footer, and its first rows, all of them without `first`.

    ``taken`` is in milliseconds since the epoch.
    """
    times = frame["TIME"].dropna() if "TIME" in frame.columns else ()
    header = {
        "facts": _cluster(frame),
        "instances": _groups(frame, "INSTANCE"),
        "users": _groups(frame, "USER"),
        "longest": int(max(times)) if len(times) else None,
        "missing": list(frame.missing),
    }
    return {
        "version": version,
        "taken": _milliseconds(frame),
        "total": len(frame),
        "columns": [name for name in SHOWN if name in frame.columns],
        "reasons": list(_REASONS),
        "header": header,
        "footer": frame.footer(),
        "part": part(frame.iloc[:first], frame, rights),
    }


def tree(forest: LockForest, rights: Rights, version: int, _first: int | None = None) -> dict[str, Any]:
    """Return what the table shows of a lock forest: the rows in the order of the trees, with buttons at the roots."""
    frame, places = forest.frame, forest.tree
    known = part(frame, frame, rights)
    at = {key: row for row, key in enumerate(keys_of(frame))}
    rows: dict[str, list[Any]] = {name: [] for name in (*_TREE, *known)}
    for depth, name, blocker, cells in places:
        row = at.get(name) if isinstance(name, tuple) else None
        rows["DEPTH"].append(depth)
        for column, cell in zip(HEADER, cells, strict=True):
            if column in _TREE:
                rows[column].append(str(cell))
        for column, values in known.items():
            rows[column].append(values[row] if row is not None else _NOTHING.get(column))
        if row is None:
            rows["ID"][-1], rows["INSTANCE"][-1] = str(cells[0]).strip("\N{NO-BREAK SPACE}├└─│"), ""
            rows["INFO"][-1] = str(cells[-1])
        if row is None or not blocker:
            rows["no_connection"][-1] = rows["no_query"][-1] = _NOBODY if row is None else _WAITS
    roots = sum(blocker for _, _, blocker, _ in places)
    return {
        "version": version,
        "taken": _milliseconds(frame),
        "total": len(places),
        "columns": ["ID", "INSTANCE", "USER", "WAITS", "HOLDS", "BEHIND", "FREES", "TRANSACTION", "INFO"],
        "reasons": list(_REASONS),
        "header": {
            "facts": [*_cluster(frame), ["waits", str(len(forest.waits))], ["sessions to end", str(roots)]],
            "missing": list(forest.missing),
        },
        "footer": forest.summary,
        "part": rows,
    }


def part(rows: ProcessList, frame: ProcessList, rights: Rights) -> Part:
    """Return some rows of a frame by columns, and for each its marks and why it cannot be ended."""
    values = {name: values_of(rows, name) for name in SHOWN if name in rows.columns}
    nothing = [None] * len(rows)
    texts, users, commands = (values.get(name, nothing) for name in ("INFO", "USER", "COMMAND"))
    keys = zip(values["INSTANCE"], values["ID"], strict=True)
    marks, queries, connections = [], [], []
    for key, text, user, command in zip(keys, texts, users, commands, strict=True):
        own, busy = key in frame.own, "INFO" not in values or runs(command, text, user)
        against = _OURS if own else _STRANGER if not rights.others and user != rights.user and "USER" in values else 0
        marks.append(_OWN * own + _RUNS * busy)
        connections.append(against)
        queries.append(against or (0 if busy else _IDLE))
    values["ID"] = [str(number) for number in values["ID"]]
    texts = [text and statement(text) for text in texts]
    values["INFO"] = [text and text[:TEXT_SENT] for text in texts]
    cut = [len(text) if text and len(text) > TEXT_SENT else 0 for text in texts]  # how long it is
    return values | {"marks": marks, "cut": cut, "no_query": queries, "no_connection": connections}


class Sent:
    """What the browser has got: a snapshot. Of a later list it gets what differs from that, if that is little."""

    def __init__(self) -> None:
        self._first: Callable[[int | None], dict[str, Any]] | None = None  # makes the snapshot
        self._whole: dict[str, Any] = {}  # the snapshot with all of its rows, once they were needed

    def state(self, payload: Callable[[int | None], dict[str, Any]]) -> dict[str, Any]:
        """Return the traits to set for another list: `payload` makes it, with the first rows or with all of them."""
        if self._first is None:
            self._first = payload
            return {"snapshot": payload(FIRST)}
        before, now = self._whole or self._first(None), payload(None)
        if differs := _changes(before["part"], now["part"]):
            self._whole = before
            return {
                "changes": {name: now[name] for name in now.keys() - {"part"}} | differs | {"base": before["version"]}
            }
        self._whole = now
        return {"snapshot": now | {"part": {name: values[:FIRST] for name, values in now["part"].items()}}}


def _changes(before: Part, now: Part) -> dict[str, Any] | None:
    """Return the rows of `now` by those of `before`; None if most values differ.

    ``rows`` has the place of each row in `before`, -1 for a new one; ``values`` those that differ, by column:
    their places in `now`, and the values.
    """
    places = {key: row for row, key in enumerate(zip(before["INSTANCE"], before["ID"], strict=True))}
    rows = [places.get(key, -1) for key in zip(now["INSTANCE"], now["ID"], strict=True)]
    new, count = {}, 0
    for name, values in now.items():
        old = before[name]
        different = [
            at for at, (row, value) in enumerate(zip(rows, values, strict=True)) if row < 0 or old[row] != value
        ]
        count += len(different)
        if different:
            new[name] = [different, [values[at] for at in different]]
    few = 2 * count <= len(rows) * len(now)
    return {"rows": rows, "values": new} if few and rows else None


def _cluster(frame: ProcessList) -> list[list[str]]:
    """Return which cluster it is, where that is known: there can be tables of several in a notebook."""
    return [["cluster", frame.origin.address]] if frame.origin is not None else []


def _milliseconds(frame: ProcessList) -> int | None:
    return None if frame.taken_at is None else round(frame.taken_at.timestamp() * 1000)


def _groups(frame: ProcessList, name: str) -> list[tuple[str, int]]:
    if name not in frame.columns:
        return []
    counts = frame[name].value_counts().head(_GROUPS)
    return [(str(value), int(number)) for value, number in counts.items()]
