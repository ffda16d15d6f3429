"""Stop means stop: what an interrupted cell leaves running is ended in the cluster, and nothing else."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
import sqlalchemy
from IPython.core.interactiveshell import InteractiveShell
from mysql.connector import MySQLConnection
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from benchmarks.stop_matrix import PATHS, ROWS, drivers, matrix
from tests.balancer import Balancer
from tests.clients import LONG_SELECT, Client, eventually
from tests.connection.test_connection import other_server  # noqa: F401 (a fixture)
from tests.kernels import Kernel, running_kernel, text
from tidb_magic.connection.client_sessions import CLIENT_SESSIONS
from tidb_magic.errors import OptionError
from tidb_magic.playground import Playground
from tidb_magic.queries import query
from tidb_magic.sessions.filters import Filters
from tidb_magic.stop.interrupts import Stop

STATEMENT = "SELECT SUM(SLEEP(0.05)), 'of a cell' FROM test.numbers"  # jupysql leaves comments out
CHANGE = "UPDATE test.numbers SET n = 100044 WHERE n = 44"
LINE = re.compile(
    r"Interrupted: your statement on connection (\d+) \((\S+)\) was still running; its session was ended"
    r" \(\d+\.\d\d s(; rolled back .*)?\)\. It had run for \d+ s\."
)
ASYNC = """from sqlalchemy.ext.asyncio import create_async_engine
engine = create_async_engine(url.replace('pymysql', {!r}))"""
IN_C = """url = url.replace('pymysql', 'mysqlconnector')
c = sqlalchemy.create_engine(url, connect_args={'use_pure': False}).connect()"""
LATE = "Interrupted: what your cell left running is still being ended; the next cell says the outcome.\n"
# How a cell waits for TiDB: what is run before, and the cell.
CELLS = {
    "a cursor of PyMySQL": ("db = pymysql.connect(**where)", "db.cursor().execute(STATEMENT)"),
    "a transaction that holds a lock": (
        "db = pymysql.connect(**where); c = db.cursor(); c.execute('BEGIN'); _ = c.execute(CHANGE)",
        "c.execute(STATEMENT)",
    ),
    "a cursor that does not fetch at once": (
        "db = pymysql.connect(**where, cursorclass=pymysql.cursors.SSCursor)",
        "db.cursor().execute(STATEMENT)",
    ),
    "a driver that has not begun to read the answer": (
        "import time\ndb = pymysql.connect(**where)",
        "db._read_query_result = lambda *_, **__: time.sleep(300)\ndb.cursor().execute(STATEMENT)",
    ),
    "pandas and SQLAlchemy": (
        "engine = sqlalchemy.create_engine(url)",
        "pd.read_sql(sqlalchemy.text(STATEMENT), engine)",
    ),
    "polars and SQLAlchemy": (
        "import polars\nengine = sqlalchemy.create_engine(url)",
        "polars.read_database(STATEMENT, engine.connect())",
    ),
    "jupysql": (
        "%reload_ext sql\nengine = sqlalchemy.create_engine(url)\n%sql engine",
        "%sql {{STATEMENT}}",
    ),
    "mysql-connector in Python": (
        "engine = sqlalchemy.create_engine(url.replace('pymysql', 'mysqlconnector'), connect_args={'use_pure': True})",
        "pd.read_sql(sqlalchemy.text(STATEMENT), engine)",
    ),
    "asyncmy": (
        ASYNC.format("asyncmy"),
        "async with engine.connect() as c:\n    await c.execute(sqlalchemy.text(STATEMENT))",
    ),
    "aiomysql": (
        ASYNC.format("aiomysql"),
        "async with engine.connect() as c:\n    await c.execute(sqlalchemy.text(STATEMENT))",
    ),
    "a library that catches the exception": (
        "db = pymysql.connect(**where)",
        "try: db.cursor().execute(STATEMENT)\nexcept BaseException: pass",
    ),
}


def records() -> list[Path]:
    """Return the records of kernels."""
    return list(Path(os.environ["IPYTHONDIR"]).glob("*/pid/tidb_magic-*"))


class Notebook:
    """A kernel in which cells wait for a cluster."""

    def __init__(self, kernel: Kernel, playground: Playground) -> None:
        self.kernel, self.playground = kernel, playground

    def ready(self, port: int, *first: str) -> None:
        """Run what the cells need."""
        where = {"host": "127.0.0.1", "port": port, "user": "root"}
        url = f"mysql+pymysql://root@127.0.0.1:{port}"
        given = f"where, url, STATEMENT, CHANGE = {where!r}, {url!r}, {STATEMENT!r}, {CHANGE!r}"
        for code in ("import pymysql, sqlalchemy\nimport pandas as pd", given, *first):
            outputs = self.kernel.run(code)
            assert not outputs, text(outputs)

    def stop(self, code: str, then: Callable[[], object] = lambda: None) -> str:
        """Run a cell, press Stop when its statement runs, and return what the cell printed."""
        return self.kernel.stop(code, lambda: (eventually(self.running), then())).printed

    def running(self) -> list[tuple[Any, ...]]:
        """Return INSTANCE and ID of the statements of cells, seen on each instance."""
        found = []
        for instance in range(3):
            with Client(self.playground, instance) as root:
                # This text must not find itself: a session can be listed for a moment after its answer.
                rows = root.query(
                    "SELECT ID FROM INFORMATION_SCHEMA.PROCESSLIST WHERE INFO LIKE CONCAT('%of a ', 'cell%')"
                )
                found += [(self.playground.status_address(instance), number) for (number,) in rows]
        return found


@pytest.fixture(scope="module")
def one_kernel() -> Iterator[Kernel]:
    with running_kernel() as one:
        yield one


@pytest.fixture
def kernel(one_kernel: Kernel) -> Iterator[Kernel]:
    yield one_kernel
    end = "%config TidbMagics.stop = 'end'"  # the shell keeps it for the extension that is loaded next
    one_kernel.run(f"%load_ext tidb_magic\n{end}\n%unload_ext tidb_magic\n%reset -f")


@pytest.fixture
def notebook(kernel: Kernel, playground: Playground) -> Iterator[Notebook]:
    made = Notebook(kernel, playground)
    yield made
    for _, number in made.running():
        with Client(playground, 0) as root:
            root.query(f"KILL TIDB CONNECTION {number}")
    eventually(lambda: not made.running())


@pytest.mark.parametrize(
    ("kind", "loaded"),
    [
        *((kind, "before the connection") for kind in CELLS),
        *((kind, "after it") for kind in ("a cursor of PyMySQL", "pandas and SQLAlchemy", "asyncmy")),
    ],
)
def test_the_statement_of_an_interrupted_cell_is_ended_and_nothing_else(
    notebook: Notebook, playground: Playground, kind: str, loaded: str
) -> None:
    made, cell = CELLS[kind]
    load = "%load_ext tidb_magic"
    notebook.ready(playground.port(1), *([load, made] if loaded == "before the connection" else [made, load]))
    if "sqlalchemy" in made and loaded == "after it":
        notebook.kernel.run("engine.connect().close()")
    with ExitStack() as stack:
        others = [stack.enter_context(Client(playground, number % 3)) for number in range(12)]
        ((instance, number),) = _stopped(notebook, cell)
        assert instance == playground.status_address(1)
        with Client(playground, 1) as root:
            gone = f"SELECT 1 FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {number}"
            assert root.query(gone) == ()
        assert all(other.alive() for other in others)
        if "lock" in kind:
            with Client(playground, 0) as waits:
                waits.query("SET innodb_lock_wait_timeout = 30")
                waits.query("UPDATE test.numbers SET n = 44 WHERE n = 44")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_stop_with_every_driver_in_every_situation_by_each_path(playground: Playground, path: str) -> None:
    assert [cell for cell in matrix(playground, path, drivers()) if cell.wrong] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_stop_with_every_driver_in_every_situation_without_global_kill(no_global_kill: Playground, path: str) -> None:
    assert [cell for cell in matrix(no_global_kill, path, drivers()) if cell.wrong] == []


def _stopped(notebook: Notebook, cell: str) -> list[tuple[str, int]]:
    """Interrupt a cell, and return INSTANCE and ID of the statement that was ended."""
    found: list[Any] = []
    printed = notebook.stop(cell, lambda: found.extend(notebook.running()))
    if printed == LATE:  # the machine does other work: the prompt came back first
        printed = eventually(lambda: text(notebook.kernel.run("pass")))
    assert LINE.fullmatch(printed.strip()), printed
    assert notebook.running() == []
    line = LINE.search(printed)
    assert line
    assert [(line[2], int(line[1]))] == found
    return found


def test_the_statements_of_threads_that_an_interrupted_cell_waits_for_are_ended(
    notebook: Notebook, playground: Playground
) -> None:
    """Otherwise the cell waits for them. The connection of a thread that was there before is not touched."""
    notebook.ready(
        playground.port(1),
        "%load_ext tidb_magic",
        "import threading\nfrom concurrent.futures import ThreadPoolExecutor",
        "db, one, two = (pymysql.connect(**where) for _ in range(3))",
        "t = threading.Thread(target=lambda: db.cursor().execute(STATEMENT), daemon=True); t.start()",
    )
    ((_, before),) = eventually(notebook.running)
    pool = (
        "with ThreadPoolExecutor(2) as pool:\n    list(pool.map(lambda c: c.cursor().execute(STATEMENT), [one, two]))"
    )
    printed = notebook.stop(pool, lambda: eventually(lambda: len(notebook.running()) == 3))
    line = r"Interrupted: .*; it was ended \(\d+\.\d\d s\)\. It had run for \d+ s\."
    assert [bool(re.fullmatch(line, one)) for one in printed.splitlines()] == [True, True], printed
    assert [number for _, number in notebook.running()] == [before]
    assert not notebook.kernel.run("one.ping(reconnect=False); two.ping(reconnect=False)")


def test_a_driver_that_waits_in_c_is_interrupted_by_the_end_of_its_statement(playground: Playground) -> None:
    """Python hears of Stop when the driver returns: without tidb_magic that is when the statement has ended."""
    with running_kernel() as kernel:
        kernel.run("import mysql.connector")  # after pyarrow there is no room for the C library on some machines
        notebook = Notebook(kernel, playground)
        notebook.ready(
            playground.port(1),
            "%load_ext tidb_magic",
            IN_C,
        )
        printed = notebook.stop("c.exec_driver_sql(STATEMENT)")
        line = r"Interrupted: .* was still running; it was ended \(\d+\.\d\d s\)\. It had run for \d+ s\."
        assert re.fullmatch(line, printed.strip()), printed
        assert notebook.running() == []
        assert "[(1,)]" in text(kernel.run("c.rollback(); c.exec_driver_sql('SELECT 1').fetchall()"))


@pytest.mark.parametrize(
    ("made", "cell"),
    [
        (
            "db = pymysql.connect(**where, cursorclass=pymysql.cursors.SSCursor); c = db.cursor()\nimport time",
            "c.execute(ROWS)\nfor row in c: time.sleep(300)",
        ),
        (IN_C, "c.exec_driver_sql(ROWS).fetchall()"),
    ],
    ids=["PyMySQL, while the cell works with them", "mysql-connector in C, while they are read"],
)
def test_the_rows_of_a_statement_are_not_all_read_when_its_cell_is_interrupted(
    playground: Playground, made: str, cell: str
) -> None:
    """As these drivers would, when their cursor is closed or they are interrupted."""
    with running_kernel() as kernel:
        kernel.run("import mysql.connector")
        notebook = Notebook(kernel, playground)
        notebook.ready(playground.port(1), f"%load_ext tidb_magic\nROWS = {ROWS!r}", made)
        stopped = kernel.stop(cell, lambda: eventually(notebook.running))
        assert stopped.presses == 1
        assert notebook.running() == []


def test_nothing_is_sent_when_a_cell_is_interrupted_that_runs_no_sql(
    notebook: Notebook, playground: Playground, tmp_path: Path
) -> None:
    began = tmp_path / "began"
    with Balancer([playground.port(1)]) as balancer:
        notebook.ready(
            balancer.port,
            "%load_ext tidb_magic",
            "import pathlib, time",
            "db = pymysql.connect(**where)",
            "magics = get_ipython().magics_manager.registry['TidbMagics']",
            "for one in magics.stopping._statements._clusters.values(): _ = one.result()",
        )
        sent = len(balancer.passed)
        assert sent
        cell = f"pathlib.Path({str(began)!r}).touch(); time.sleep(300)"
        assert notebook.kernel.stop(cell, lambda: eventually(began.exists)).printed == ""
        assert len(balancer.passed) == sent


def test_through_a_balancer_the_right_one_is_ended(notebook: Notebook, playground: Playground) -> None:
    with Balancer([playground.port(instance) for instance in range(3)]) as balancer:
        notebook.ready(balancer.port, "%load_ext tidb_magic")
        for _ in range(4):
            assert not notebook.kernel.run("db = pymysql.connect(**where)")
            _stopped(notebook, "db.cursor().execute(STATEMENT)")


def test_without_global_kill_the_right_one_of_two_with_the_same_id_is_ended(
    kernel: Kernel, no_global_kill: Playground
) -> None:
    notebook = Notebook(kernel, no_global_kill)
    notebook.ready(no_global_kill.port(1), "%load_ext tidb_magic")
    with ExitStack() as stack:
        other, number = stack.enter_context(Client(no_global_kill, 0)), 0
        while other.id != number:
            if other.id < number:
                other = stack.enter_context(Client(no_global_kill, 0))
            else:
                number = _connected(kernel)
        other.start(LONG_SELECT.format("of another session"))
        runs = f"SELECT 1 FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {number} AND INFO LIKE '%of another session%'"
        with Client(no_global_kill, 0) as root:
            eventually(lambda: root.query(runs))
            _stopped(notebook, "c.execute(STATEMENT)")
            assert root.query(runs) == ((1,),)


def _connected(kernel: Kernel) -> int:
    """Open a connection in a kernel, and return its ID."""
    code = "db = pymysql.connect(**where); c = db.cursor(); c.execute('SELECT CONNECTION_ID()'); c.fetchone()[0]"
    (shown,) = kernel.run(code)
    return int(shown["data"]["text/plain"])


def test_ask_says_what_still_runs_and_off_says_nothing(notebook: Notebook, playground: Playground) -> None:
    notebook.ready(playground.port(2), "%load_ext tidb_magic")
    for mode, said in (
        ("ask", r"Interrupted: your statement on .* It had run for \d+ s\. To end it: %tidb_kill (\d+)"),
        ("off", ""),
    ):
        notebook.kernel.run(f"%config TidbMagics.stop = {mode!r}\ndb = pymysql.connect(**where)")
        printed = notebook.stop("db.cursor().execute(STATEMENT)").strip()
        assert re.fullmatch(said, printed), printed
        ((_, number),) = notebook.running()
        with Client(playground, 2) as root:
            root.query(f"KILL TIDB CONNECTION {number}")
        eventually(lambda: not notebook.running())


def test_mine_is_what_the_connections_of_this_kernel_run(notebook: Notebook, playground: Playground) -> None:
    thread = "threading.Thread(target=lambda: db.cursor().execute(STATEMENT), daemon=True)"
    notebook.ready(playground.port(2), "%load_ext tidb_magic", "db = pymysql.connect(**where)", "import threading")
    run = notebook.kernel.run
    run(f"%tidb_connect {playground.url(0)}")
    with Client(playground, 2) as other:
        other.start(STATEMENT)
        eventually(lambda: len(notebook.running()) == 1)
        run(f"t = {thread}; t.start()")
        eventually(lambda: len(notebook.running()) == 2)
        ((_, mine),) = [one for one in notebook.running() if one[1] != other.id]
        assert f"[{mine}]" in text(run("listed = %tidb_ps --mine\nlisted['ID'].tolist()"))
        planned = text(run("%tidb_kill QUERY --mine"))
        assert "1 planned" in planned
        assert "1 interrupted" in text(run("%tidb_kill QUERY --mine --yes"))
        assert [number for _, number in notebook.running()] == [other.id]


def test_where_no_connection_is_noted_mine_is_refused() -> None:
    with pytest.raises(OptionError, match=r"known from %load_ext tidb_magic on"):
        Filters(mine=True)


@pytest.mark.parametrize(
    ("first", "cell", "end"),
    [
        ((), "db.cursor().execute(STATEMENT)", "shutdown"),
        ((), "db.cursor().execute(STATEMENT)", "restart"),
        ((), "db.cursor().execute(STATEMENT)", "SIGTERM"),
        (
            ("import threading",),
            "threading.Thread(target=lambda: db.cursor().execute(STATEMENT), daemon=True).start()",
            "shutdown",
        ),
        ((IN_C,), "c.exec_driver_sql(STATEMENT)", "shutdown"),
        ((IN_C,), "c.exec_driver_sql(STATEMENT)", "SIGTERM"),
    ],
)
def test_what_a_kernel_runs_when_it_is_shut_down_is_ended(
    playground: Playground, first: tuple[str, ...], cell: str, end: str
) -> None:
    """Otherwise it would run on: TiDB does not notice that the client has left."""
    with running_kernel() as kernel:
        kernel.run("import mysql.connector")
        notebook = Notebook(kernel, playground)
        notebook.ready(playground.port(1), "%load_ext tidb_magic", "db = pymysql.connect(**where)", *first)
        kernel.client.execute(cell)
        eventually(notebook.running)
        if end == "SIGTERM":
            kernel.manager.signal_kernel(signal.SIGTERM)
            eventually(lambda: not kernel.manager.is_alive())
        else:
            (kernel.manager.shutdown_kernel if end == "shutdown" else kernel.manager.restart_kernel)()
        assert notebook.running() == []


def test_what_a_kernel_left_that_was_ended_by_force_is_said_listed_and_ended(
    notebook: Notebook, playground: Playground
) -> None:
    with running_kernel() as lost:
        Notebook(lost, playground).ready(playground.port(1), "%load_ext tidb_magic", "db = pymysql.connect(**where)")
        lost.client.execute("db.cursor().execute(STATEMENT)")
        ((_, left),) = eventually(notebook.running)
        lost.manager.signal_kernel(signal.SIGKILL)
        eventually(lambda: not lost.manager.is_alive())
        run = notebook.kernel.run
        address = f"root@127.0.0.1:{playground.port(1)}"
        assert text(run("%load_ext tidb_magic")) == (
            f"A kernel that was ended by force had a connection to {address}: a statement there may still run."
            " To list it: %tidb_ps --orphans\n"
        )
        run(f"%tidb_connect {playground.url(1)}")
        assert f"[{left}]" in text(run("listed = %tidb_ps --orphans\nlisted['ID'].tolist()"))
        assert [number for _, number in notebook.running()] == [left]  # nothing is ended without being asked for
        assert "1 killed" in text(run("%tidb_kill --orphans --yes"))
        assert "[]" in text(run("listed = %tidb_ps --orphans\nlisted['ID'].tolist()"))
        assert text(run("%reload_ext tidb_magic")) == ""


def test_the_record_of_a_kernel_that_runs_is_no_orphan(notebook: Notebook, playground: Playground) -> None:
    load = "%load_ext tidb_magic"
    with running_kernel() as other:
        before = records()
        Notebook(other, playground).ready(playground.port(1), load, "db = pymysql.connect(**where)")
        (record,) = set(records()) - set(before)
        assert text(notebook.kernel.run(load)) == ""
        assert f'"address": "root@127.0.0.1:{playground.port(1)}"' in record.read_text()
        assert "password" not in record.read_text()
        other.manager.shutdown_kernel()
        assert not record.exists()


def test_what_takes_longer_than_two_seconds_is_said_before_the_next_cell(kernel: Kernel, healed: Playground) -> None:
    notebook = Notebook(kernel, healed)
    notebook.ready(healed.port(2), "%load_ext tidb_magic", "db = pymysql.connect(**where)")
    printed = notebook.stop("db.cursor().execute(STATEMENT)", lambda: healed.freeze(2))
    assert printed == LATE
    healed.resume(2)
    line = eventually(lambda: text(kernel.run("pass")))
    assert LINE.fullmatch(line.strip()), line


def test_a_session_that_was_ended_at_the_interrupt_is_not_ended_again_after_the_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQLAlchemy drops it after that. If the traceback took long, Stop said that its end was not known."""
    session: Any = SimpleNamespace(id=5, host="10.0.0.1:5", drop=lambda: False, settings=SimpleNamespace(address="a"))
    monkeypatch.setattr(CLIENT_SESSIONS, "used_by", lambda _: [session])
    monkeypatch.setattr(CLIENT_SESSIONS, "left", lambda _: [session])
    said: list[str] = []
    stop = Stop(lambda: "end", said.append)
    monkeypatch.setattr(stop, "_before", lambda *_: None)
    monkeypatch.setattr(stop._statements, "end", lambda _, query: [f"ended, {query}"])
    stop._note(signal.SIGINT, None)
    stop.ends(KeyboardInterrupt())
    assert said == ["ended, False"]


