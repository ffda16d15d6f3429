"""LockForest: which session blocks which, as text, HTML and DataFrames."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from tidb_magic.display.frame import counted, keys_of, typed
from tidb_magic.display.render import Seconds, html_table, lock, statement, text_table
from tidb_magic.locks.model import LockNode, Party, Unlisted, Wait
from tidb_magic.sessions.lookup import Session
from tidb_magic.sessions.processlist import ProcessList

HEADER = ["SESSION", "INSTANCE", "USER", "WAITS", "HOLDS", "BEHIND", "FREES", "TRANSACTION", "DOES"]
_WIDTHS = {"SESSION": 120, "HOLDS": 120, "DOES": 120}
_DTYPES = {
    **dict.fromkeys(("DEPTH", "BEHIND", "FREES", "KEYS", "BYTES", "WAITER_ID", "HOLDER_ID"), "Int64"),
    **dict.fromkeys(("WAITS", "AGE", "SECONDS"), "Float64"),
}
_DEADLOCKS = ["OCCUR_TIME", "INSTANCE", "TRANSACTIONS", "LOCKS"]
_DEADLOCKS_SHOWN = 5


class LockForest:
    """The lock waits in a TiDB cluster: the root blockers first, each with the sessions that wait for it.

    Attributes
    ----------
    frame : ProcessList
        The sessions in the order of the trees, each once, with the columns of a process list and these: DEPTH
        ``Int64``, 0 for a root; WAITS ``Float64``, seconds that it waits for a lock, where TiDB tells, else since its
        statement began; WAITS_FOR and HOLDS, tables with rows or index values; BEHIND ``Int64``, how many wait for it,
        directly or behind others; FREES ``Int64``, how many of these wait for no other session, so that they can go on
        when those before them have ended; AGE ``Float64``, seconds since its transaction began; KEYS and BYTES
        ``Int64``, what a kill rolls back (8.5.6 tells no bytes); TXN_STATE, which is STATE of CLUSTER_TIDB_TRX.
    waits : DataFrame
        Every single wait: WAITER and HOLDER, which can also name what is no session of the list; KIND (``lock``,
        ``metadata lock``, ``DDL queue``), LOCK, SECONDS ``Float64``; WAITER_INSTANCE, WAITER_ID ``Int64``,
        HOLDER_INSTANCE, HOLDER_ID ``Int64``.
    deadlocks : DataFrame
        The deadlocks that the instances remember, which TiDB resolved: there is nothing to kill. The columns of
        CLUSTER_DEADLOCKS, and LOCK in words; OCCUR_TIME is ``datetime64[ms, UTC]``.
    taken_at, complete, missing, remarks, see_others
        As in ProcessList. It is complete if every registered instance also listed its lock waits.
    heard : frozenset of str
        The instances that did.
    """

    heard: frozenset[str] = frozenset()

    def __init__(self, nodes: Sequence[LockNode], frame: ProcessList, deadlocks: pd.DataFrame) -> None:
        self.frame = _with_locks(frame, nodes)
        self.waits = _frame([wait for node in nodes for wait in node.waits])
        self.deadlocks = deadlocks
        self.taken_at, self.complete, self.missing = frame.taken_at, frame.complete, frame.missing
        self.remarks, self.see_others = frame.remarks, frame.see_others
        self._nodes = nodes

    def holds_up(self, instance: str | None, number: int) -> bool:
        """Tell whether a session waits for this one."""
        waits = self.waits
        return bool(((waits["HOLDER_INSTANCE"] == instance) & (waits["HOLDER_ID"] == number)).any())

    @property
    def roots(self) -> ProcessList:
        """The sessions to kill: others wait for them, and they do not wait."""
        roots = {node.branch.name for node in self._nodes if node.blocker}
        chosen = [key in roots for key in keys_of(self.frame)]
        return self.frame.loc[chosen]

    def __repr__(self) -> str:
        """Return the trees as text."""
        parts = [*self._footer(), *self._about_deadlocks()]
        if self._nodes:
            parts.insert(0, text_table(HEADER, self._rows(), [], widths=_WIDTHS))
        if len(self.deadlocks):
            parts.append(text_table(_DEADLOCKS, self._resolved(), []))
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        footer = [*self._footer(), *self._about_deadlocks()]
        trees = html_table(HEADER if self._nodes else [], self._rows(), footer)
        return trees + (html_table(_DEADLOCKS, self._resolved(), []) if len(self.deadlocks) else "")

    @property
    def summary(self) -> list[str]:
        """Sentences on the waits, on how they were read, and on the deadlocks, each in a line."""
        resolved = (": ".join((str(moment), str(where), str(what))) for moment, where, _, what in self._resolved())
        return [*self._footer(), *self._about_deadlocks(), *resolved]

    @property
    def tree(self) -> list[tuple[int, Party, bool, list[object]]]:
        """For each node its depth, its session, whether it is a session to kill, and its cells by HEADER."""
        return [
            (node.branch.depth, node.branch.name, node.blocker, row)
            for node, row in zip(self._nodes, self._rows(), strict=True)
        ]

    def _rows(self) -> list[list[object]]:
        trees = _trees([node.branch.depth for node in self._nodes])
        return [_row(tree, node) for tree, node in zip(trees, self._nodes, strict=True)]

    def _footer(self) -> list[str]:
        waiting = sum(node.waiting and node.session is not None for node in self._nodes)
        roots = sum(node.root and node.session is not None for node in self._nodes)
        behind = f" behind {counted(roots, 'root blocker')}" if roots else ""
        none = "No session waits" if self.complete else "No waiting session was found"
        said = f"{counted(waiting, 'session')} {'waits' if waiting == 1 else 'wait'}{behind}" if waiting else none
        lines = [self.frame.taken(said)]
        alone = [one.branch.name for one in self._nodes if one.root and one.session is None]
        if lasting := sum(isinstance(one, Unlisted) and one.lasting for one in alone):
            named = counted(lasting, "user-level lock")
            lines.append(
                f"{named} of sessions that TiDB does not name: IS_USED_LOCK returns the id only in the session itself."
                " It ends with RELEASE_LOCK, or with its session."
            )
        if lone := len(alone) - lasting:
            is_ = "is no session" if lone == 1 else "are no sessions"
            lines.append(f"{lone} more that sessions wait for {is_}: nothing to kill; such locks end within 20 s.")
        if len(self.roots):
            lines.append(
                "To kill the root blockers: assign this list to a variable, then %tidb_kill --from VARIABLE. After a"
                " KILL a row lock can stay for about 20 s; the report shows which sessions no longer wait."
            )
        if jobs := dict.fromkeys(wait.job for node in self._nodes for wait in node.waits if wait.job):
            lines.append(f"Or cancel the waiting DDL: ADMIN CANCEL DDL JOBS {', '.join(map(str, jobs))}.")
        if any(node.waiting and not node.waits for node in self._nodes) and self.complete:
            lines.append("Some blockers could not be identified. Run it again.")
        if any(node.branch.circular for node in self._nodes):
            lines.append("A circle is a deadlock, which TiDB resolves itself, or rows read at different moments.")
        return [*lines, *self.frame.how_it_was_read()]

    def _about_deadlocks(self) -> list[str]:
        number = self.deadlocks.groupby(["INSTANCE", "DEADLOCK_ID"]).ngroups
        shown = f" The last {_DEADLOCKS_SHOWN}:" if number > _DEADLOCKS_SHOWN else ""
        return (
            [f"{counted(number, 'deadlock')} remembered, which TiDB resolved: nothing to kill.{shown}"]
            if number
            else []
        )

    def _resolved(self) -> list[list[object]]:
        groups = list(self.deadlocks.groupby(["OCCUR_TIME", "INSTANCE", "DEADLOCK_ID"]))[-_DEADLOCKS_SHOWN:]
        return [
            [f"{moment:%Y-%m-%d %H:%M:%S} UTC", instance, len(rows), "; ".join(map(lock, rows["LOCK"]))]
            for (moment, instance, _), rows in reversed(groups)
        ]


def _trees(depths: Sequence[int]) -> list[str]:
    """Return what is drawn before each, for the depths in the order of the trees.

    >>> [tree.replace(chr(160), " ") for tree in _trees([0, 1, 2, 1, 0])]
    ['', '├─ ', '│  └─ ', '└─ ', '']
    """
    drawn, more = [], set[int]()  # more: the depths at which another one follows below
    for depth in reversed(depths):
        before = "".join("│  " if above in more else "   " for above in range(1, depth))
        drawn.append("" if depth == 0 else before + ("├─ " if depth in more else "└─ "))
        more = {above for above in more if above < depth} | {depth}
    return [tree.replace(" ", "\N{NO-BREAK SPACE}") for tree in reversed(drawn)]


def _row(tree: str, node: LockNode) -> list[object]:
    branch, session, transaction = node.branch, node.session, node.transaction
    waits = [lock(wait.what) for wait in node.waits[:1]]
    if node.seconds is not None:
        waits = [f"{Seconds(node.seconds)} for {wait}" for wait in waits]
    if node.waiting and not node.waits:
        waits = ["its blocker is not known"]
    others = branch.also if branch.above is not None else branch.also[1:]
    waits += [f"also for {_name(one)}" for one in others]
    changes = []
    if transaction is not None:
        changes = [str(Seconds(transaction.age)), transaction.changes]
    return [
        f"{tree}{_name(branch.name)}",
        session.instance if session else "",
        session.user if session else "",
        "; ".join(waits),
        node.holds,
        branch.blocked or "",
        branch.frees if branch.blocked else "",
        ", ".join(changes),
        _does(session) if session else getattr(branch.name, "why", ""),
    ]


def _name(party: Party) -> str:
    return party.text if isinstance(party, Unlisted) else str(party[1])


def _does(session: Session) -> str:
    return statement(session.info) if session.runs else f"idle for {Seconds(session.time)}"


def _with_locks(frame: ProcessList, nodes: Iterable[LockNode]) -> ProcessList:
    """Return the rows of the sessions in the forest, with the columns that LockForest adds."""
    at = {key: row for row, key in enumerate(keys_of(frame))}
    listed = [one for one in nodes if isinstance(one.branch.name, tuple) and one.branch.name in at]
    places = [at[one.branch.name] for one in listed]  # type: ignore[index]
    rows = frame.iloc[places].reset_index(drop=True)
    rows.matched, rows.hidden = len(rows), 0  # they are all of the forest
    transactions = [one.transaction for one in listed]
    columns: dict[str, list[Any]] = {
        "DEPTH": [one.branch.depth for one in listed],
        "WAITS": [one.seconds for one in listed],
        "WAITS_FOR": ["; ".join(wait.what for wait in one.waits) for one in listed],
        "HOLDS": ["; ".join(dict.fromkeys(wait.what for wait in one.held)) for one in listed],
        "BEHIND": [one.branch.blocked for one in listed],
        "FREES": [one.branch.frees for one in listed],
        "AGE": [one and one.age for one in transactions],
        "KEYS": [one and one.keys for one in transactions],
        "BYTES": [one and one.size for one in transactions],
        "TXN_STATE": [one and one.state for one in transactions],
    }
    for name, values in typed(columns, _DTYPES).items():
        rows[name] = values
    return rows


def _frame(waits: Sequence[Wait]) -> pd.DataFrame:
    ends = [(wait.waiter, wait.holder) for wait in waits]
    sessions = [tuple(one if isinstance(one, tuple) else (None, None) for one in pair) for pair in ends]
    columns: dict[str, list[Any]] = {
        "WAITER": [_name(waiter) for waiter, _ in ends],
        "HOLDER": [_name(holder) for _, holder in ends],
        "KIND": [wait.kind for wait in waits],
        "LOCK": [wait.what for wait in waits],
        "SECONDS": [wait.seconds for wait in waits],
        # No column is called ID: a kill of these rows would end the waiting sessions.
        "WAITER_INSTANCE": [waiter[0] for waiter, _ in sessions],
        "WAITER_ID": [waiter[1] for waiter, _ in sessions],
        "HOLDER_INSTANCE": [holder[0] for _, holder in sessions],
        "HOLDER_ID": [holder[1] for _, holder in sessions],
    }
    return pd.DataFrame(typed(columns, _DTYPES))
