"""``import tidb_magic`` and ``%load_ext tidb_magic`` beside IPython's own start: ``python -m benchmarks.import``.

Each is timed within a process of its own, so that nothing is imported before and Python's start does not count.
"""  # noqa: N999 (the name says what it times)

import argparse
import statistics
import subprocess
import sys

from benchmarks.ratio import HEADER, Ratio

HEAVY = ("pandas", "pymysql", "ipywidgets", "anywidget")
IMPORT = "from time import perf_counter as now; began = now(); import {}; print(now() - began)"
LOAD = """
from time import perf_counter as now
began = now()
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
started = now()
shell.run_line_magic("load_ext", "tidb_magic")
print(now() - started, started - began)
"""
LOADED = f"{LOAD}import sys; print(*[name for name in {HEAVY} if name in sys.modules])"


def compare(*, rounds: int = 20) -> list[Ratio]:
    """Time them in turns; a first round, which compiles what is not compiled yet, does not count."""
    pieces = (IMPORT.format("tidb_magic"), IMPORT.format("IPython"), LOAD)
    spent = [[float(time) for piece in pieces for time in _fresh(piece).split()] for _ in range(1 + rounds)]
    ours, ipython, load, start = map(statistics.median, zip(*spent[1:], strict=True))
    return [
        Ratio("import tidb_magic", "import IPython", ours, ipython, 0.20),
        Ratio("%load_ext tidb_magic", "start of an IPython shell", load, start, 0.40),
    ]


def heavy() -> list[str]:
    """Return which of the heavy modules loading imports; there should be none."""
    return _fresh(LOADED).splitlines()[1].split()


def said(found: list[str]) -> str:
    """Return a sentence on them."""
    return f"Loading imports of {', '.join(HEAVY)}: {', '.join(found) or 'none of them'}."


def _fresh(code: str) -> str:
    """Run code in a new process, and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how often each is timed (default: 20)")
    print(HEADER, *(ratio.line for ratio in compare(rounds=parser.parse_args().rounds)), said(heavy()), sep="\n")
