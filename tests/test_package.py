"""The package as a user gets it: what is in it, and how it does in empty environments, on each Python that is here."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.clients import Client
from tidb_magic.playground import Playground
from tidb_magic.playground.build import build

ROOT = Path(__file__).parent.parent
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETUP["project"]
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = pytest.mark.xdist_group("package")


def pythons() -> dict[str, str]:
    """Return the Pythons of this machine, one a version; the command of pyenv takes its version from a variable."""
    found = {RUNNING: sys.executable}
    for version in VERSIONS:
        command = [f"python{version}", "-c", "import sys, venv; print(sys.executable)"]
        variables = os.environ | {"PYENV_VERSION": version}
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
        except (OSError, subprocess.CalledProcessError):
            continue  # it is not here
        found.setdefault(version, done.stdout.strip())
    return found


PYTHONS = pythons()
OLDEST_AND_NEWEST = {min(PYTHONS, key=VERSIONS.index), max(PYTHONS, key=VERSIONS.index)}
EACH = [pytest.param(version, marks=() if version in OLDEST_AND_NEWEST else pytest.mark.slow) for version in PYTHONS]


def tracked() -> set[str]:
    """Return the files that git knows: a new one that was not added is missing in the package as well."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def names(requirements: Iterable[str | dict[str, str]]) -> set[str]:
    """Return the names in a list of requirements; groups that it includes are left out."""
    return {canonicalize_name(Requirement(one).name) for one in requirements if isinstance(one, str)}


