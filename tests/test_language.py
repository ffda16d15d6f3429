"""Messages are plain English: a few words that house rules do not allow. CONTRIBUTING.md has the rules."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BANNED = re.compile(
    r"\b(nobody|somebody|who (?:is|are|was|were|waits|wait|runs|answered|changed)|of that|told|taken to"
    r"|not to be seen|found out|by itself and|at work|so\.$|he|him|his)\b"
)
MODULES = sorted((ROOT / "tidb_magic").rglob("*.py"))


def messages(path: Path) -> list[str]:
    """Return the texts of a module that are no docstrings, those in braces of f-strings left out."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_are_without_riddles(path: Path) -> None:
    assert [text for text in messages(path) if BANNED.search(text)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_pages_are_without_riddles(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if BANNED.search(line)] == []
