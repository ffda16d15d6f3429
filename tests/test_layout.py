"""Where SQL stands, and whether the picture in docs/explanation/design.md shows the packages and their imports."""

import ast
import re
from itertools import pairwise
from pathlib import Path

from tidb_magic.sessions.filters import FilterOptions

PACKAGE = Path(__file__).parent.parent / "tidb_magic"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]

SQL = re.compile(r"\b(SELECT|SHOW|SET|WITH|FROM|WHERE|EXPLAIN|INSERT|UPDATE|DELETE|KILL TIDB|INFORMATION_SCHEMA)\b")
SQL_IN_PYTHON = {
    "connection/cleanup": ["SELECT CONNECTION_ID()", "KILL TIDB CONNECTION "],  # its own id; the end of a statement
    "connection/driver": ["SHOW WARNINGS"],
    "kill/locate": ["a driver's thread id is the proxy's own number; SELECT CONNECTION_ID() gives TiDB's"],  # advice
    "kill/parser": ["KILL TIDB CONNECTION_ID()", "KILL TIDB "],  # what is sent is made of what was parsed
    "sessions/lookup": ["INFORMATION_SCHEMA.CLUSTER_PROCESSLIST", "INFORMATION_SCHEMA.PROCESSLIST"],  # names of tables
    "kill/checks": [
        "it runs IMPORT INTO, whose job a KILL may leave behind: SHOW IMPORT JOBS, then CANCEL IMPORT JOB",
        (
            "it is internal work of TiDB itself, as auto analyze is:"
            " SHOW ANALYZE STATUS, and SET GLOBAL tidb_enable_auto_analyze = OFF starts no more"
        ),
        "ADMIN SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS",
    ],
}


def test_only_queries_hold_sql() -> None:
    product = [path for path in MODULES if "playground" not in path.parts]
    found = {name_of(path): set(filter(SQL.search, strings(path))) for path in product}
    assert {name: texts for name, texts in found.items() if texts} == {
        name: set(texts) for name, texts in SQL_IN_PYTHON.items()
    }


def test_every_statement_that_is_used_stands_in_queries_and_each_is_used() -> None:
    product = "\n".join(path.read_text() for path in MODULES if "playground" not in path.parts)
    files = {path.stem for path in (PACKAGE / "queries").glob("*.sql")}
    assert set(re.findall(r"""\b(?:query|statement)\(\s*["'](\w+)["']""", product)) <= files
    assert {name for name in files if not re.search(rf"""["']{name}["']""", product)} == set()


def test_every_fragment_is_used_and_no_statement_has_a_part_of_that_name() -> None:
    lines = (PACKAGE / "queries" / "fragments.sql").read_text().splitlines()
    fragments = {line.partition(": ")[0] for line in lines if not line.startswith("--")}
    statements = "\n".join(path.read_text() for path in (PACKAGE / "queries").glob("*.sql"))
    product = "\n".join(path.read_text() for path in MODULES)
    used = set(re.findall(r"\{(\w+)\}", statements)) | set(re.findall(r"""["'](\w+)["']""", product))
    assert fragments <= used | {f"filter_{name}" for name in FilterOptions.__annotations__}
    assert fragments & set(re.findall(r"\b(\w+)=", product)) == set()


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix(""))


def strings(file: Path) -> list[str]:
    """Return all texts in a module that are no docstrings."""
    tree = ast.parse(file.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    return [node.value for node in texts if isinstance(node.value, str)]


# -- the picture -------------------------------------------------------------------------------------------------

PICTURE = (PACKAGE.parent / "docs" / "explanation" / "design.md").read_text()
BOXES = dict(re.findall(r'^ +(\w+)\["<b>\1</b>: (.*)"\]$', PICTURE, re.MULTILINE))


def package_of(path: Path) -> str:
    return Path(name_of(path)).parts[0]


def arrows() -> set[tuple[str, str]]:
    chains = [re.findall(r"\w+", line) for line in PICTURE.splitlines() if "-->" in line]
    return {pair for chain in chains for pair in pairwise(chain)}


def imports() -> set[tuple[str, str]]:
    """Return the pairs of packages of which the first imports the second."""
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                top, _, rest = node.module.partition(".")
                names = [rest] if rest else [alias.name for alias in node.names]
                found |= {(package_of(path), name.partition(".")[0]) for name in names if top == "tidb_magic"}
    return {(package, used) for package, used in found if used != package}


def test_every_package_has_one_box_in_the_picture() -> None:
    assert set(BOXES) == {package_of(path) for path in MODULES}


def test_the_box_of_a_package_names_its_modules() -> None:
    named = {box: text.rpartition("<br/>")[2].split(", ") for box, text in BOXES.items() if "<br/>" in text}
    assert named == {
        box: sorted(path.stem for path in MODULES if package_of(path) == box and path.stem != "__init__")
        for box in BOXES
        if (PACKAGE / box).is_dir() and box not in {"queries", "playground"}
    }


def test_the_arrows_of_the_picture_are_the_imports() -> None:
    """An import goes along arrows, and each arrow is an import."""
    below = {box: {box} for box in BOXES}
    for _ in BOXES:
        for box, lower in arrows():
            below[box] |= below[lower]
    assert {(package, used) for package, used in imports() if used not in below[package]} == set()
    assert arrows() <= imports()
    assert not any(box in below[lower] for box, lower in arrows())
