"""See what runs anywhere in a TiDB cluster, and stop exactly one thing, for certain.

In a notebook: ``%load_ext tidb_magic``, ``%tidb_connect URL``, ``%tidb_ps``, ``%tidb_kill QUERY ID``.
In Python: ``cluster = tidb_magic.connect(URL)``, ``cluster.processlist()``, ``cluster.kill([ID], query=True)``.

Importing and loading it connect to nothing and import no pandas, driver or widgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from tidb_magic.api import Cluster, PasswordInUrlWarning, connect
    from tidb_magic.connection_id import ConnectionId
    from tidb_magic.errors import TidbMagicError, TimeLimitError
    from tidb_magic.kill.model import Outcome
    from tidb_magic.kill.parser import KillStatement, parse_kill
    from tidb_magic.kill.report import History, KillReport
    from tidb_magic.locks.lock_forest import LockForest
    from tidb_magic.sessions.processlist import ProcessList
    from tidb_magic.sessions.summaries import InstanceList, SessionCounts
    from tidb_magic.stop.interrupts import stop_on_interrupt

__version__ = "0.1.0"

_HOME = {
    "Cluster": "api",
    "ConnectionId": "connection_id",
    "History": "kill.report",
    "InstanceList": "sessions.summaries",
    "KillReport": "kill.report",
    "KillStatement": "kill.parser",
    "LockForest": "locks.lock_forest",
    "Outcome": "kill.model",
    "PasswordInUrlWarning": "api",
    "ProcessList": "sessions.processlist",
    "SessionCounts": "sessions.summaries",
    "TidbMagicError": "errors",
    "TimeLimitError": "errors",
    "connect": "api",
    "parse_kill": "kill.parser",
    "stop_on_interrupt": "stop.interrupts",
}

__all__ = [
    "Cluster",
    "ConnectionId",
    "History",
    "InstanceList",
    "KillReport",
    "KillStatement",
    "LockForest",
    "Outcome",
    "PasswordInUrlWarning",
    "ProcessList",
    "SessionCounts",
    "TidbMagicError",
    "TimeLimitError",
    "connect",
    "parse_kill",
    "stop_on_interrupt",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _HOME:
        return getattr(import_module(f"tidb_magic.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(ipython: "InteractiveShell") -> None:
    """Register the magics."""
    from tidb_magic.notebook import completion
    from tidb_magic.notebook.magics import TidbMagics

    magics = TidbMagics(ipython)
    ipython.register_magics(magics)
    magics.show_with(ipython)
    magics.follow_cells(ipython)
    completion.install(ipython, magics)


def unload_ipython_extension(ipython: "InteractiveShell") -> None:
    """Close what is connected and take the magics away."""
    from tidb_magic.notebook import completion

    completion.remove(ipython)
    magics = ipython.magics_manager.registry.pop("TidbMagics", None)
    if magics is None:
        return
    magics.show_no_more(ipython)
    magics.follow_no_more(ipython)
    magics.close()
    for kind, names in magics.magics.items():
        for name in names:
            ipython.magics_manager.magics[kind].pop(name, None)
    ipython.configurables[:] = [one for one in ipython.configurables if one is not magics]
