"""The nodes of a lock forest: sessions, and the locks that they hold or wait for."""

from dataclasses import dataclass

from tidb_magic.display.render import Seconds, lock
from tidb_magic.locks.wait_graph import Branch
from tidb_magic.sessions.lookup import Session, Transaction

LOCK, METADATA_LOCK, DDL_QUEUE = "lock", "metadata lock", "DDL queue"  # kinds of waits


@dataclass(frozen=True)
class Unlisted:
    """What holds or waits for a lock and is no session of the list, and why; a `lasting` lock has no time to live."""

    text: str
    why: str
    lasting: bool = False


Party = tuple[str, int] | Unlisted  # a session by INSTANCE and ID


@dataclass(frozen=True)
class Wait:
    """A lock wait: the waiter, the holder, the lock, and the seconds since it began, as far as they are known.

    DDL waits for a metadata lock or for other DDL, as whose `job` it is known to TiDB.
    """

    waiter: Party
    holder: Party
    kind: str
    what: str
    seconds: float | None = None
    job: int | None = None


@dataclass(frozen=True)
class OpenTransaction(Transaction):
    """The same with how old it is, and how long it waits for a lock, in seconds; `tables` by their ids."""

    age: float
    waits: float | None
    tables: frozenset[str]


@dataclass(frozen=True)
class LockNode:
    """One node of the forest: a session, the locks that it waits for, and the waits for its locks, longest first."""

    branch: Branch[Party]
    session: Session | None = None
    transaction: OpenTransaction | None = None
    waits: tuple[Wait, ...] = ()
    held: tuple[Wait, ...] = ()

    @property
    def waiting(self) -> bool:
        """Whether it waits itself, for a known or an unknown blocker."""
        return bool(self.waits) or not self.held

    @property
    def root(self) -> bool:
        """Whether others wait for it and it does not wait."""
        return bool(self.held) and not self.waits

    @property
    def blocker(self) -> bool:
        """Whether it is a session to kill: a root, other than DDL, which is cancelled."""
        return self.root and self.session is not None and any(wait.kind != DDL_QUEUE for wait in self.held)

    @property
    def seconds(self) -> float | None:
        """How long it waits, as far as that is known."""
        return max((wait.seconds for wait in self.waits if wait.seconds is not None), default=None)

    @property
    def holds(self) -> str:
        """What others wait for, and since when at least."""
        longest = {lock(wait.what): wait.seconds for wait in reversed(self.held)}  # the longest come first
        return "; ".join(
            what if seconds is None else f"{what} (≥ {Seconds(seconds)})" for what, seconds in longest.items()
        )
