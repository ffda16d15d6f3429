"""One direction: a part imports only what stands below it."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tidb_magic"
# From top to bottom. The parts of one line of the design stand left before right.
ORDER = [
    *("magics", "preferences", "completion", "connected"),
    *("widget", "snapshot"),
    *("lines",),
    *("api",),
    *("aftermath", "locks", "stores", "lockforest", "forest"),
    *("kill", "groups", "places", "scenes", "sources", "ways", "reports", "audit", "verdicts", "targets"),
    *("reading", "fanout", "sessions", "views", "processlist", "frames"),
    *("link", "routing", "logins", "stored", "connection", "session_variables", "driver", "deadlines"),
    *("progress", "troubles"),
    *("settings", "tls"),
    *("render", "grammar", "connection_id", "filters", "errors", "queries"),
]
FREE = {"__init__", "playground"}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def file_of(part: str) -> Path:
    file = PACKAGE / f"{part}.py"
    return file if file.exists() else PACKAGE / part / "__init__.py"


def parts(file: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(file) if name.startswith("tidb_magic.")}


def test_every_module_has_its_place() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert modules == {*ORDER, *FREE}


@pytest.mark.parametrize("part", ORDER)
def test_a_part_imports_only_what_stands_below_it(part: str) -> None:
    used = parts(file_of(part))
    below = set(ORDER[ORDER.index(part) + 1 :])
    assert used <= below | ({"playground"} if part == "logins" else set())


def test_the_playground_knows_none_of_the_parts() -> None:
    for file in (PACKAGE / "playground").glob("*.py"):
        assert parts(file) <= {"playground"}


def test_only_one_part_knows_the_driver() -> None:
    users = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "pymysql" in imports(path)}
    assert users == {"connection.py", "driver.py", "troubles.py", "playground/workload.py"}


def test_only_the_front_knows_the_notebook() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.stem not in {"magics", "preferences", "completion", "lines", "widget", "__init__", "api"}:
            assert not any(name.startswith("IPython") for name in imports(path))


SQL = re.compile(r"\b(SELECT|SHOW|SET|WITH|FROM|WHERE|EXPLAIN|INSERT|UPDATE|DELETE|KILL TIDB|INFORMATION_SCHEMA)\b")
SQL_IN_PYTHON = {
    "connection": ["SELECT CONNECTION_ID()", "KILL TIDB CONNECTION "],  # its own id; the end of an own statement
    "driver": ["SHOW WARNINGS"],
    "places": ["a driver's thread id is the proxy's own number; SELECT CONNECTION_ID() gives TiDB's"],  # what to type
    "grammar": ["KILL TIDB CONNECTION_ID()", "KILL TIDB "],  # what is sent is made of what was parsed
    "groups": ["ADMIN SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS"],  # advice, as in verdicts
    "sessions": ["INFORMATION_SCHEMA.CLUSTER_PROCESSLIST", "INFORMATION_SCHEMA.PROCESSLIST"],  # names of tables
    "verdicts": [
        "it runs IMPORT INTO, whose job a KILL may leave behind: SHOW IMPORT JOBS, then CANCEL IMPORT JOB",
        (
            "it is internal work of TiDB itself, as auto analyze is:"
            " SHOW ANALYZE STATUS, and SET GLOBAL tidb_enable_auto_analyze = OFF starts no more"
        ),
        "it runs DDL, whose job a KILL does not end: ADMIN SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS",
    ],
}


def test_only_queries_hold_sql() -> None:
    found = {path.stem: set(filter(SQL.search, strings(path))) for path in PACKAGE.glob("*.py")}
    assert {name: texts for name, texts in found.items() if texts} == {
        name: set(texts) for name, texts in SQL_IN_PYTHON.items()
    }


def strings(file: Path) -> list[str]:
    """Return all texts in a module that are no docstrings."""
    tree = ast.parse(file.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    return [node.value for node in texts if isinstance(node.value, str)]


# -- the picture -------------------------------------------------------------------------------------------------

PICTURE = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
BOXES = {
    str(box): [name.strip() for name in text.rpartition("<br/>")[2].split(",")]
    for box, text in re.findall(r'^ +(\w+)\["(.*)"\]$', PICTURE, re.MULTILINE)
}


def box_of(part: str) -> str:
    return next(box for box, names in BOXES.items() if part in names)


def arrows() -> set[tuple[str, str]]:
    chains = [re.findall(r"\w+", line) for line in PICTURE.splitlines() if "-->" in line]
    return {pair for chain in chains for pair in pairwise(chain)}


def test_every_part_is_in_one_box_of_the_picture() -> None:
    assert sorted(name for names in BOXES.values() for name in names) == sorted([*ORDER, "playground"])


def test_the_arrows_of_the_picture_are_the_imports() -> None:
    """An import goes along arrows, and each arrow is an import."""
    below = {box: {box} for box in BOXES}
    for _ in BOXES:
        for box, lower in arrows():
            below[box] |= below[lower]
    imported = {(box_of(part), box_of(used)) for part in ORDER for used in parts(file_of(part))}
    assert {(box, used) for box, used in imported if used not in below[box]} == set()
    assert arrows() <= imported
    assert not any(box in below[lower] for box, lower in arrows())