def test_a_second_stop_lets_go_at_once(kernel: Kernel, healed: Playground) -> None:
    patience = "get_ipython().magics_manager.registry['TidbMagics'].stopping._patience = 300"
    notebook = Notebook(kernel, healed)
    notebook.ready(healed.port(2), f"%load_ext tidb_magic\n{patience}", "db = pymysql.connect(**where)")

    def freeze() -> None:
        eventually(notebook.running)
        healed.freeze(2)

    stopped = kernel.stop("db.cursor().execute(STATEMENT)", freeze)
    assert (stopped.printed, stopped.presses) == (LATE, 2)
    healed.resume(2)
    line = eventually(lambda: text(kernel.run("pass")))
    assert LINE.fullmatch(line.strip()), line


@pytest.mark.parametrize("mode", ["end", "off"])
def test_a_cell_that_reaches_its_limit_is_interrupted_and_its_statement_is_ended(
    notebook: Notebook, playground: Playground, mode: str
) -> None:
    run = notebook.kernel.run
    connect = "db = pymysql.connect(**where); c = db.cursor(); c.execute('BEGIN'); _ = c.execute(CHANGE)"
    notebook.ready(playground.port(1), f"%load_ext tidb_magic\n%config TidbMagics.stop = {mode!r}", connect)
    said = text(run("%%tidb_limit 0.5s\nc.execute(STATEMENT)"))
    assert "TimeLimitError: The cell reached its limit of 0.5 s and was interrupted." in said
    assert LINE.search(said)
    assert notebook.running() == []
    with Client(playground, 0) as waits:  # its transaction is rolled back
        waits.query("UPDATE test.numbers SET n = 44 WHERE n = 44")


