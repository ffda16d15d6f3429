"""The public names, their signatures and the magics' options are those that are recorded.

A wanted change: write what `public_api()` returns into tests/recorded/public-api.txt, and an entry into the changelog.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import tidb_magic
from tidb_magic.notebook.arguments import connect_parser, kill_parser, ps_parser

RECORDED = Path(__file__).parent / "recorded" / "public-api.txt"


def parameters(function: Any) -> str:
    """Return the names of the parameters, with the kinds and defaults."""
    signature = inspect.signature(function)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return re.sub(r"\bdeadline=[\d.]+", "deadline=DEADLINE", str(inspect.Signature(bare)))  # tests have a longer one


def members(name: str, value: Any) -> list[str]:
    """Return a line for each public method and property that a class of tidb_magic defines itself or in our bases."""
    ours = [base for base in value.__mro__ if base.__module__.startswith("tidb_magic")]
    found = {key: member for base in reversed(ours) for key, member in vars(base).items() if not key.startswith("_")}
    lines = []
    for key, member in sorted(found.items()):
        called = inspect.isfunction(member) or isinstance(member, classmethod)
        lines.append(f"{name}.{key}{parameters(getattr(value, key)) if called else ''}")
    return lines


def public_api() -> str:
    """Return a line for each public name, method and option."""
    lines = []
    for name in tidb_magic.__all__:
        value = getattr(tidb_magic, name)
        lines += members(name, value) if inspect.isclass(value) else [f"{name}{parameters(value)}"]
    for reader in (connect_parser(), ps_parser(), kill_parser()):
        lines += [f"{reader.prog} {option}" for option in sorted(reader.options)]
    return "\n".join(lines) + "\n"


def test_the_public_api_is_as_recorded() -> None:
    assert public_api() == RECORDED.read_text()
