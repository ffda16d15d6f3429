"""The sessions of this process, which are not listed as other people's and never killed."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from tidb_magic.connection.driver import addresses

if TYPE_CHECKING:
    from tidb_magic.connection.connection import Connection

HELD: "WeakSet[Connection]" = WeakSet()
HOLDING = threading.Lock()


@dataclass(frozen=True)
class Own:
    """What tells the connections of this process in a list, in whatever role, those being opened included.

    `ids`, with the instance where they are not `unique` in the cluster; `aliases`, which stay when a proxy moves a
    connection, and while the statement of a dropped one still runs; `opening`, of those whose id is not known yet, the
    own address, which servers list if no proxy is in between, and the address they lead to. The system uses a port
    again for a connection of another program that leads elsewhere, so that has to be an address that the instance has
    `advertised`.
    """

    sessions: frozenset[tuple[str | None, int]]
    ids: frozenset[int]
    aliases: frozenset[str]
    opening: frozenset[tuple[str, tuple[str, int]]]
    unique: bool
    advertised: Mapping[str, tuple[str | None, int | None]] = field(default_factory=dict)

    @classmethod
    def now(cls, *, unique: bool, advertised: Mapping[str, tuple[str | None, int | None]]) -> Self:
        """Return what holds at this moment."""
        with HOLDING:
            every = list(HELD)
        held = [one for one in every if one.open]
        sessions = frozenset((one.instance, int(one.id)) for one in held if one.id is not None)
        aliases = frozenset(one.alias for one in every)  # a statement can outlive its connection
        opening = frozenset(addresses(besides={one._driver for one in every}))  # noqa: SLF001
        return cls(sessions, frozenset(number for _, number in sessions), aliases, opening, unique, advertised)

    def has(self, instance: str, number: int, host: str, alias: str = "") -> bool:
        """Tell whether a listed session is one of them."""
        known = self.unique or not self.sessions.isdisjoint({(instance, number), (None, number)})
        if known and number in self.ids:
            return True
        return alias in self.aliases or any(
            host == here and self._leads_to(instance, *there) for here, there in self.opening
        )

    def _leads_to(self, instance: str, address: str, port: int) -> bool:
        """Tell whether a connection to that address can be one to an instance, as far as its own address is known."""
        host, advertised = self.advertised.get(instance, (None, None))
        if advertised not in (None, port):
            return False
        try:
            return host is None or ip_address(host) == ip_address(address)
        except ValueError:  # a name
            return True
