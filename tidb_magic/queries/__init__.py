"""The SQL of tidb_magic, one statement a file, so that a DBA can read and EXPLAIN it."""

from functools import cache
from importlib.resources import files


@cache
def query(name: str) -> str:
    """Return the statement in ``NAME.sql`` without its leading comment lines.

    >>> query("identify").split()[:2]
    ['SELECT', 'CONNECTION_ID(),']
    """
    text = files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()
