"""Which sessions are meant: filters as a SQL condition with bound parameters; and times. Pure text, no I/O."""

import re
from dataclasses import dataclass, fields
from typing import TypedDict

from tidb_magic.connection.client_sessions import CLIENT_SESSIONS
from tidb_magic.connection.orphans import ORPHANS
from tidb_magic.errors import OptionError
from tidb_magic.queries import fragment

DAY = 86_400  # seconds
_SURROGATE = re.compile("[\ud800-\udfff]")


class FilterOptions(TypedDict, total=False):
    """The filters as keyword arguments, see `Filters`."""

    user: str | None
    host: str | None
    db: str | None
    instance: str | None
    command: str | None
    min_time: float | None
    match: str | None
    where: str | None
    mine: bool
    orphans: bool
    idle: bool


@dataclass(frozen=True)
class Filters:
    """What a session must be like. All that are given must hold; None is not given.

    `user`, `db`, `command` and `instance` (as the list shows it) are compared as they are, `host` without its port.
    `min_time` is seconds of TIME, at least; `match` is a regular expression (TiDB's RLIKE) found in the statement;
    `where` is a condition in SQL over the columns of INFORMATION_SCHEMA.CLUSTER_PROCESSLIST. `mine` are the sessions of
    this process's connections, `orphans` those that kernels left which were ended by force: both are known from
    ``%load_ext tidb_magic`` on.

    `idle` keeps the sessions that neither run something nor hold a transaction; so does a `command`, which names what
    is wanted.

    Raises
    ------
    OptionError
        A value is empty or no Unicode text, `min_time` is not a number of seconds, or `mine` or `orphans` is not known.

    Examples
    --------
    >>> Filters(user="app", min_time=60).condition
    'USER = %(user)s AND TIME >= %(min_time)s'
    >>> Filters(user="")
    Traceback (most recent call last):
    ...
    tidb_magic.errors.OptionError: user is empty: omit it, or give a value.
    """

    user: str | None = None
    host: str | None = None
    db: str | None = None
    instance: str | None = None
    command: str | None = None
    min_time: float | None = None
    match: str | None = None
    where: str | None = None
    mine: bool = False
    orphans: bool = False
    idle: bool = False

    def __post_init__(self) -> None:
        """Refuse what could only be a mistake: an empty filter would mean everybody."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not value.strip():
                raise OptionError(f"{field.name} is empty: omit it, or give a value.")
            if isinstance(value, str) and (half := _SURROGATE.search(value)):
                surrogate = "half of a character (a lone surrogate), which no statement can contain"
                raise OptionError(f"{field.name} contains {half[0]!r}, {surrogate}.")
            if field.name in _TEXTS and not isinstance(value, str | None):
                raise OptionError(f"{field.name} is text, not {value!r}.")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} is True or False, not {getattr(self, name)!r}.")
        for name in ("mine", "orphans"):
            if getattr(self, name) and not CLIENT_SESSIONS.followed:
                raise OptionError(f"{name}: the connections of kernels are known from %load_ext tidb_magic on.")
        number = isinstance(self.min_time, (int, float)) and not isinstance(self.min_time, bool)
        if self.min_time is not None and not (number and 0 <= self.min_time < float("inf")):
            raise OptionError(f"min_time is a number of seconds from 0 on, not {self.min_time!r}.")

    @property
    def everything(self) -> bool:
        """Whether idle sessions are meant too."""
        return self.idle or self.command is not None

    @property
    def condition(self) -> str:
        """The condition in SQL, without the one on idle sessions."""
        parts = [fragment(f"filter_{name}") for name in _CONDITIONS if getattr(self, name) is not None]
        parts += [fragment(f"filter_{name}") for name in ("mine", "orphans") if getattr(self, name)]
        if self.where is not None:
            # On lines of its own, for it can end in a comment; a % is not the driver's.
            parts.append(f"(\n{self.where.replace('%', '%%')}\n)")
        return " AND ".join(parts) or "TRUE"

    @property
    def selecting(self) -> str:
        """The whole condition in SQL."""
        return self.condition if self.everything else f"{self.condition} AND {fragment('active')}"

    @property
    def narrows(self) -> bool | None:
        """Whether they leave anybody out, as a kill needs; None if only the server can tell.

        >>> Filters(user="app").narrows, Filters(idle=True).narrows, Filters(match=".*").narrows
        (True, False, False)
        >>> Filters(where="1").narrows
        """
        if any(getattr(self, name) is not None for name in ("user", "host", "db", "instance", "command")):
            return True
        if self.mine or self.orphans or self.min_time or (self.match is not None and _leaves_out(self.match)):
            return True
        return False if self.where is None else None

    @property
    def parameters(self) -> dict[str, object]:
        """The values that are bound to the condition."""
        bound: dict[str, object] = {
            name: getattr(self, name) for name in _CONDITIONS if getattr(self, name) is not None
        }
        if self.host is not None:
            bound["host_and_port"] = rf"^{re.escape(self.host)}:[0-9]+$"
        if self.mine:
            bound["mine"] = tuple((one.id, one.host) for one in CLIENT_SESSIONS.all()) or ((0, ""),)
        if self.orphans:
            bound["orphans"] = tuple((one.id, one.host) for one in ORPHANS.left) or ((0, ""),)
        return bound


# Statements of no common shape: a pattern that finds itself in each of them is found in every statement.
_ANYTHING = ("a", "7", "-", "\u00e9")


def _leaves_out(pattern: str) -> bool:
    try:
        return not all(re.search(pattern, text) for text in _ANYTHING)
    except re.error:  # the server decides whether it is one
        return True


_FLAGS = ("mine", "orphans", "idle")
_CONDITIONS = tuple(name for name in FilterOptions.__annotations__ if name not in {"where", *_FLAGS})
_TEXTS = FilterOptions.__annotations__.keys() - {"min_time", *_FLAGS}


def seconds(value: object, name: str) -> float:
    """Check a number of seconds, above 0 and up to a day.

    Raises
    ------
    OptionError
        It is none; the message names the option.

    Examples
    --------
    >>> seconds(2, "timeout")
    2.0
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= DAY:
        return float(value)
    raise OptionError(f"{name} is a number of seconds above 0 and up to {DAY} (a day), not {value!r}.")
