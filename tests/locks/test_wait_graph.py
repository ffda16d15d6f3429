"""Random forests: everyone once, no wait lost, circles end."""

from collections import Counter
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidb_magic.connection.row_reader import Result
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.locks.lock_waits import Waits
from tidb_magic.locks.reader import lock_nodes
from tidb_magic.locks.wait_graph import Branch, grow
from tidb_magic.sessions.processlist import to_frame

NAMES = st.integers(0, 12)
WAITS = st.lists(st.tuples(NAMES, NAMES), max_size=40)


def drawn(waits: list[tuple[int, int]]) -> dict[int, Branch[int]]:
    return {branch.name: branch for branch in grow(waits)}


def goes_on(waits: set[tuple[int, int]], gone: set[int]) -> set[int]:
    """Who waits for nobody that is left, step by step, by taking pairs away until nothing changes."""
    while True:
        left = {(waiter, holder) for waiter, holder in waits if holder not in gone}
        free = {waiter for waiter, holder in waits if holder in gone} - {waiter for waiter, _ in left} - gone
        if not free:
            return gone
        gone = gone | free


@given(WAITS)
def test_everyone_stands_in_the_forest_once(waits: list[tuple[int, int]]) -> None:
    counted = Counter(branch.name for branch in grow(waits))
    assert counted == Counter({name for pair in waits for name in pair})


@given(WAITS)
def test_no_wait_is_lost_and_none_is_made_up(waits: list[tuple[int, int]]) -> None:
    found = [
        (branch.name, holder)
        for branch in grow(waits)
        for holder in (*branch.also, *(() if branch.above is None else (branch.above,)))
    ]
    assert len(found) == len(set(found))
    assert set(found) == {(waiter, holder) for waiter, holder in waits if waiter != holder}


@given(WAITS)
def test_each_stands_below_whom_it_waits_for_and_roots_wait_for_nobody_unless_in_a_circle(
    waits: list[tuple[int, int]],
) -> None:
    path: list[int] = []
    for branch in grow(waits):
        del path[branch.depth :]
        assert branch.above == (path[-1] if path else None)
        path.append(branch.name)
        if branch.depth == 0:
            assert branch.circular == bool(branch.also)


@given(WAITS)
def test_a_root_that_is_circular_is_in_a_circle(waits: list[tuple[int, int]]) -> None:
    """Whoever only waits behind a circle is no root."""
    pairs = set(waits)
    for branch in grow(waits):
        if branch.circular:
            reached, ahead = set[int](), {branch.name}
            while ahead:
                reached |= ahead
                ahead = {holder for waiter, holder in pairs if waiter in ahead and waiter != holder} - reached
                if any(holder == branch.name for waiter, holder in pairs if waiter in reached and waiter != holder):
                    break
            else:
                raise AssertionError(f"{branch.name} is in no circle")


@given(WAITS)
def test_behind_and_frees_are_what_taking_it_away_shows(waits: list[tuple[int, int]]) -> None:
    pairs = {(waiter, holder) for waiter, holder in waits if waiter != holder}
    for name, branch in drawn(waits).items():
        blocked = {name}
        while more := {waiter for waiter, holder in pairs if holder in blocked} - blocked:
            blocked |= more
        assert branch.blocked == len(blocked) - 1
        alone = {(waiter, holder) for waiter, holder in pairs if waiter != name}
        assert branch.frees == len(goes_on(alone, {name})) - 1
        assert branch.frees <= branch.blocked


def test_a_chain_of_thousands_ends() -> None:
    waits = [(number + 1, number) for number in range(3_000)]
    forest = grow(waits)
    assert [branch.depth for branch in forest] == list(range(3_001))
    assert (forest[0].blocked, forest[0].frees) == (3_000, 3_000)


def test_the_root_with_the_most_behind_it_comes_first_and_who_waits_for_two_stands_once() -> None:
    a, b, c, d, e = range(5)
    forest = drawn([(c, a), (c, b), (d, b), (e, d)])
    assert [*forest] == [b, c, d, e, a]
    assert (forest[c].above, forest[c].also) == (b, (a,))
    assert (forest[b].blocked, forest[b].frees) == (3, 2)
    assert (forest[a].blocked, forest[a].frees) == (1, 0)


# -- from rows as TiDB gives them ------------------------------------------------------------------------------

SESSION = ("INSTANCE", "ID", "USER", "HOST", "DB", "COMMAND", "TIME", "STATE", "INFO", "TxnStart")
TRANSACTION = ("ID", "STATE", "MEM_BUFFER_KEYS", "MEM_BUFFER_BYTES", "RELATED_TABLE_IDS")
STATES = st.sampled_from(["LockWaiting", "Committing", "Idle", None])


