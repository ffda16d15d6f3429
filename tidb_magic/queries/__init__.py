"""The SQL of tidb_magic, one statement a file, so that a DBA can read and EXPLAIN it."""

import re
from functools import cache
from importlib.resources import files

_PART = re.compile(r"\{(\w+)\}")


def query(name: str, **parts: str) -> str:
    """Return the statement in ``NAME.sql`` without its leading comment lines, ``{part}`` filled in.

    >>> query("identify").split()[:2]
    ['SELECT', 'CONNECTION_ID(),']
    >>> query("sessions_cluster", condition="USER = '{condition}'").splitlines()[-1]
    "WHERE USER = '{condition}'"
    """
    return _PART.sub(lambda found: parts[found[1]], _text(name))


@cache
def _text(name: str) -> str:
    text = files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()
