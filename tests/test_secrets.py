"""A password that is planted in every source appears nowhere: not in what is shown, saved, logged or pickled."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.clients import Client
from tests.connection.test_sources import PLANTED, URL, _dot_env, _my_cnf, _section
from tidb_magic.playground import Playground

# Where it stands is read from the environment, so that no cell holds it.
PREPARE = """
import logging, os, pickle, traceback
logging.basicConfig(filename="all.log", level=logging.DEBUG, force=True)
logging.debug("everything is logged from here on, if only somebody logs something: " + "." * 50)
%logstart -o -r -t all_cells.py
%xmode Verbose
%load_ext tidb_magic
%config TidbMagics.audit_file = "kills.jsonl"
%config TidbMagics.audit_sql = True
import keyring, keyring.backend, pymysql, sqlalchemy, tidb_magic
import sql.connection
from sql.connection import ConnectionManager

class Ring(keyring.backend.KeyringBackend):
    priority = 1
    def get_password(self, service, username):
        return os.environ["PLANTED"]
    def set_password(self, *_):
        pass

RING = Ring()
LIBRARY = os.path.dirname(tidb_magic.__file__)

def ours(error):
    frames = error.__traceback__
    while frames and not frames.tb_frame.f_code.co_filename.startswith(LIBRARY):
        frames = frames.tb_next
    return "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())

ANEW = None

def attempt(line, number=[0]):
    number[0] += 1
    if line is ANEW:  # with something connected, nothing is looked for
        while get_ipython().find_magic("tidb_connect").__self__.clusters:
            get_ipython().run_line_magic("tidb_connect", "--close")
        line = ""
    try:
        cluster = get_ipython().run_line_magic("tidb_connect", line)
    except BaseException as error:
        with open(f"traceback-{number[0]}.txt", "w") as out:
            out.write(ours(error))
        return f"not connected: {error}"
    listed = cluster.processlist(idle=True)
    forest = cluster.locks()
    report = cluster.plan([12345678], reason="a test")
    with open(f"state-{number[0]}.txt", "w") as out:
        for one in (cluster, cluster._pool, cluster._pool._main, cluster._pool._main._driver, cluster._pool.settings):
            out.write(repr(one) + repr(getattr(one, "__dict__", "")) + chr(10))
        out.write(repr(listed.__dict__) + repr(report.__dict__) + repr(forest.__dict__) + repr(cluster.state))
    for name, one in (("list", listed), ("frame", forest.frame), ("report", report), ("history", cluster.history())):
        with open(f"{name}-{number[0]}.pickle", "wb") as out:
            pickle.dump(one, out)
    for one in (cluster, cluster._pool, cluster._pool.settings, cluster._pool._main):
        try:
            with open(f"never-{number[0]}.pickle", "wb") as out:
                pickle.dump(one, out)
        except (TypeError, pickle.PicklingError):
            pass
    return repr(cluster)

def where(port):
    return os.environ["PLANTED_URL"].format(port=port)
"""
# A source each: what makes it, and what is typed.
SOURCES = {
    "url": ("keyring.set_keyring(RING)", "'mysql://joe@127.0.0.1:<PORT>'"),
    "typed": ("", "where(<PORT>)"),
    "variable": ("there = where(<PORT>)", "'there'"),
    "engine": ("engine = sqlalchemy.create_engine(where(<PORT>))", "'engine'"),
    "sqlalchemy url": ("there = sqlalchemy.make_url(where(<PORT>))", "'there'"),
    "pymysql": (
        (
            "there = pymysql.connect(host='127.0.0.1', port=<OPEN>, user='joe', password=os.environ['PLANTED'])\n"
            "there.port = <PORT>"
        ),
        "'there'",
    ),
    "jupysql": (
        "class Current: _connection = sqlalchemy.create_engine(where(<PORT>))\nConnectionManager.current = Current()",
        "'sql'",
    ),
    "section": ("", "'--section prod'"),
    "option file": ("", "'--defaults-file my.cnf'"),
    "DATABASE_URL": ("os.environ['DATABASE_URL'] = where(<PORT>)", "ANEW"),
    "TIDB_MAGIC_URL": ("os.environ['TIDB_MAGIC_URL'] = where(<PORT>)", "ANEW"),
    ".env": (
        "os.environ |= {'TIDB_PORT': '<PORT>', 'DATABASE_URL': '', 'TIDB_MAGIC_URL': ''}",
        "ANEW",
    ),
}
IN_FILES = {"section", "option file"}
CLOSED = 9  # nobody listens there


def cells(port: int, opened: int, *, besides: set[str]) -> list[str]:
    chosen = [one for name, one in SOURCES.items() if name not in besides]
    made = [code for prepare, typed in chosen for code in (prepare, f"print(attempt({typed}))")]
    return [code.replace("<PORT>", str(port)).replace("<OPEN>", str(opened)) for code in made]


def test_a_password_planted_in_every_source_appears_nowhere(
    playground: Playground, users: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = playground.port(1)
    home = tmp_path / "home"
    home.mkdir()
    _section(home, port)
    _my_cnf(home / "my.cnf", port, "tidb_magic")
    _dot_env(home / ".env", port)
    sources = {home / "my.cnf", home / ".env", home / ".jupysql" / "connections.ini"}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("TIDB_", "DATABASE_"))},
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "PLANTED": PLANTED,
        "PLANTED_URL": URL,
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    with Client(playground, 0, "joe", password=PLANTED) as victim:
        notebook = nbformat.v4.new_notebook()
        work = [
            PREPARE,
            *cells(port, port, besides=set()),
            "%tidb_connect --list",
            "%tidb_connect",
            "%tidb_ps --idle",
            "%tidb_ps --instances",
            "%tidb_ps --locks",
            f"%tidb_kill {victim.id} --reason test",
            "%tidb_ps --history",
            "import gc\nprint([one.get_state() for one in gc.get_objects() if type(one).__name__ == 'SessionTable'])",
            "%config TidbMagics",
            "%tidb_connect mysql://joe@127.0.0.1:port",
            *cells(CLOSED, port, besides=IN_FILES),
            "%history -f history.txt",
        ]
        notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in work]
        client = NotebookClient(
            notebook,
            timeout=300,
            allow_errors=True,
            store_widget_state=True,
            resources={"metadata": {"path": str(home)}},
        )
        client.execute(env=environment)
    saved = home / "saved.ipynb"
    nbformat.write(notebook, saved)
    convert = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", str(saved)]
    subprocess.run(convert, check=True, capture_output=True)
    (home / "stderr.txt").write_text("".join(capfd.readouterr()))

    said = "\n".join(one["text"] for cell in notebook.cells for one in cell.outputs if "text" in one)
    assert said.count("<Cluster joe@127.0.0.1:") == len(SOURCES), said
    assert said.count("not connected: Cannot reach joe@127.0.0.1:9") == len(SOURCES) - len(IN_FILES), said
    for name in ("saved.ipynb", "saved.html", "kills.jsonl", "all.log", "all_cells.py", "list-1.pickle", "state-1.txt"):
        assert (home / name).stat().st_size > 100, name
    assert "widget-state" in json.dumps(notebook.metadata)
    assert "%tidb_kill" in (home / "history.txt").read_text()
    hidden = PLANTED.encode()
    forms = (hidden, hidden.hex().encode(), base64.b64encode(hidden).rstrip(b"="), PLANTED.encode("utf-16-le"))
    found = {
        str(file.relative_to(home))
        for file in home.rglob("*")
        if file.is_file() and file not in sources and any(form in file.read_bytes() for form in forms)
    }
    assert found == set()
