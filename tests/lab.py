"""A real JupyterLab in a real Chromium."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import nbformat
import psutil
from playwright.sync_api import Browser, Locator, Page, Playwright, expect

from tests.programs import installed
from tidb_magic.playground import processes

# As root it needs no sandbox; nothing is looked for in the network.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SYSTEM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 180_000  # milliseconds: the machines are slow at times
expect.set_options(timeout=WAIT)


def chromium() -> str | None:
    """Return the Chromium that is installed; else install the system's, where that may be done; else Playwright's."""
    if found := installed(*SYSTEM):
        return found
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)
    return None  # Playwright knows where its own is


def kernel_of(version: str) -> Path:
    """Return a folder that holds this version of ipykernel, to be put before what is installed."""
    folder = Path(sys.prefix) / "kernels" / version
    if not folder.exists():
        half = folder.with_name(f"{version}.{os.getpid()}")
        what = ["--quiet", "--no-deps", "--target", str(half), f"ipykernel=={version}.*"]
        subprocess.run([sys.executable, "-m", "pip", "install", *what], check=True)
        half.rename(folder)
    return folder


def kernelspec(data: Path, version: str) -> str:
    """Add a kernel with this version of ipykernel to a data folder of Jupyter's, and return its name."""
    name = f"ipykernel-{version}"
    folder = data / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": name, "language": "python", "env": {"PYTHONPATH": str(kernel_of(version))}}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return name


def launch(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)


class Lab:
    """A JupyterLab server that ends with the block; notebooks are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        settings = {
            "ServerApp.token": "",
            "ServerApp.root_dir": str(folder),
            "LabApp.expose_app_in_browser": "True",
        }
        config = folder / ".jupyter" / "JUPYTER_CONFIG_DIR" / "labconfig"
        config.mkdir(parents=True, exist_ok=True)
        # Neither asks about news nor brings the other extension's buttons.
        without = {"@jupyterlab/apputils-extension:announcements": True, "jupysql-plugin": True}
        (config / "page_config.json").write_text(json.dumps({"disabledExtensions": without}))
        self.data = folder / ".jupyter" / "JUPYTER_DATA_DIR"
        own = {
            name: str(folder / ".jupyter" / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
        }
        environment = {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(folder / ".jupyter" / "settings")}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port", str(self.port)]
        with (folder / "lab.log").open("w") as log:
            self._server = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in settings.items())],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        give_up = time.monotonic() + WAIT / 1000
        while time.monotonic() < give_up:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/api/status"):
                return self
            if self._server.poll() is not None:
                break
            time.sleep(0.1)
        self.__exit__()
        raise RuntimeError((self.folder / "lab.log").read_text()[-2000:])

    def __exit__(self, *_: object) -> None:
        """End the server and its kernels with SIGKILL: after SIGTERM the server runs on for more than 20 s."""
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(self._server.pid)
            processes.end([server, *server.children(recursive=True)])
        self._server.wait()

    def write(self, name: str, *cells: str, kernel: str = "python3") -> None:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        nbformat.write(book, self.folder / name)

    def open(self, page: Page, name: str) -> "Notebook":
        page.goto(f"http://127.0.0.1:{self.port}/lab/tree/{name}?reset")
        page.locator(".jp-NotebookPanel .jp-Notebook").first.wait_for(state="attached", timeout=WAIT)
        page.evaluate("async () => { await window.jupyterapp.restored; }")
        return Notebook(page)


class Notebook:
    """An open notebook."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def command(self, name: str, **arguments: Any) -> None:
        self.page.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, arguments])

    def replace(self, *cells: str) -> None:
        """Put other cells in the place of all; the kernel stays."""
        self.page.evaluate(
            """cells => {
                const {model} = window.jupyterapp.shell.currentWidget.context;
                const code = source => ({
                    cell_type: 'code', id: crypto.randomUUID(), source, metadata: {}, outputs: [], execution_count: null
                });
                model.fromJSON({...model.toJSON(), cells: cells.map(code)});
            }""",
            cells,
        )

    def wait_until_idle(self) -> None:
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
            timeout=WAIT,
        )

    def start(self, number: int) -> None:
        """Run a cell without waiting for its end."""
        self.page.evaluate(
            """number => {
                const panel = window.jupyterapp.shell.currentWidget;
                panel.content.activeCellIndex = number;
                window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            number,
        )

    def run(self, number: int) -> Locator:
        """Run a cell to its end and return its outputs."""
        self.wait_until_idle()
        self.page.evaluate(
            """async number => {
                const panel = window.jupyterapp.shell.currentWidget;
                panel.content.activeCellIndex = number;
                await window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            number,
        )
        return self.outputs(number)

    def outputs(self, number: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jp-OutputArea").first

    def table(self, number: int) -> "Table":
        return Table(self.outputs(number).locator(".tidb-sessions"))


class Table:
    """The widget."""

    def __init__(self, root: Locator) -> None:
        self.root = root

    def row(self, number: int, instance: str | None = None) -> Locator:
        start = f'{instance} {number}"' if instance else f' {number}"'
        kind = "=" if instance else "$="
        return self.root.locator(f'tr[data-key{kind}"{start}]:not(.tidb-below)')

    def click(self, number: int, button: str) -> Locator:
        """Press a button of a row and return the panel that asks."""
        self.row(number).get_by_text(button, exact=True).click()
        return self.root.locator(".tidb-panel")

    def outcome(self, number: int) -> Locator:
        return self.row(number).locator(".tidb-outcome")


__all__ = ["Lab", "Notebook", "Table", "chromium", "expect", "launch"]
