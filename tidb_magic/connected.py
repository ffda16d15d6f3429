"""What ``%tidb_connect`` keeps open: clusters by their aliases, one of them the current one."""

from collections.abc import Callable, Mapping

from tidb_magic.api import Cluster, connect
from tidb_magic.deadlines import WATCHDOG
from tidb_magic.errors import SettingsError, TidbMagicError
from tidb_magic.lines import PLACES
from tidb_magic.settings import parse_url
from tidb_magic.views import ConnectionList

Variable = Callable[[str], object]


class Connected:
    """Clusters by alias; the one without an alias has the empty one. `current` is None if there is none."""

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}
        self.current: Cluster | None = None

    def connect(
        self, word: str | None, variable: Variable, given: Mapping[str, str], alias: str | None, direct: str
    ) -> Cluster:
        """Make a connection the current one: the one of that alias, or a new one to what `word` and `given` say.

        `variable` gives the value of the variable that `word` may be, and raises KeyError if there is none; `given` are
        options of `api.connect`.

        Raises
        ------
        What `api.connect` raises
            What was connected still is.
        """
        if not given and word in self.clusters:
            return self._switch(word, alias)
        if not given and word is None and self.current is not None:
            return self._switch(self.name(self.current), alias)
        problem = None
        try:
            cluster = connect(self._target(word, variable), direct=direct, **given)
        except TidbMagicError as error:
            problem = error.with_traceback(None)  # whose frames can hold it, too
        del word  # it can hold a password, which no traceback may show
        if problem is not None:
            if self.current is not None:
                problem.args = (f"{problem} Still connected to {self.current.address}.", *problem.args[1:])
            raise problem
        if before := self.clusters.pop(alias or "", None):
            before.close()
        self.current = self.clusters[alias or ""] = cluster
        return cluster

    def _target(self, word: str | None, variable: Variable) -> object:
        if word is None or word in PLACES or "://" in word:
            return word
        try:
            value = variable(word)
        except KeyError:
            aliases = ", ".join(name for name in self.clusters if name)
            there = f"there are: {aliases}" if aliases else "there is none"
            raise SettingsError(
                f"{word!r} is no URL (mysql://user@host:4000), no variable, and no alias ({there})."
                " %tidb_connect? tells what it can be."
            ) from None
        if not isinstance(value, str):
            return value
        if "://" not in value:
            raise SettingsError(f"The variable {word} holds a text that is no URL (mysql://user@host:4000).")
        return parse_url(value, f"the variable {word}")  # Settings: what a program made is no typed password

    def _switch(self, name: str, alias: str | None) -> Cluster:
        self.current = self.clusters[name]
        if alias is not None and alias != name:
            if before := self.clusters.pop(alias, None):
                before.close()
            self.clusters[alias] = self.clusters.pop(name)
        return self.current

    def name(self, cluster: Cluster) -> str:
        """Return the alias of a cluster."""
        return next(name for name, one in self.clusters.items() if one is cluster)

    def close(self, name: str) -> Cluster:
        """Close one; the one that was opened last before it is the current one then.

        Raises
        ------
        SettingsError
            There is none of that name.
        """
        if name not in self.clusters:
            raise SettingsError(f"No connection is called {name!r}: %tidb_connect --list shows them.")
        closed = self.clusters.pop(name)
        closed.close()
        if closed is self.current:
            self.current = next(reversed(self.clusters.values()), None)
        return closed

    def close_all(self) -> None:
        """Close them all, and end the thread of the deadlines."""
        for name in list(self.clusters):
            self.close(name)
        WATCHDOG.rest()

    def table(self) -> ConnectionList:
        """Return what is connected."""
        rows = ({"ALIAS": name, "CURRENT": one is self.current, **one.state} for name, one in self.clusters.items())
        return ConnectionList.of(rows)
