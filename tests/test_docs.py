"""README and docs: what they name exists, and what can run runs."""

import argparse
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SLOW
from tidb_magic import Outcome
from tidb_magic.notebook.arguments import connect_parser, kill_parser, ps_parser
from tidb_magic.notebook.magics import TidbMagics
from tidb_magic.playground import Playground
from tidb_magic.playground.__main__ import parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))}
DOCS = "\n".join([README, *PAGES.values()])
BLOCKS = [
    pytest.param(language, block, id=f"{page} {number}")
    for page, text in {"README.md": README, **PAGES}.items()
    for number, (language, block) in enumerate(
        re.findall(r"^```(python|text)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    )
]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


MAGICS = {
    "connect": (TidbMagics.tidb_connect, connect_parser()),
    "ps": (TidbMagics.tidb_ps, ps_parser()),
    "kill": (TidbMagics.tidb_kill, kill_parser()),
}
MAGIC_OPTIONS = {option for _, reader in MAGICS.values() for option in reader.options}


def playground_options() -> set[str]:
    commands = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {
        option
        for command in ("start", "stop")
        for action in commands.choices[command]._actions
        for option in action.option_strings
        if option.startswith("--") and option not in {"--help", "--all"}
    }


@pytest.mark.parametrize("option", sorted({*MAGIC_OPTIONS, *playground_options()}))
def test_every_option_is_in_the_docs(option: str) -> None:
    assert re.search(rf"{option}\b", DOCS)


@pytest.mark.parametrize("name", MAGICS)
def test_every_option_is_in_the_help_of_its_magic(name: str) -> None:
    magic, reader = MAGICS[name]
    assert {option for option in reader.options if not re.search(rf"{option}\b", magic.__doc__ or "")} == set()


@pytest.mark.parametrize("name", TidbMagics.class_trait_names(config=True))
def test_every_setting_is_in_the_docs_with_its_default(name: str) -> None:
    default = TidbMagics.class_traits()[name].default_value
    shown = "" if default == "" else f"`{default}`" if isinstance(default, (bool, str)) else f"{default:g}"
    assert re.search(rf"^\| `{name}` \| {re.escape(shown)} ?\| ", DOCS, re.MULTILINE)


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCS))))
def test_every_test_that_the_docs_name_exists(named: tuple[str, str]) -> None:
    file, test = named
    assert f"\ndef {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.PLANNED])
def test_every_outcome_is_explained(outcome: Outcome) -> None:
    assert f"| `{outcome}` |" in README
    assert f"| `{outcome}` |" in PAGES["docs/reference/outcomes.md"]


def test_the_readme_has_at_most_900_words() -> None:
    assert len(README.split()) <= 900


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)", README))))
def test_every_link_of_the_readme_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize(("language", "block"), [one for one in BLOCKS if one.values[0] == "text"])
def test_every_magic_line_of_the_docs_is_accepted_by_its_parser(language: str, block: str) -> None:
    for line in block.splitlines():
        typed = re.match(r"(?:In \[\d+\]: )?(?:\w+ = )?%tidb_(connect|ps|kill)\b(.*)", line)
        if typed and not typed[2].startswith("?"):
            MAGICS[typed[1]][1].parse(re.sub(r"\{.*?\}", "5", typed[2]))


@pytest.mark.parametrize(("language", "block"), [one for one in BLOCKS if one.values[0] == "python"])
def test_every_python_block_of_the_docs_runs(language: str, block: str, playground: Playground) -> None:
    exec(block.replace("mysql://root@127.0.0.1:4000", playground.url(0)), {})


def test_every_make_target_of_the_documents_exists() -> None:
    documents = DOCS + CONTRIBUTING
    for target in set(re.findall(r"(?m)(?:`|^)make ([a-z-]+)\b", documents)):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def test_every_slow_test_is_in_contributing_with_its_reason(pytestconfig: pytest.Config) -> None:
    """Of the files that were collected, which are all of them in `make test`."""
    collected = pytestconfig.stash[SLOW]
    reasons = dict(re.findall(r"^\| `(tests/[\w./:]+)`.* \| (.+) \|$", CONTRIBUTING, re.MULTILINE))
    whole = {"tests/test_environments.py", "tests/test_package.py"}  # the latter, where there are three Pythons
    named = {f"{file}::{test}" for file, tests in collected.items() if file not in whole for test in tests}
    assert {name for name in reasons if name.partition("::")[0] in collected} == named | (whole & collected.keys())
    assert all((ROOT / name.partition("::")[0]).exists() for name in reasons)


def test_without_the_extra_the_playground_says_what_to_install() -> None:
    code = "import sys; sys.modules['filelock'] = None; import tidb_magic.playground"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "The playground needs filelock. Install it with: pip install 'tidb_magic[playground]'" in done.stderr


@pytest.mark.parametrize(
    "message",
    [
        "{name} did not respond. {error}",  # Python
        "it runs DDL, whose job a KILL does not end: {how}",
        "None of the selected sessions can be killed this way.",  # JavaScript
        "This list is out of date: refresh it first.",
    ],
)
def test_the_page_of_messages_has_those_of_the_code(message: str) -> None:
    hook = runpy.run_path(str(ROOT / "docs" / "messages.py"))
    page = hook["on_page_markdown"](PAGES["docs/reference/messages.md"])
    assert f"- `{message}`" in page.splitlines()
    assert "SELECT" not in page
