"""The graph of waits as trees, for any hashable names. No I/O."""

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Branch(Generic[Name]):
    """One place in a forest.

    `above` is the node that it waits for, None for a root; `depth` is the number of nodes above it. `also` are others
    that it waits for, which are elsewhere in the forest. `blocked` counts the nodes that wait for it, directly or
    indirectly; `frees` counts those of them that wait for no other node. `circular` is a root that waits itself, in a
    circle.
    """

    name: Name
    above: Name | None
    depth: int
    also: tuple[Name, ...]
    blocked: int
    frees: int
    circular: bool = False


def grow(waits: Iterable[tuple[Name, Name]]) -> list[Branch[Name]]:
    """Return a forest in the order in which it is drawn, for pairs of waiter and holder.

    Each name is in it once. Roots, which do not wait, come first, those that block the most before the others; one
    node of a circle becomes a root. A repeated pair counts once; a pair of one name with itself does not count.

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
    # The remaining nodes are in a circle or below one: a node of the circle blocks at least as many as those below.
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
    """Add a root and the nodes below it that are not elsewhere, each below the one that it waits for."""
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
    """Return the nodes that can continue, one after the other, when `name` ends."""
    gone, ahead = {name}, deque([name])
    left: dict[Name, int] = {}
    while ahead:
        for waiter in waiters[ahead.popleft()]:
            left[waiter] = left.get(waiter, len(holders[waiter])) - 1
            if not left[waiter] and waiter not in gone:
                gone.add(waiter)
                ahead.append(waiter)
    return gone - {name}