def test_a_cell_within_its_limit_is_a_usual_cell(notebook: Notebook) -> None:
    run = notebook.kernel.run
    run("%load_ext tidb_magic")
    assert text(run("%%tidb_limit 1m\nn = 41\nimport os\n!true\nn + 1")) == "42"
    assert run("%%tidb_limit 1m\nn + 1;") == []
    assert "ZeroDivisionError" in text(run("%%tidb_limit 1m\n1 / 0"))
    assert "does not run asynchronous cells" in text(run("%%tidb_limit 1m\nimport asyncio\nawait asyncio.sleep(0)"))
    for wrong in ("", "0s", "-1", "soon", "1d"):
        assert "expected a time above 0, as 30s, 5m or 1h" in text(run(f"%%tidb_limit {wrong}\n1"))


def test_pandas_is_not_imported_where_an_interrupt_can_break_the_import(playground: Playground) -> None:
    """An import of numpy that KeyboardInterrupt ends cannot be repeated in the same process."""
    script = f"""
import sys, threading, pymysql, tidb_magic
class Finder:
    def find_spec(self, name, *_):
        if name == "pandas":
            print(threading.current_thread().name)
            found.set()
found = threading.Event()
sys.meta_path.insert(0, Finder())
with tidb_magic.stop_on_interrupt():
    with pymysql.connect(host="127.0.0.1", port={playground.port(1)}, user="root"):
        found.wait()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "tidb_magic-stop-connect\n"


def test_ctrl_c_ends_what_a_script_runs(notebook: Notebook, playground: Playground) -> None:
    script = f"""
