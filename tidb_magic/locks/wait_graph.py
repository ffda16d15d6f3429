"""Who waits for whom, as trees: pure, any hashable names."""

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Branch(Generic[Name]):
    """One place in a forest.

    `above` is for whom it waits, None for a root; `depth` how many are above it. `also` are others for whom it waits
    too, who stand elsewhere. `blocked` is how many wait for it, directly or behind others; `frees` is how many of these
    wait for nobody else, so that they all go on when it goes. `circular` is a root that waits itself: in a circle.
    """

    name: Name
    above: Name | None
    depth: int
    also: tuple[Name, ...]
    blocked: int
    frees: int
    circular: bool = False


def grow(waits: Iterable[tuple[Name, Name]]) -> list[Branch[Name]]:
    """Return a forest in the order in which it is drawn, for pairs of who waits and for whom.

    Everyone stands in it once. Roots, who wait for nobody, come first with the most behind them; of a circle one
    becomes a root. A pair that is there twice counts once; who waits for himself, does not.

    >>> [(branch.name, branch.depth, branch.frees) for branch in grow([("b", "a"), ("c", "b"), ("d", "a")])]
    [('a', 0, 3), ('b', 1, 1), ('c', 2, 0), ('d', 1, 0)]
    """
    holders: dict[Name, dict[Name, None]] = {}
    waiters: dict[Name, dict[Name, None]] = {}
    for waiter, holder in waits:
        for name in (holder, waiter):
            holders.setdefault(name, {})
            waiters.setdefault(name, {})
        if waiter != holder:
            holders[waiter][holder] = None
            waiters[holder][waiter] = None
    blocked = {name: len(_waiters_of(name, waiters)) for name in holders}
    roots = [name for name, above in holders.items() if not above]
    grown: dict[Name, Branch[Name]] = {}
    for root in sorted(roots, key=lambda name: -blocked[name]):
        _climb(root, holders, waiters, blocked, grown)
    # Who is left is in a circle or behind one: who is in it has at least as many behind him as those behind it.
    for root in sorted((name for name in holders if name not in grown), key=lambda name: -blocked[name]):
        if root not in grown:
            _climb(root, holders, waiters, blocked, grown)
    return list(grown.values())


def _climb(
    root: Name,
    holders: Mapping[Name, Mapping[Name, None]],
    waiters: Mapping[Name, Mapping[Name, None]],
    blocked: Mapping[Name, int],
    grown: dict[Name, Branch[Name]],
) -> None:
    """Add a root and all behind it that do not stand elsewhere, each right below whom it waits for."""
    waiting: list[tuple[Name, Name | None, int]] = [(root, None, 0)]
    while waiting:
        name, above, depth = waiting.pop()
        if name in grown:
            continue
        also = tuple(one for one in holders[name] if one != above)
        frees = len(_freed(name, holders, waiters))
        grown[name] = Branch(name, above, depth, also, blocked[name], frees, circular=above is None and bool(also))
        waiting += [(one, name, depth + 1) for one in reversed(list(waiters[name]))]


def _waiters_of(name: Name, waiters: Mapping[Name, Mapping[Name, None]]) -> set[Name]:
    found: set[Name] = set()
    ahead = deque([name])
    while ahead:
        new = waiters[ahead.popleft()].keys() - found
        found |= new
        ahead.extend(new)
    return found - {name}


def _freed(
    name: Name, holders: Mapping[Name, Mapping[Name, None]], waiters: Mapping[Name, Mapping[Name, None]]
) -> set[Name]:
    """Return who goes on, one after the other, when `name` goes: who waits only for those who go."""
    gone, ahead = {name}, deque([name])
    left: dict[Name, int] = {}
    while ahead:
        for waiter in waiters[ahead.popleft()]:
            left[waiter] = left.get(waiter, len(holders[waiter])) - 1
            if not left[waiter] and waiter not in gone:
                gone.add(waiter)
                ahead.append(waiter)
    return gone - {name}
