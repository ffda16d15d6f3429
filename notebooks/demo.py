"""The main job, typed into IPython: list the cluster, end a long SELECT on another instance, see the proof.

`make demo` runs it on a playground, started if none runs, and stopped afterwards unless it ran before or with
`--keep`. It exits with 0 only if the kill was proven.
"""

import argparse
import sys

from IPython.terminal.interactiveshell import TerminalInteractiveShell

from tidb_magic.playground import PlaygroundError
from tidb_magic.playground.cluster import find, obtain
from tidb_magic.playground.records import Options

CELLS = [
    "%load_ext tidb_magic",
    "%tidb_connect playground",
    "df = %tidb_ps",
    "df",
    # The longest running report that is not on the instance we are connected to.
    "here = {instance for instance, _ in df.own}",
    "reports = df[df.INFO.str.contains('nightly report', na=False) & ~df.INSTANCE.isin(here)]",
    "report = %tidb_kill QUERY {reports.ID.iloc[0]}",
    "report",
    "%tidb_ps",
]


def main() -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the playground running")
    keep = parser.parse_args().keep
    running = find()
    if running and not running.options.workload:
        print("The playground that runs has no workload. Stop it, and run this again.", file=sys.stderr)
        return 1
    try:
        obtain(Options(workload=True))
        proven = demonstrate()
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        stop = not running and not keep and find()
        if stop:
            stop.stop()
    print("The same in JupyterLab: make lab")
    print("The playground was stopped." if stop else "The playground runs on: python -m tidb_magic.playground stop")
    return 0 if proven else 1


def demonstrate() -> bool:
    """Run the cells as a person would type them; tell whether the statement was seen to end."""
    shell = TerminalInteractiveShell.instance(colors="NoColor")
    if shell.history_manager:
        shell.history_manager.enabled = False  # the demo is nobody's history
    try:
        for number, cell in enumerate(CELLS, start=1):
            print(f"\nIn [{number}]: {cell}", flush=True)
            if not shell.run_cell(cell, store_history=True).success:
                return False
        (row,) = shell.user_ns["report"].itertuples()
        (here,) = shell.user_ns["here"]
    finally:
        shell.run_line_magic("unload_ext", "tidb_magic")
    proven = (row.OUTCOME, here == row.INSTANCE) == ("interrupted", False)
    verified = "Verified" if proven else "NOT VERIFIED"
    print(f"\n{verified}: the statement on {row.INSTANCE} was {row.OUTCOME} (connected through {here}).")
    return proven


if __name__ == "__main__":
    sys.exit(main())