import pymysql, tidb_magic
with tidb_magic.stop_on_interrupt():
    with pymysql.connect(host="127.0.0.1", port={playground.port(1)}, user="root") as db:
        db.cursor().execute({STATEMENT!r})
"""
    ran = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    ((_, number),) = eventually(notebook.running)
    ran.send_signal(signal.SIGINT)
    _, said = ran.communicate(timeout=60)
    assert notebook.running() == []
    assert f"Interrupted: your statement on connection {number}" in said
    assert LINE.search(said)
    assert "KeyboardInterrupt" in said
    assert ran.returncode == -signal.SIGINT


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What PyMySQL sends from now on."""
    sent: list[str] = []
    execute = pymysql.connections.Connection._execute_command  # type: ignore[attr-defined]

    def noted(self: Any, command: int, sql: Any) -> Any:
        sent.append(sql.decode() if isinstance(sql, bytes) else sql)
        return execute(self, command, sql)

    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", noted)
    return sent


def test_a_connection_costs_one_statement_and_a_query_none(
    session_shell: InteractiveShell, playground: Playground, sent: list[str]
) -> None:
    def connect() -> list[str]:
        del sent[:]
        with pymysql.connect(host="127.0.0.1", port=playground.port(0), user="root") as db:
            db.cursor().execute("SELECT 1")
        return [sql for sql in sent if "tidb_magic" not in sql]

    before = connect()
    session_shell.run_line_magic("load_ext", "tidb_magic")
    after = connect()
    session_shell.run_line_magic("unload_ext", "tidb_magic")
    after.remove(query("own_session"))
    assert after == before


