"""The SQL of tidb_magic, one statement a file, so that a DBA can read and EXPLAIN it."""

import re
from collections.abc import Mapping
from functools import cache

_PART = re.compile(r"\{(\w+)\}")


def query(name: str, **parts: str) -> str:
    """Return the statement in ``NAME.sql`` without its comment lines, ``{part}`` filled in, or from fragments.sql.

    >>> query("identify").split()[:2]
    ['SELECT', 'CONNECTION_ID(),']
    >>> query("sessions_cluster", condition="USER = '{condition}'").splitlines()[-1]
    "WHERE USER = '{condition}'"
    """
    return _filled(_text(name), parts)


def fragment(name: str) -> str:
    """Return a part of statements.

    >>> fragment("filter_min_time")
    'TIME >= %(min_time)s'
    """
    return _filled(_fragments()[name], {})


def _filled(text: str, parts: Mapping[str, str]) -> str:
    return _PART.sub(lambda found: parts[found[1]] if found[1] in parts else fragment(found[1]), text)


@cache
def _fragments() -> dict[str, str]:
    return {name: text for name, _, text in (line.partition(": ") for line in _text("fragments").splitlines())}


@cache
def _text(name: str) -> str:
    from importlib.resources import files  # here, so that loading the extension is fast

    text = files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()