def result(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Result:
    integers = {"ID", "TIME", "MEM_BUFFER_KEYS", "MEM_BUFFER_BYTES", "TRX_ID", "CURRENT_HOLDING_TRX_ID"}
    data = tuple(zip(*rows, strict=True)) if rows else tuple(() for _ in columns)
    return Result(columns, frozenset(integers & {*columns}), data)


@given(WAITS, st.lists(STATES, min_size=13, max_size=13), st.booleans())
def test_from_made_up_rows_every_session_stands_once_and_no_wait_of_one_who_waits_is_lost(
    waits: list[tuple[int, int]], states: list[str | None], complete: bool
) -> None:
    """A transaction without a state is in no list, as one that has ended; the ids are alike on all instances."""
    known = [number for number, state in enumerate(states) if state]
    sessions = [
        (f"a:{number % 3}", 2 * (number // 3), "ann", "b:1", None, "Query", 3, "", "UPDATE t", f"(100{number:02})")
        for number in known
    ]
    transactions = [(10_000 + number, states[number], 1, 0, "7", 3_000_000, 1_000_000) for number in known]
    listed = to_frame(result(SESSION, sessions))
    besides = [[result((*TRANSACTION, "tidb_magic_age", "tidb_magic_waits_since"), transactions)]]
    rows = [(10_000 + waiter, 10_000 + holder, None, "74") for waiter, holder in waits]
    asked = Waits(
        (result(("TRX_ID", "CURRENT_HOLDING_TRX_ID", "KEY_INFO", "KEY"), rows * 2),),
        None,
        complete,
        denied=False,
        remarks=(),
    )
    nodes = lock_nodes(listed, besides, asked, complete=complete)
    forest = LockForest(nodes, listed, pd.DataFrame(columns=["INSTANCE", "DEADLOCK_ID"]))

    def name(number: int) -> str:
        return f"a:{number % 3} {2 * (number // 3)}" if states[number] else f"transaction {10_000 + number}"

    pairs = zip(forest.waits.to_dict("records"), strict=True)
    found = [
        tuple(
            row[who] if pd.isna(row[f"{at}ID"]) else f"{row[f'{at}INSTANCE']} {row[f'{at}ID']}"
            for who, at in (("WAITER", "WAITER_"), ("HOLDER", "HOLDER_"))
        )
        for (row,) in pairs
    ]
    assert len(found) == len(set(found))
    assert set(found) == {(name(a), name(b)) for a, b in waits if a != b and states[a] != "Idle"}
    keys = list(zip(forest.frame["INSTANCE"], forest.frame["ID"], strict=True))
    assert len(keys) == len(set(keys))
    lone = {name(number) for number in known if states[number] == "LockWaiting"}
    stands = {f"{instance} {id_}" for instance, id_ in keys}
    assert stands >= lone | {one for pair in found for one in pair if not one.startswith("transaction")}
    assert {*zip(forest.roots["INSTANCE"], forest.roots["ID"], strict=True)} <= {*keys}
    assert repr(forest)
    assert forest._repr_html_()


@pytest.mark.parametrize(("ages", "holders"), [([60, 3], [0]), ([3, 3], [0, 1]), ([60, 50], [0, 1])])
def test_ddl_waits_for_older_transactions_and_where_none_is_older_for_all_that_use_the_table(
    ages: list[int], holders: list[int]
) -> None:
    """A statement runs for 10 s; whole seconds cannot tell transactions of about its age from older ones."""
    sessions = [(f"a:{at}", 2, "ann", "b:1", None, "Sleep", 3, "", None, f"(100{at})") for at in range(len(ages))]
    ddl = ("a:9", 2, "ann", "b:1", None, "Query", 10, "", "ALTER TABLE t ADD c INT", "")
    listed = to_frame(result(SESSION, [*sessions, ddl]))
    transactions = [(1000 + at, "Idle", 1, 0, "7", age * 1_000_000, None) for at, age in enumerate(ages)]
    besides = [[result((*TRANSACTION, "tidb_magic_age", "tidb_magic_waits_since"), transactions)]]
    columns = ("JOB_ID", "TABLE_IDS", "LOCKED_TABLE_IDS", "DB_NAME", "TABLE_NAME", "QUERY")
    jobs = result(columns, [(100, "7", "7", "test", "t", "ALTER TABLE t ADD c INT")])
    asked = Waits((), jobs, known=True, denied=False, remarks=())
    nodes = lock_nodes(listed, besides, asked, complete=True)
    found = [(wait.waiter, wait.holder) for node in nodes for wait in node.waits]
    assert sorted(found, key=str) == [(("a:9", 2), (f"a:{at}", 2)) for at in holders]


def test_ddl_that_other_ddl_waits_for_is_no_root_to_kill() -> None:
    """It runs, and it is cancelled, not killed."""
    statements = ["ALTER TABLE t ADD INDEX late (v)", "ALTER TABLE t ADD COLUMN w INT"]
    sessions = [(f"a:{at}", 2, "ann", "b:1", None, "Query", 9 - at, "", text, "") for at, text in enumerate(statements)]
    columns = ("JOB_ID", "TABLE_IDS", "LOCKED_TABLE_IDS", "DB_NAME", "TABLE_NAME", "QUERY")
    jobs = result(
        columns, [(100 + at, "7", None if at else "7", "test", "t", text) for at, text in enumerate(statements)]
    )
    transactions = [[result((*TRANSACTION, "tidb_magic_age", "tidb_magic_waits_since"), [])]]
    listed = to_frame(result(SESSION, sessions))
    nodes = lock_nodes(listed, transactions, Waits((), jobs, known=True, denied=False, remarks=()), complete=True)
    forest = LockForest(nodes, listed, pd.DataFrame(columns=["INSTANCE", "DEADLOCK_ID"]))
    assert [node.root for node in nodes] == [True, False]
    assert not len(forest.roots)
    assert "ADMIN CANCEL DDL JOBS 101." in repr(forest)
