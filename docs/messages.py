"""A hook of MkDocs: puts the messages of tidb_magic, taken from the code, into reference/messages.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent / "tidb_magic"
PLACE = "<!-- messages -->"
# Packages in the order of the page, with what their messages are about.
PARTS = {
    "connection": "Connecting, and statements",
    "cluster": "Instances",
    "sessions": "Lists and filters",
    "locks": "Lock waits",
    "kill": "Kills",
    "notebook": "Magics",
    "widget": "The table with Kill buttons",
    "display": "Everywhere",
    "api": "Python",
    "connection_id": "Connection IDs",
    "playground": "Playground",
}
_WORDS = re.compile(r"[A-Za-z'-]+ [A-Za-z'(%{-]+ \S")  # three words in a row
_NO_MESSAGE = re.compile(
    r"\b(SELECT|WHERE|RLIKE|MAX_EXECUTION_TIME)\b|\(\?|^[\s;]*(background|<)|\\b|\(\\d|=%\("
    r"|^(CREATE|GRANT|INSERT|SET GLOBAL|LEFT\(|\(COMMAND|ORDER BY|ID IN|-s -w|KILL TIDB)|Math\."
)
# Names that say nothing of a value: of functions around it.
_AROUND = {"counted", "first_line", "int", "join", "len", "map", "max", "min", "self", "sorted", "str", "sum"}
_JS_VALUE = re.compile(r"\$\{[^{}]*?(\w+)[^\w{}]*\}")
_JS_TEXT = re.compile(r'"([^"\n]*)"|`([^`]*)`')


def _text(node: ast.AST) -> str | None:
    """Return the text of a string, with what an f-string fills in as its name."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"{{{_name(part)}}}" for part in node.values
        )
    return None


def _name(part: ast.expr) -> str:
    """Return a short name of what is filled in."""
    value = part.value if isinstance(part, ast.FormattedValue) else part
    names = [
        one.attr if isinstance(one, ast.Attribute) else one.id
        for one in ast.walk(value)
        if isinstance(one, (ast.Attribute, ast.Name))
    ]
    telling = [name for name in names if name not in _AROUND] or names
    return telling[0].strip("_").lower() if telling else "…"


def _strings(node: ast.AST) -> Iterator[str]:
    """Return the outermost strings below a node that are no docstrings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if (text := _text(child)) is not None:
            yield text
        else:
            yield from _strings(child)


def messages(path: Path) -> list[str]:
    """Return the messages of a module, in the order of the code."""
    found: Iterator[str]
    if path.suffix == ".js":
        code = re.sub(r"//.*", "", path.read_text())
        found = (_JS_VALUE.sub(r"{\1}", "".join(match)) for match in _JS_TEXT.findall(code))
    else:
        found = _strings(ast.parse(path.read_text()))
    texts = (" ".join(text.split()) for text in found if _WORDS.search(text) and not _NO_MESSAGE.search(text))
    return list(dict.fromkeys(texts))


def page() -> str:
    """Return the lists of the page."""
    parts = []
    for name, title in PARTS.items():
        paths = sorted((PACKAGE / name).rglob("*.[pj][ys]")) or [PACKAGE / f"{name}.py"]
        found = dict.fromkeys(text for path in paths for text in messages(path))
        if found:
            parts.append("\n".join([f"## {title}", "", *(f"- `{text.replace('`', chr(39))}`" for text in found)]))
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the place in the page."""
    return markdown.replace(PLACE, page()) if PLACE in markdown else markdown
