"""``python -m benchmarks``: the table of ratios, on a playground of its own."""

import argparse
from importlib import import_module

from IPython.core.interactiveshell import InteractiveShell

from benchmarks import kill as killing
from benchmarks import list as listing
from benchmarks import widget
from benchmarks.crowd import crowd
from benchmarks.ratio import HEADER
from tidb_magic.playground import Playground

loading = import_module("benchmarks.import")  # a keyword, which no import statement takes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios beside the usual tools.")
    parser.add_argument("--sessions", type=int, default=2000, help="how many there are (default: 2000)")
    parser.add_argument("--rounds", type=int, default=40, help="how often each piece is timed (default: 40)")
    options = parser.parse_args()
    shell = InteractiveShell.instance()
    with Playground(instances=3) as playground:
        print(f"Opening {options.sessions} sessions, then {options.rounds} rounds; about five minutes.", flush=True)
        with crowd(playground, options.sessions):
            ratios = listing.compare(shell, playground, options.sessions, rounds=options.rounds)
            ratios += killing.single(shell, playground, rounds=options.rounds)
            ratios += killing.many(shell, playground)
            ratios += listing.frozen(shell, playground)
    ratios += widget.compare() + loading.compare()
    print(HEADER, *(ratio.line for ratio in ratios), loading.said(loading.heavy()), sep="\n")


if __name__ == "__main__":
    main()
