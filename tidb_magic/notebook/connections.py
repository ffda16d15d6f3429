"""What ``%tidb_connect`` keeps open: clusters by their aliases, one of them the current one."""

import re
from collections.abc import Callable, Mapping

from tidb_magic.api import Cluster, connect
from tidb_magic.connection.deadline import WATCHDOG
from tidb_magic.connection.settings import masked, parse_url
from tidb_magic.errors import NotConnectedError, OptionError, SettingsError, TidbMagicError
from tidb_magic.notebook.arguments import PLACES
from tidb_magic.sessions.summaries import ConnectionList

_LIKE_A_HOST = re.compile(r"[\w.-]+:\d+|\w+@[\w.-]+(:\d+)?|[\w-]+(\.[\w-]+){2,}")
Variable = Callable[[str], object]


class Connected:
    """Clusters by alias; the one without an alias has the empty one."""

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}
        self._current: Cluster | None = None

    @property
    def current(self) -> Cluster | None:
        """The cluster that the magics use, unless it was closed."""
        self.clusters = {name: one for name, one in self.clusters.items() if not one.closed}
        return self._current if self._current in self.clusters.values() else None

    def connect(
        self, word: str | None, variable: Variable, given: Mapping[str, str], alias: str | None, direct: str
    ) -> Cluster:
        """Make a connection the current one: the one of that alias, or a new one to what `word` and `given` say.

        `variable` gives the value of the variable that `word` may be, and raises KeyError if there is none; `given` are
        options of `api.connect`.

        Raises
        ------
        OptionError, and what `api.connect` raises
            What was connected still is.
        """
        current = self.current
        if word in self.clusters:
            if given:
                raise OptionError(f"{word} is already connected: --close it first, or give the URL and --alias {word}.")
            return self._switch(word, alias)
        if not given and word is None and self.clusters:
            if current is None:
                raise NotConnectedError(f"None of {self._aliases()} is current now: %tidb_connect ALIAS.")
            return self._switch(self.name(current), alias)
        problem = None
        try:
            cluster = connect(self._target(word, variable), direct=direct, **given)
        except TidbMagicError as error:
            problem = error.with_traceback(None)  # whose frames can hold it, too
        del word  # it can hold a password, which no traceback may show
        if problem is not None:
            if current is not None:
                problem.args = (f"{problem} Still connected to {current.address}.", *problem.args[1:])
            raise problem
        if before := self.clusters.pop(alias or "", None):
            before.close()
        self._current = self.clusters[alias or ""] = cluster
        return cluster

    def _target(self, word: str | None, variable: Variable) -> object:
        if word is None or word in PLACES or "://" in word:
            return word
        try:
            value = variable(word)
        except KeyError:
            there = f"there are: {self._aliases()}" if self.clusters else "there is none"
            meant = f" Did you mean mysql://{word}?" if _LIKE_A_HOST.fullmatch(word) else ""
            raise SettingsError(
                f"{masked(word)!r} is not a URL (mysql://user@host:4000), a variable or an alias ({there})."
                f"{meant} %tidb_connect? lists all sources."
            ) from None
        if value is None:
            raise SettingsError(f"The variable {word} holds None, nothing to connect to.")
        if not isinstance(value, str):
            return value
        if "://" not in value:
            raise SettingsError(f"The variable {word} holds a text that is not a URL (mysql://user@host:4000).")
        return parse_url(value, f"the variable {word}")  # Settings: what a program made is no typed password

    def _switch(self, name: str, alias: str | None) -> Cluster:
        if alias is not None and alias != name:
            if alias in self.clusters:
                raise OptionError(
                    f"{alias} is another connection, to {self.clusters[alias].address}: --close it first."
                )
            self.clusters[alias] = self.clusters.pop(name)
        self._current = self.clusters[name if alias is None else alias]
        return self._current

    def _aliases(self) -> str:
        return ", ".join(name or "(no alias)" for name in self.clusters)

    def name(self, cluster: Cluster) -> str:
        """Return the alias of a cluster."""
        return next(name for name, one in self.clusters.items() if one is cluster)

    def close(self, name: str) -> Cluster:
        """Close one. If it was the current one, none is: another cluster must not take its place unnoticed.

        Raises
        ------
        SettingsError
            There is none of that name.
        """
        if name not in self.clusters:
            raise SettingsError(f"No connection is called {name!r}: %tidb_connect --list shows them.")
        closed = self.clusters.pop(name)
        closed.close()
        return closed

    def close_all(self) -> None:
        """Close them all, and end the thread of the deadlines."""
        for name in list(self.clusters):
            self.close(name)
        WATCHDOG.rest()

    def table(self) -> ConnectionList:
        """Return what is connected."""
        current = self.current
        rows = ({"ALIAS": name, "CURRENT": one is current, **one.state} for name, one in self.clusters.items())
        return ConnectionList.of(rows)
