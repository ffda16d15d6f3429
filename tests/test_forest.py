"""Random forests: everyone once, no wait lost, circles end."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tidb_magic.forest import Branch, grow

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
        behind = {name}
        while more := {waiter for waiter, holder in pairs if holder in behind} - behind:
            behind |= more
        assert branch.behind == len(behind) - 1
        alone = {(waiter, holder) for waiter, holder in pairs if waiter != name}
        assert branch.frees == len(goes_on(alone, {name})) - 1
        assert branch.frees <= branch.behind


def test_a_chain_of_thousands_ends() -> None:
    waits = [(number + 1, number) for number in range(3_000)]
    forest = grow(waits)
    assert [branch.depth for branch in forest] == list(range(3_001))
    assert (forest[0].behind, forest[0].frees) == (3_000, 3_000)


def test_the_root_with_the_most_behind_it_comes_first_and_who_waits_for_two_stands_once() -> None:
    a, b, c, d, e = range(5)
    forest = drawn([(c, a), (c, b), (d, b), (e, d)])
    assert [*forest] == [b, c, d, e, a]
    assert (forest[c].above, forest[c].also) == (b, (a,))
    assert (forest[b].behind, forest[b].frees) == (3, 2)
    assert (forest[a].behind, forest[a].frees) == (1, 0)
