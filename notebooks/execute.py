"""Run the notebooks of this folder on real clusters and store what they print: `python notebooks/execute.py [NAME...]`.

What is stored is what everybody gets: no times of cells, no widgets that lived in that kernel, nothing of this machine.
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tidb_magic.playground.cluster import find

HERE = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> int:
    """Run all notebooks, or those that are named; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="as quickstart (default: all)")
    names = parser.parse_args().names
    running = find()
    try:
        for path in [HERE / f"{name}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb")):
            began = time.monotonic()
            notebook = execute(nbformat.read(path, as_version=4))
            nbformat.write(notebook, path)
            print(f"{path.name}: {time.monotonic() - began:.1f} s")
    finally:
        if not running and (started := find()):  # by `%tidb_connect playground`
            started.stop()
    return 0


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run a notebook from top to bottom, in this folder, and leave in it only what is worth keeping.

    Raises
    ------
    CellExecutionError
        A cell failed.
    """
    resources = {"metadata": {"path": str(HERE)}}
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources=resources,
        record_timing=False,
        store_widget_state=False,
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")  # an error that is meant
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)  # its line of text stays
    return notebook


if __name__ == "__main__":
    sys.exit(main())
