"""In a real kernel: the stop button, passwords that a front end is asked for, notebooks."""

import queue
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from nbclient import NotebookClient

from tests.clients import LONG_SELECT, Client, eventually
from tests.kernels import PLANTED, Kernel, running_kernel, text
from tidb_magic.playground import Playground
from tidb_magic.playground.cluster import find, obtain
from tidb_magic.playground.records import Options
from tidb_magic.playground.workload import PASSWORD

NOTEBOOKS = sorted((Path(__file__).parent.parent.parent / "notebooks").glob("*.ipynb"))
# What the outputs of each have to say, and its last cell.
SHOWN = {
    "bad_day.ipynb": ["NOT COMPLETE: no answer from 127.0.0.1:", "sees own sessions", "global kill off"],
    "locks.ipynb": ["behind 1 root blocker", "1 killed", "No session waits", "((1, 99), (2, 98))"],
    "quickstart.ipynb": ["1 interrupted", "already gone", "Nothing was sent. To send it:"],
    "stop.ipynb": [
        "The cell was stopped.",
        "was still running; its session was ended (",
        "The cell reached its limit of 1 s and was interrupted.",
        "cell interrupted",
    ],
    "scripts.ipynb": ["Complete: every registered instance answered.", "1 interrupted", "A connection id is"],
}
OUTCOMES = {
    "bad_day.ipynb": ["unreachable", "refused", "interrupted"],
    "locks.ipynb": ["no longer waiting"],
    "quickstart.ipynb": ["planned", "interrupted"],
    "scripts.ipynb": ["planned", "interrupted"],
    "stop.ipynb": ["killed"],
}


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with running_kernel() as one:
        yield one


def test_the_stop_button_ends_a_list_in_one_line_and_leaves_nothing_running(
    kernel: Kernel, playground: Playground
) -> None:
    kernel.run(f"%load_ext tidb_magic\n%tidb_connect {playground.url(0)}")
    playground.freeze(2)
    try:
        message = kernel.client.execute("%tidb_ps")
        with Client(playground, 1) as root:
            listing = "SELECT ID FROM INFORMATION_SCHEMA.PROCESSLIST WHERE INFO LIKE '%tidb_magic:%' AND ID <> "
            with Client(playground, 0) as here:
                eventually(lambda: here.query(listing + str(here.id)))
                kernel.manager.interrupt_kernel()
                error = eventually(lambda: _error(kernel.client, message))
                assert here.query(listing + str(here.id)) == ()
            assert root.alive()
    finally:
        playground.resume(2)
    assert error["traceback"] == ["Interrupted: Our statement was ended on the server."]


def _error(client: BlockingKernelClient, message: str) -> Any:
    try:
        found = client.get_iopub_msg(timeout=1)
    except queue.Empty:
        return None
    ours = found["parent_header"].get("msg_id") == message and found["msg_type"] == "error"
    return found["content"] if ours else None


def test_the_front_end_is_asked_for_the_password(kernel: Kernel, playground: Playground, users: dict[str, str]) -> None:
    url = playground.url(0).replace("root", "joe")
    kernel.run("%load_ext tidb_magic\n%xmode Verbose")
    refused = text(kernel.run(f"%tidb_connect {url}"))
    assert "AuthenticationError: joe@127.0.0.1" in refused
    assert "it cannot be prompted for here" in refused
    assert "\n" not in refused
    connected = text(kernel.run(f"%tidb_connect {url}", stdin=True))
    assert connected.startswith("<Cluster joe@127.0.0.1:")
    everything = kernel.run("%tidb_ps")
    history = kernel.run("print(In, Out, [repr(v) for v in globals().values()])")
    assert PLANTED not in connected + text(everything) + text(history)


def test_a_wrong_password_is_one_line(kernel: Kernel, playground: Playground, users: dict[str, str]) -> None:
    url = playground.url(0).replace("root", "joe:wrong")
    outputs = kernel.run(f"%load_ext tidb_magic\n%tidb_connect {url}")
    said = text([one for one in outputs if "traceback" in one])
    assert said.startswith("AuthenticationError: joe@127.0.0.1")
    assert "\n" not in said


def test_a_kill_from_a_notebook_is_proven(kernel: Kernel, playground: Playground, running: Any) -> None:
    with Client(playground, 2) as client:
        running(client.start(LONG_SELECT.format("notebook")))
        outputs = kernel.run(f"%load_ext tidb_magic\n%tidb_connect {playground.url(0)}\n%tidb_kill QUERY {client.id}")
        (result,) = [one["data"] for one in outputs if "data" in one]
        assert "interrupted" in result["text/plain"]
        assert "<table" in result["text/html"]


def test_while_no_instance_answers_one_line_in_the_cell_says_so(kernel: Kernel, healed: Playground) -> None:
    kernel.run(f"%load_ext tidb_magic\n%tidb_connect {healed.url(0)}\n%config TidbMagics.deadline = 0.3")
    for instance in range(3):
        healed.freeze(instance)
    outputs = kernel.run("%tidb_ps")
    shown = "".join(one["text"] for one in outputs if one.get("name") == "stderr")
    lines = {line.rstrip() for line in shown.split("\r")} - {""}
    waiting = r"No instance has answered for \d s\. Still waiting \(3 s at most\); interrupt to stop\."
    assert lines
    assert all(re.fullmatch(waiting, line) for line in lines), lines
    assert shown.endswith("\r")
    assert "DeadlineError: No instance answered within" in text(outputs)


@pytest.fixture
def default_playground(default_name: None) -> Iterator[Playground]:
    """The playground that `%tidb_connect playground` finds."""
    before = find()
    started = obtain(Options(workload=True))
    yield started
    if not before:
        started.stop()


def outputs_of(notebook: nbformat.NotebookNode) -> list[dict[str, Any]]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def shows_what_it_is_for(path: Path, notebook: nbformat.NotebookNode) -> None:
    outputs = outputs_of(notebook)
    everything = "\n".join(map(str, outputs))
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert PASSWORD not in everything
    assert all(words in everything for words in SHOWN[path.name])
    assert all(outcome in str(notebook.cells[-1].outputs) for outcome in OUTCOMES[path.name])


@pytest.mark.cluster
@pytest.mark.xdist_group("notebooks")
@pytest.mark.parametrize(
    "path",
    [
        # These wait: for the end of a lock's TTL of 20 s, and for instances that are frozen.
        pytest.param(path, marks=pytest.mark.slow if path.name in ("locks.ipynb", "bad_day.ipynb") else ())
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.name,
)
def test_a_notebook_runs_as_it_is_shipped(path: Path, request: pytest.FixtureRequest) -> None:
    notebook = nbformat.read(path, as_version=4)
    if "%tidb_connect playground" in str(notebook):  # the others start playgrounds of their own
        request.getfixturevalue("default_playground")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    shows_what_it_is_for(path, notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_as_it_ran_and_holds_nothing_of_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    shows_what_it_is_for(path, notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    tags = [["raises-exception"]] if path.name == "stop.ipynb" else []
    assert [cell.metadata.tags for cell in notebook.cells if cell.metadata] == tags
    stored = path.read_text()
    assert "widget-view" not in stored
    assert not re.search(r"/(home|root|tmp|Users|var|work)/", stored)
    assert len(stored) < 60_000
