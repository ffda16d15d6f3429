"""A real kernel with one front end, whose Stop button can be pressed."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from IPython.paths import get_ipython_dir
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

PLANTED = "planted-s3cret"
_AGAIN = 5.0  # seconds after which Stop is pressed again: Python drops an exception that is raised in a finalizer
_BEGIN = 60.0  # seconds until a cell begins
_PRESSES = 12  # at most


@dataclass(frozen=True)
class Stopped:
    """A cell that was interrupted: what it printed, the seconds from Stop until the prompt, the number of presses."""

    printed: str
    seconds: float
    presses: int


class Kernel:
    """A kernel and its one front end."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str, *, stdin: bool = False) -> list[dict[str, Any]]:
        """Run a cell and return its outputs."""
        outputs: list[dict[str, Any]] = []
        answers = {"allow_stdin": stdin, "stdin_hook": self._answer}
        self.client.execute_interactive(code, timeout=300, output_hook=lambda m: outputs.append(dict(m)), **answers)
        return [one["content"] for one in outputs if one["msg_type"] in {"stream", "error", "execute_result"}]

    def stop(self, code: str, when: Callable[[], object]) -> Stopped:
        """Run a cell, and press Stop when `when` has returned, which is called as soon as the cell runs."""
        number = self.client.execute(code)
        printed, pressed, presses = "", 0.0, 0
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=_AGAIN if presses else _BEGIN)
            except queue.Empty:
                if not 0 < presses < _PRESSES:
                    raise
                self.manager.interrupt_kernel()
                presses += 1
                continue
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_input":
                when()
                pressed, presses = monotonic(), 1
                self.manager.interrupt_kernel()
            if kind == "stream":
                printed += content["text"]
            if kind == "status" and content["execution_state"] == "idle":
                return Stopped(printed, monotonic() - pressed, presses)

    def _answer(self, message: dict[str, Any]) -> None:
        assert message["content"]["password"] is True
        self.client.input(PLANTED)


@contextmanager
def running_kernel() -> Iterator[Kernel]:
    manager, client = start_new_kernel()
    number = getattr(manager.provisioner, "pid", 0)
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        for record in Path(get_ipython_dir()).glob(f"*/pid/tidb_magic-{number}-*.json"):
            record.unlink()  # the next kernel would tell that this one was ended by force


def text(outputs: list[dict[str, Any]]) -> str:
    return "\n".join(
        one.get("text") or "\n".join(one.get("traceback", [])) or one["data"]["text/plain"] for one in outputs
    )