def test_a_server_that_is_not_tidb_is_not_asked(shell: InteractiveShell, other_server: int, sent: list[str]) -> None:  # noqa: F811
    with pymysql.connect(host="127.0.0.1", port=other_server, user="root"):
        assert not [sql for sql in sent if "PROCESSLIST" in sql]
    assert CLIENT_SESSIONS.all() == []


def test_an_engine_for_a_server_that_is_not_tidb_is_asked_once(
    shell: InteractiveShell,
    other_server: int,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []
    ask = MySQLConnection.cmd_query

    def noted(self: MySQLConnection, sql: Any, *args: Any, **options: Any) -> Any:
        sent.append(sql.decode() if isinstance(sql, bytes) else sql)
        return ask(self, sql, *args, **options)

    monkeypatch.setattr(MySQLConnection, "cmd_query", noted)
    url = f"mysql+mysqlconnector://levon@127.0.0.1:{other_server}"
    engine = sqlalchemy.create_engine(url, connect_args={"use_pure": True}, poolclass=NullPool)
    for _ in range(3):
        with engine.connect():
            pass
    assert [sent.count(query(name)) for name in ("own_session", "version")] == [1, 2]  # one is SQLAlchemy's own
    assert CLIENT_SESSIONS.all() == []


def test_unload_puts_everything_back(session_shell: InteractiveShell) -> None:
    kind, callbacks = pymysql.connections.Connection, session_shell.events.callbacks
    listeners = (
        (sqlalchemy.Engine, "engine_connect", CLIENT_SESSIONS._taken),
        (sqlalchemy.pool.Pool, "invalidate", CLIENT_SESSIONS._invalidated),
        (sqlalchemy.pool.Pool, "close", CLIENT_SESSIONS._closed),
    )

    def put() -> list[object]:
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [kind.connect, kind.close, {name: list(them) for name, them in callbacks.items()}, *signals]

    before = put()
    session_shell.run_line_magic("load_ext", "tidb_magic")
    assert kind.connect is not before[0]
    assert [event.contains(*listener) for listener in listeners] == [True] * 3
    session_shell.run_line_magic("unload_ext", "tidb_magic")
    assert put() == before
    assert [event.contains(*listener) for listener in listeners] == [False] * 3
