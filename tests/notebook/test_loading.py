"""Loading and unloading leave nothing behind, in a kernel and in a terminal; other notebooks use the Python calls."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clients import LONG_SELECT, Client
from tests.kernels import Kernel, text
from tests.notebook.test_kernel import kernel  # noqa: F401 (a fixture)
from tidb_magic.playground import Playground

# What could be left behind, by name, so that a test says what it was.
COUNT = """
def count():
    import gc, json, sys, threading
    import psutil
    from IPython import get_ipython
    shell = get_ipython()
    gc.collect()
    made = sys.modules.get("ipywidgets.widgets.widget")
    shown = shell.display_formatter
    left = {
        "threads": [thread.name for thread in threading.enumerate() if "tidb_magic" in thread.name],
        "sockets": [one.raddr.port for one in psutil.Process().net_connections("tcp")
                    if one.raddr and one.raddr.port in PORTS],
        "magics": [name for kind in shell.magics_manager.magics.values() for name in kind if "tidb" in name],
        "registry": [name for name in shell.magics_manager.registry if "Tidb" in name],
        "configurables": [type(one).__name__ for one in shell.configurables if "idb" in type(one).__name__],
        "matchers": [repr(one) for one in shell.Completer.custom_matchers if "tidb_magic" in str(vars(one))],
        "widgets": [repr(one) for one in (made._instances if made else {}).values()
                    if type(one).__module__ == "tidb_magic.widget.table"],
        "formatters": [str(name) for form in (*shown.formatters.values(), shown.ipython_display_formatter)
                       for name in (*form.deferred_printers, *form.type_printers) if "tidb_magic" in str(name)],
        "events": [repr(one) for kind in shell.events.callbacks.values() for one in kind if "tidb_magic" in repr(one)],
        "hooks": [kind for kind in ("custom_exceptions",) if "tidb_magic" in repr(getattr(shell, kind, ""))],
    }
    return json.dumps({name: found for name, found in left.items() if found})
"""
NOTHING: dict[str, Any] = {}


def counted(kernel: Kernel) -> dict[str, Any]:  # noqa: F811
    return dict(json.loads(text(kernel.run("print(count())"))))


def test_unloading_and_reloading_leave_nothing_behind(kernel: Kernel, playground: Playground) -> None:  # noqa: F811
    kernel.run(f"PORTS = {[playground.port(at) for at in range(3)]}\n{COUNT}")
    assert counted(kernel) == NOTHING
    for load in ("%load_ext tidb_magic", "%reload_ext tidb_magic", "%load_ext tidb_magic"):
        kernel.run(load)
        loaded = counted(kernel)
        assert loaded.pop("magics") == ["tidb_connect", "tidb_ps", "tidb_kill", "tidb_kill", "tidb_limit"]
        assert list(loaded) == ["threads", "registry", "configurables", "matchers", "formatters", "events"]
        assert [len(loaded[name]) for name in ("registry", "configurables", "matchers")] == [1, 1, 1]
        kernel.run(f"%tidb_connect {playground.url(0)} --alias one")
        kernel.run(f"%tidb_connect {playground.url(1)}")
        with Client(playground, 2) as client:
            client.start(LONG_SELECT.format("loading"))
            kernel.run("%tidb_ps")  # shows itself as a table
            kernel.run("live = %tidb_ps --live 0.1\nlive")
            kernel.run(f"%tidb_kill QUERY {client.id}")  # a connection to another instance
        used = counted(kernel)
        assert {"threads", "sockets", "widgets", "events"} <= used.keys()
        kernel.run("%unload_ext tidb_magic")
        assert counted(kernel) == NOTHING


def test_unloading_while_an_instance_is_silent_leaves_no_thread(kernel: Kernel, healed: Playground) -> None:  # noqa: F811
    kernel.run(f"PORTS = {[healed.port(at) for at in range(3)]}\n{COUNT}")
    kernel.run(f"%load_ext tidb_magic\n%tidb_connect {healed.url(0)}\n%config TidbMagics.deadline = 0.5")
    healed.freeze(2)
    assert "NOT COMPLETE" in text(kernel.run("print(repr(get_ipython().run_line_magic('tidb_ps', '')))"))
    assert "tidb_magic_look_after" in counted(kernel)["threads"]
    kernel.run("%unload_ext tidb_magic")
    assert counted(kernel) == NOTHING


def test_in_a_terminal_unloading_leaves_nothing_behind(playground: Playground, tmp_path: Path) -> None:
    cells = [
        f"PORTS = {[playground.port(at) for at in range(3)]}\n{COUNT}",
        "%load_ext tidb_magic",
        f"%tidb_connect {playground.url(0)}",
        "%tidb_ps",
        "%unload_ext tidb_magic",
        "print('left:', count())",
    ]
    code = "".join(f"get_ipython().run_cell({cell!r})\n" for cell in cells)
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert "Complete: every registered instance answered." in done.stdout, done.stdout + done.stderr
    assert "left: {}" in done.stdout


def test_a_script_needs_no_ipython_shell(playground: Playground) -> None:
    code = (
        "import sys, tidb_magic\n"
        f"with tidb_magic.connect({playground.url(0)!r}) as cluster:\n"
        "    print(cluster.processlist(idle=True))\n"
        "    print(cluster.plan([12345678])['OUTCOME'].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert "Complete: every registered instance answered." in done.stdout, done.stderr
    assert "['already gone']" in done.stdout
    assert done.stderr == ""


def test_marimo_uses_the_python_calls(playground: Playground, tmp_path: Path) -> None:
    notebook = tmp_path / "sessions.py"
    notebook.write_text(
        "import marimo\n"
        "app = marimo.App()\n"
        "@app.cell\n"
        "def _():\n"
        "    import tidb_magic\n"
        f"    cluster = tidb_magic.connect({playground.url(0)!r})\n"
        "    listed = cluster.processlist(idle=True)\n"
        "    listed\n"
        "    return cluster, listed\n"
        "_, names = app.run()\n"
        "print(names['listed'])\n"
        "names['cluster'].close()\n"
    )
    done = subprocess.run([sys.executable, str(notebook)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Complete: every registered instance answered." in done.stdout, done.stderr