class User:
    """Somebody with an empty virtual environment and an empty home, who has no checkout."""

    def __init__(self, folder: Path, python: str, wheel: Path) -> None:
        self.folder, self.wheel = folder, wheel
        self.cache = folder / ".cache"
        self.environment = folder / "environment"
        self.python = str(self.environment / "bin" / "python")
        self.variables = {"HOME": str(folder), "XDG_CACHE_HOME": str(self.cache), "PATH": os.defpath}
        subprocess.run([python, "-m", "venv", "--without-pip", str(self.environment)], check=True)
        self.install()

    def install(self, extra: str = "") -> None:
        """Install the wheel with the tests' own uv, so that nothing else is installed and its cache is used."""
        command = [sys.executable, "-m", "uv", "pip", "install", "--python", self.python, "--quiet"]
        subprocess.run([*command, f"{self.wheel}{extra}"], check=True)

    def run(self, *arguments: str) -> str:
        """Run Python without an error, and return what it printed."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def type(self, *lines: str) -> str:
        """Type lines into IPython, and return what it showed."""
        return self._run("-W", "error", "-m", "IPython", "--colors=nocolor", "-c", "\n".join(lines)).stdout

    def packages(self) -> set[str]:
        """Return what is installed."""
        code = "from importlib.metadata import distributions as d; print(*[one.name for one in d()])"
        return set(map(canonicalize_name, self.run("-c", code).split()))

    def lacks(self, modules: Iterable[str]) -> list[str]:
        """Return which of these modules cannot be imported."""
        code = "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
        return self.run("-c", code, *modules).split()

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("package")
    for name in tracked():
        (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "checkout" / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--installer=uv",
        "--outdir",
        str(folder / "dist"),
        str(folder / "checkout"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def user(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], User]]:
    """Return the user of a version of Python, always the same; their environments are large, and do not stay."""
    folder = tmp_path_factory.mktemp("users")
    yield cache(lambda version: User(folder / version, PYTHONS[version], wheel))
    shutil.rmtree(folder)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    about = f"tidb_magic-{PROJECT['version']}.dist-info"
    package = {name for name in files if not name.startswith(f"{about}/")}
    assert files.keys() - package == {f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    assert package == {name for name in tracked() if name.startswith("tidb_magic/")}
    assert all(files[name] == (ROOT / name).read_bytes() for name in package)
    # What each part lives on; a kind that is not among them has no business in a wheel.
    kinds = {(str(Path(name).parent).removeprefix("tidb_magic"), Path(name).suffix) for name in package}
    packages = (
        "cluster",
        "connection",
        "display",
        "kill",
        "locks",
        "notebook",
        "playground",
        "queries",
        "sessions",
        "stop",
        "widget",
    )
    assert kinds == {
        ("", ".py"),
        ("", ".typed"),
        *((f"/{package}", ".py") for package in packages),
        ("/queries", ".sql"),
        ("/widget/static", ".css"),
        ("/widget/static", ".js"),
        ("/playground/go/pd", ".mod"),
        ("/playground/go/pd", ".sum"),
        ("/playground/go/tidb", ".mod"),
        ("/playground/go/tidb", ".sum"),
        ("/playground/go/tidb/store", ".go"),
    }


def test_the_sdist_holds_what_is_needed_to_work_on_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        files = {name.partition("/")[2] for name in opened.getnames()}
    assert files == (tracked() | {"PKG-INFO"}) - {
        ".ci/run",
        ".github/ISSUE_TEMPLATE/bug.yml",
        ".pre-commit-config.yaml",
    }


def test_the_metadata_say_what_it_needs_and_where_it_runs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        path = zipfile.Path(opened, f"tidb_magic-{PROJECT['version']}.dist-info/")
        about = PathDistribution(path)
        metadata, requires = about.metadata, about.requires or []
    extras = [
        f"{one}; extra == '{extra}'" for extra, wanted in PROJECT["optional-dependencies"].items() for one in wanted
    ]
    assert set(map(Requirement, requires)) == set(map(Requirement, [*PROJECT["dependencies"], *extras]))
    assert metadata["Requires-Python"] == f">={VERSIONS[0]}"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description"] == (ROOT / "README.md").read_text()
    python = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    assert [found[1] for one in metadata.get_all("Classifier", []) if (found := python.fullmatch(one))] == VERSIONS


@pytest.mark.parametrize("version", EACH)
def test_a_users_script_and_magics_run_on_each_python(
    user: Callable[[str], User], version: str, playground: Playground
) -> None:
    somebody = user(version)
    assert somebody.run("-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip() == version
    shutil.copy(ROOT / "tests" / "as_a_user.py", somebody.folder)
    with Client(playground, 1) as victim:
        somebody.run("-W", "error", "as_a_user.py", playground.url(0), str(victim.id))
        assert not victim.alive()
    with Client(playground, 1) as victim:
        shown = somebody.type(
            "%load_ext tidb_magic",
            f"%tidb_connect {playground.url(0)}",
            f"report = %tidb_kill {victim.id}",
            "print(report)",
            "%unload_ext tidb_magic",
        )
        assert "1 killed (root@127.0.0.1:" in shown, shown
        assert not victim.alive()
    assert not re.search(r"Warning|Error|Traceback", shown), shown
    package = somebody.run("-c", "import tidb_magic; print(*tidb_magic.__path__)").strip()
    somebody.run("-W", "error", "-m", "compileall", "-q", "-f", package)


def test_a_user_gets_the_types_of_the_public_names(user: Callable[[str], User], tmp_path: Path) -> None:
    somebody = user(RUNNING)
    shutil.copy(ROOT / "tests" / "as_a_user.py", tmp_path)
    options = ["--strict", "--config-file=", f"--cache-dir={tmp_path}", f"--python-executable={somebody.python}"]
    command = [sys.executable, "-m", "mypy", *options, "as_a_user.py"]
    done = subprocess.run(command, cwd=tmp_path, env=somebody.variables, capture_output=True, text=True, check=False)
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout + done.stderr


def test_the_extra_brings_what_the_playground_needs_and_nothing_else_is_installed(user: Callable[[str], User]) -> None:
    somebody = user(RUNNING)
    connect = ("%load_ext tidb_magic", "%tidb_connect playground")
    assert re.fullmatch(
        r"\w+Error: The playground needs \w+\. Install it with: pip install 'tidb_magic\[playground\]'\n",
        somebody.type(*connect),
    )
    files = [Path(name) for name in tracked() if name.startswith("tidb_magic/") and name.endswith(".py")]
    of_playground = {file for file in files if "playground" in file.parts}
    optional = {"keyring", "sqlalchemy"}  # used only where it is installed, or an engine of it is given
    assert somebody.lacks(imported(set(files) - of_playground) - optional) == []

    somebody.install("[playground]")
    assert somebody.lacks(imported(of_playground)) == []
    packages = somebody.packages()
    assert packages >= names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["playground"])
    ours = set[str]().union(*map(names, SETUP["dependency-groups"].values())) - {"pexpect"}  # which IPython needs
    assert packages & ours == set()

    # The servers that were built, and no record of a playground that may run: that one stays as it is.
    binaries = list(build().values())
    (somebody.cache / "tidb_magic").mkdir(parents=True)
    (somebody.cache / "tidb_magic" / "bin").symlink_to(binaries[0].parent)
    keys = "from tidb_magic.playground.build import PIECES; print(*[one.binary.name for one in PIECES.values()])"
    assert somebody.run("-c", keys).split() == [path.name for path in binaries]
    try:
        shown = somebody.type(*connect, "sessions = %tidb_ps", "print(sessions)")
    finally:
        stopped = somebody.run("-m", "tidb_magic.playground", "stop")
    assert re.search(r"(?m)^\d+ sessions on 3 instances, taken ", shown), shown
    assert shown.endswith("\nComplete: every registered instance answered.\n")
    assert stopped == "Stopped default.\n"
    assert somebody.run("-m", "tidb_magic.playground", "status").startswith("No playground runs.")


def imported(files: Iterable[Path]) -> set[str]:
    """Return the modules of others that these files import, wherever in them."""
    nodes = [node for file in files for node in ast.walk(ast.parse((ROOT / file).read_text()))]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"tidb_magic"}
