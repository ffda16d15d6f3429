"""Connections that are being opened: how far each got, and which of several attempts succeeds first."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from tidb_magic.cluster.topology import INTRODUCTION
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import LEAST, Deadline
from tidb_magic.connection.driver import Driver, wake
from tidb_magic.connection.settings import Settings
from tidb_magic.errors import AuthenticationError, ConnectError, ConnectTimeoutError, TidbMagicError

_HEDGE = 0.2  # seconds after which another attempt is made beside those under way


class Openings:
    """The connections of a pool that are being opened, by the instance that they are known to lead to.

    `refusal` is the message of the last login if it was refused: some accounts are locked after a few.
    """

    def __init__(self) -> None:
        self.refusal = ""
        self._drivers: dict[Driver, str] = {}

    def open(
        self,
        settings: Settings,
        within: float,
        wanted: str = "",
        then: Callable[[Connection, float], object] | None = None,
    ) -> Connection:
        """Open a connection; `wanted` is the instance that is known to be there, `then` what belongs to opening it."""
        due, opened = Deadline(within), list[Driver]()

        def opening(driver: Driver) -> None:
            self._drivers[driver] = wanted
            opened.append(driver)

        try:
            connection = Connection(settings, within=max(within, LEAST), opening=opening, introduction=INTRODUCTION)
            try:
                if then is not None:
                    then(connection, due.left)
            except BaseException:
                connection.close()
                raise
        except AuthenticationError as error:
            self.refusal = str(error)
            raise
        finally:
            for driver in opened:
                self._drivers.pop(driver, None)
        self.refusal = ""
        return connection

    def greeted(self, name: str) -> bool:
        """Tell whether an instance has greeted a connection that is being opened: it is not frozen then."""
        return any(driver.greeted for driver in self._to(name))

    def stage(self, name: str) -> str:
        """Return how far a connection to an instance got that is still being opened; nothing if there is none."""
        return next((driver.stage for driver in self._to(name)), "")

    def first(  # noqa: PLR0913 (the attempts, and what they are for)
        self,
        attempts: Sequence[Callable[[float], Connection]],
        name: str,
        within: float,
        *,
        start: Callable[..., None],
        kept: Callable[[str], Connection | None],
        address: str,
        why: str = "",
    ) -> Connection:
        """Return the connection of the first attempt that leads to an instance.

        An attempt is made when one has failed, and beside those that take long; none is cut short. `start` starts a
        thread, `kept` returns a connection that another thread opened meanwhile, `why` is the reason that an error
        gives first.

        Raises
        ------
        AuthenticationError, ConnectTimeoutError, ConnectError
        """
        due, ended = Deadline(within), SimpleQueue[Connection | TidbMagicError]()

        def run(attempt: Callable[[float], Connection]) -> None:
            try:
                ended.put(attempt(due.left))
            except TidbMagicError as error:
                ended.put(error)

        untried, under_way = list(attempts), 0
        while untried or under_way:
            if untried:
                start(run, untried.pop(0))
                under_way += 1
            found = None
            with suppress(Empty):
                found = ended.get(timeout=min(due.left, _HEDGE))
                under_way -= 1
            if isinstance(found, Connection):
                return found
            if isinstance(found, AuthenticationError):
                raise found  # each login counts, and some accounts are locked after a few
            if opened := kept(name):
                return opened
            if found is not None:
                why = why or str(found)
            elif due.passed:
                raise self._late(name, address, why, within)
        raise ConnectError(f"{why} {address} did not lead to that instance in {len(attempts)} attempts.")

    def _late(self, name: str, address: str, why: str, within: float) -> ConnectTimeoutError:
        stage = self.stage(name)
        why = why or (f"It {stage}." if stage else "")
        error = ConnectTimeoutError(f"{why} {address} did not lead to that instance within {within:.3g} s.".strip())
        error.stage, error.accepted = stage, any(driver.accepted for driver in self._to(name))
        return error

    def wake(self) -> None:
        """End them all under the threads that wait for them."""
        for driver in list(self._drivers):
            wake(driver)

    def _to(self, name: str) -> list[Driver]:
        return [driver for driver, wanted in list(self._drivers.items()) if wanted == name]
