"""The tests that need no browser, in the environments of others: without pyarrow, old and new versions, other settings.

Each runs a second pytest. It takes minutes, so only `make test-all` does.
"""

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tidb_magic.playground.build import build, cache_folder

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNITS = "not cluster and not browser and not benchmark and not slow"
# The modules that show frames with text.
ON_A_CLUSTER = [
    "tests/locks/test_lock_forest.py",
    "tests/notebook/test_magics.py",
    "tests/sessions/test_processlist.py",
    "tests/sessions/test_reader.py",
    "tests/sessions/test_summaries.py",
]
assert all((ROOT / module).is_file() for module in ON_A_CLUSTER)  # when the tests are collected: these run rarely

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.xdist_group("environments")]


def lowest(requirements: list[str]) -> list[str]:
    """Return constraints to the lowest version that each requirement allows."""
    parsed = map(Requirement, requirements)
    return [f"{one.name}=={next(bound.version for bound in one.specifier)}" for one in parsed]


@dataclass(frozen=True)
class Environment:
    """How it differs from the one in which the tests run."""

    variables: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    constraints: tuple[str, ...] | None = None

    def python(self, folder: Path) -> str:
        """Return a Python with the packages: a new one if these differ."""
        if not self.without and self.constraints is None:
            return sys.executable
        python = str(folder / "environment" / "bin" / "python")
        limits = folder / "constraints.txt"
        limits.write_text("\n".join(self.constraints or ()))
        uv = [sys.executable, "-m", "uv"]
        install = ["install", "--quiet", "--compile-bytecode", "--python", python, "--constraints", str(limits)]
        run(*uv, "venv", "--quiet", "--python", sys.executable, str(folder / "environment"))
        run(*uv, "pip", *install, "--editable", ".[playground]", "--group", "test", "--group", "lab", "mypy")
        if self.without:
            run(*uv, "pip", "uninstall", "--quiet", "--python", python, *self.without)
        return python


def run(*command: str, **variables: str) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(Environment(without=("pyarrow",)), id="without pyarrow"),
        pytest.param(
            Environment(constraints=tuple(lowest(PROJECT["dependencies"]))), id="the oldest versions that are allowed"
        ),
        pytest.param(Environment(constraints=()), id="the newest versions"),
        pytest.param(Environment({"LANG": "C", "LC_ALL": "C"}), id="LANG=C"),
        pytest.param(Environment({"TZ": "Asia/Kolkata"}), id="a time zone other than UTC"),
        pytest.param(
            # The servers and the Go toolchain are where they are.
            Environment(
                {
                    "HOME": "/dev/null/home",
                    "XDG_CACHE_HOME": str(cache_folder().parent),
                    "GOPATH": os.environ.get("GOPATH", str(Path.home() / "go")),
                }
            ),
            id="a home that cannot be written",
        ),
    ],
)
def test_the_tests_pass_in(environment: Environment, tmp_path: Path) -> None:
    build()
    python = environment.python(tmp_path)
    variables = environment.variables | {"PYTEST_ADDOPTS": f"-q --basetemp={tmp_path / 'tests'} -p no:cacheprovider"}
    run(python, "-m", "pytest", "-m", UNITS, **variables)
    run(python, "-m", "pytest", "-m", "not browser and not benchmark and not slow", *ON_A_CLUSTER, **variables)
