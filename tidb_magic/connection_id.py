"""TiDB's connection ids: which instance an id belongs to, and whether it can be right."""

from collections.abc import Iterable, Sequence
from typing import Self, SupportsInt

from tidb_magic.errors import ConnectionIdError

# TiDB 7.3 and later, measured on 8.5.6:
#   32 bits: 31..21 server id | 20..1 local id | bit 0 = 0
#   64 bits: 63 = 0 | 62..41 server id | 40..1 local id | bit 0 = 1
_LOCAL_32, _LOCAL_64 = 20, 40
_EXACT = 2**53  # up to here a float holds every whole number


class ConnectionId(int):
    """A connection id as KILL takes it: a whole number from 0 to 2^64 - 1.

    The layout holds while global kill is on; with global kill off ids are 1, 2, 3 ... on each instance.

    Raises
    ------
    ConnectionIdError
        Not a whole number, or out of range. A float is refused: above 2^53 it has lost digits.

    Examples
    --------
    >>> ConnectionId(5857102839209263511).server_id  # 64 bits, TiDB's documentation
    2663502
    >>> ConnectionId(3149922310).server_id  # 32 bits, TiDB 8.5.6, measured
    1502
    >>> ConnectionId(1).defect
    'no 64-bit id is so small: it may be the low half of one'
    """

    __slots__ = ()

    def __new__(cls, value: SupportsInt | str) -> Self:
        """Check the value and make an id of it."""
        if isinstance(value, str):
            if not (value.isascii() and value.isdecimal()):
                raise ConnectionIdError(f"A connection id is a whole number, not {value[:40]!r}.")
            value = int(value.lstrip("0")[:21] or "0")  # with more digits it is out of range all the same
        elif isinstance(value, (bool, Iterable)) or not hasattr(value, "__index__"):
            kind = type(value).__name__
            lost = ": it may have lost digits" if "float" in kind else ""
            raise ConnectionIdError(f"A connection id is a whole number, not a {kind}{lost}.")
        number = super().__new__(cls, value)
        if not 0 <= number < 2**64:
            raise ConnectionIdError(f"A connection id is between 0 and 2^64 - 1, not {int(number)}.")
        return number

    @property
    def bits(self) -> int | None:
        """32 or 64, the layout of this id; None if it fits neither."""
        if self % 2 == 0:
            return 32 if self < 2**32 else None
        return 64 if 2**32 < self < 2**63 else None

    @property
    def server_id(self) -> int | None:
        """The instance's SERVER_ID in CLUSTER_INFO; None if the id fits no layout."""
        match self.bits:
            case 32:
                return int(self) >> (_LOCAL_32 + 1)
            case 64:
                return int(self) >> (_LOCAL_64 + 1)
        return None

    @property
    def defect(self) -> str | None:
        """Why no session of a cluster with global kill on can have this id; None if one can."""
        if self >= 2**63:
            return "ids end below 2^63"
        if self % 2 and self < 2**32:
            return "no 64-bit id is so small: it may be the low half of one"
        if self.bits is None:
            return "a 64-bit id is odd and a 32-bit id is below 2^32: this is neither"
        if self.server_id == 0:
            return "its server id is 0, which no instance has"
        return None

    @property
    def doubtful(self) -> bool:
        """Whether it may be what something made of another id: cut in half, or rounded by a float."""
        return self < 2**63 and (self.defect is not None or int(float(self)) == self >= _EXACT)

    def mistaken_for(self, listed: Iterable[int]) -> str | None:
        """Say which of the listed ids this one may have been, and what happened to it; None if that is not to see.

        >>> ConnectionId(5857102839209263104).mistaken_for([5857102839209263511, 3149922310])
        'a float has rounded it; listed is 5857102839209263511, which rounds to it'
        >>> ConnectionId(7).mistaken_for([5857102839209263511, 2**40 + 7])
        'it is the low half of 1099511627783, which is listed'
        """
        ids = [int(one) for one in listed if one != self]
        if self >= _EXACT and (rounded := [one for one in ids if int(float(one)) == self]):
            verb = "is" if len(rounded) == 1 else "are"
            return f"a float has rounded it; listed {verb} {_both(rounded)}, which round{'s' * (verb == 'is')} to it"
        if halves := [one for one in ids if one % 2**32 == self]:
            return f"it is the low half of {_both(halves)}, which {'is' if len(halves) == 1 else 'are'} listed"
        return None


def _both(ids: Sequence[int]) -> str:
    return " and ".join(map(str, ids))
