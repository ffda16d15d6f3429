"""``python -m benchmarks``: the table of ratios, on a playground of its own."""

import argparse
from importlib import import_module

from IPython.core.interactiveshell import InteractiveShell

from benchmarks import kill as killing
from benchmarks import list as listing
from benchmarks import scale, widget
from benchmarks.crowd import crowd
from benchmarks.limit import limited
from benchmarks.ratio import HEADER, Ratio
from tidb_magic.playground import Playground

loading = import_module("benchmarks.import")  # a keyword, which no import statement takes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios beside the usual tools.")
    parser.add_argument("--sessions", type=int, default=2000, help="how many there are (default: 2000)")
    parser.add_argument("--rounds", type=int, default=40, help="how often each piece is timed (default: 40)")
    parser.add_argument("--minutes", type=float, default=30, help="when to give up, naming the part (default: 30)")
    options = parser.parse_args()
    shell = InteractiveShell.instance()
    ratios: list[Ratio] = []
    with limited(options.minutes) as run:
        with Playground(instances=3) as playground:
            run.stop = playground.stop
            print(
                f"Opening {options.sessions} sessions, then {options.rounds} rounds; about seven minutes.", flush=True
            )
            run.part = "The opening of the sessions"
            with crowd(playground, options.sessions):
                run.part = "The list beside the usual tools"
                ratios += listing.compare(shell, playground, options.sessions, rounds=options.rounds)
                run.part = "The kill of one session"
                ratios += killing.single(shell, playground, rounds=options.rounds)
                run.part = "The kill of 200 sessions"
                ratios += killing.many(shell, playground)
                run.part = "The list with an instance frozen"
                ratios += listing.frozen(shell, playground)
                run.part = "The closing of the sessions"
        run.part = "The growth with sessions and instances"
        for part in (scale.connecting, scale.large, scale.instances, scale.sessions):
            ratios += part()
        run.part = "The table"
        ratios += widget.compare()
        run.part = "The loading"
        ratios += loading.compare()
    print(HEADER, *(ratio.line for ratio in ratios), loading.said(loading.heavy()), sep="\n")


if __name__ == "__main__":
    main()
