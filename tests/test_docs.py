"""What the README says is there."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tidb_magic import Outcome
from tidb_magic.magics import TidbMagics
from tidb_magic.playground.__main__ import parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


MAGIC_OPTIONS = {
    option
    for magic in (TidbMagics.tidb_connect, TidbMagics.tidb_ps, TidbMagics.tidb_kill)
    for option in re.findall(r"^ *(--[a-z-]+) ", magic.__doc__ or "", re.MULTILINE)
}


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
def test_every_option_is_in_the_readme(option: str) -> None:
    assert re.search(rf"{option}\b", README)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.PLANNED])
def test_every_outcome_is_explained(outcome: Outcome) -> None:
    assert f"| `{outcome}` |" in README


def test_every_make_target_of_the_documents_exists() -> None:
    documents = README + (ROOT / "CONTRIBUTING.md").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b(?!s)", documents)) - {"should", "do"}:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def test_without_the_extra_the_playground_says_what_to_install() -> None:
    code = "import sys; sys.modules['filelock'] = None; import tidb_magic.playground"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "The playground needs filelock. Install it with: pip install 'tidb_magic[playground]'" in done.stderr
