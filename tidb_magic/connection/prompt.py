"""Prompts for a password, where a person can answer."""

import getpass  # not its function: a kernel puts its own in the place
import sys

from tidb_magic.connection.settings import Secret, Settings
from tidb_magic.errors import AuthenticationError


def prompt(settings: Settings, refused: AuthenticationError) -> Secret:
    """Return the password that a person types; `refused` is the error of the login without one.

    Raises
    ------
    AuthenticationError
        No person can answer here.
    """
    try:
        if _can_prompt():
            return Secret(getpass.getpass(f"Password for {settings.address}: "))
    except (EOFError, NotImplementedError):  # a notebook that runs without a person
        pass
    raise AuthenticationError(
        f"{settings.named} requires a password, and it cannot be prompted for here."
        " Pass it as connect(url, password=...), for example from an environment variable."
    ) from refused


def _can_prompt() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if hasattr(shell, "kernel"):
        return True  # the kernel knows whether its front end can ask, and raises NotImplementedError if not
    return sys.stdin is not None and sys.stdin.isatty()
