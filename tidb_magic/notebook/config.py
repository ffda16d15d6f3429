"""What can be set by ``%config TidbMagics``, in the profile, and in the environment."""

import os
from typing import Any

from IPython.core.magic import Magics
from traitlets import Bool, Enum, Float, Int, TraitError, Unicode, observe

from tidb_magic.errors import SettingsError
from tidb_magic.sessions.filters import DAY


class Preferences(Magics):
    """The settings of the magics.

    An option on the line goes first, then ``%config TidbMagics.limit = 50``, then ``c.TidbMagics.limit = 50`` in the
    profile, then ``TIDB_MAGIC_LIMIT=50`` in the environment, then the default.
    """

    limit = Int(200, min=1, help="How many rows a list has at most; all sessions are counted.").tag(config=True)
    deadline = Float(
        3.0,
        min=0.1,
        max=DAY,
        help="Seconds after which an incomplete list is accepted; and for each step before a KILL.",
    ).tag(config=True)
    timeout = Float(10.0, min=0.1, max=DAY, help="Seconds from each KILL to its proof.").tag(config=True)
    live_interval = Float(
        2.0, min=0.1, max=DAY, help="Seconds between two readings of a live table (%tidb_ps --live)."
    ).tag(config=True)
    max_victims = Int(50, min=1, help="More sessions than that are not killed at once, only planned.").tag(config=True)
    audit_file = Unicode("", help="A file that gets a line of JSON for every KILL, plan and outcome.").tag(config=True)
    audit_sql = Bool(default_value=False, help="Whether the audit file gets the statements of the sessions too.").tag(
        config=True
    )
    show_sql = Bool(
        default_value=True,
        help="Whether statements, and the values of locked keys, are shown; if not, only what kind they are. For"
        " notebooks that leave the team. What is shown already stays; DataFrames hold them all the same.",
    ).tag(config=True)
    stop = Enum(
        ["end", "ask", "off"],
        "end",
        help="What happens to statements that an interrupted cell leaves running in TiDB: end them, ask (say what to"
        " type), or off.",
    ).tag(config=True)
    direct = Enum(
        ["auto", "always", "never"],
        "auto",
        help="Whether to connect to the addresses that the instances advertise: auto, always or never.",
    ).tag(config=True)

    def __init__(self, shell: Any) -> None:
        try:
            super().__init__(shell, **self._environment(shell))
        except TraitError as error:
            shell.configurables[:] = [one for one in shell.configurables if one is not self]
            raise SettingsError(
                f"The profile contains an invalid setting; the magics are not loaded. {error}"
            ) from None

    def _environment(self, shell: Any) -> dict[str, Any]:
        """Return what the environment has and the profile has not."""
        profile = shell.config.get(type(self).__name__, {}) if shell is not None else {}
        found = {}
        for name, trait in self.traits(config=True).items():
            variable = f"TIDB_MAGIC_{name.upper()}"
            if (text := os.environ.get(variable)) and name not in profile:
                try:
                    found[name] = trait._validate(self, trait.from_string(text))  # noqa: SLF001 (before it is set)
                except (TraitError, ValueError):
                    raise SettingsError(
                        f"{variable} of the environment is {text!r}, not {trait.info()}; the magics are not loaded."
                        f" {trait.help}"
                    ) from None
        return found

    @observe("show_sql")
    def _show_sql(self, _change: object = None) -> None:
        from tidb_magic.display import render

        render.DISPLAY.sql = self.show_sql
