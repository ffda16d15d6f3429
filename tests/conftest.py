"""A real cluster for the tests, and the rule that nothing is skipped."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython
from playwright.sync_api import Browser, sync_playwright

import tidb_magic
from tests.clients import ROWS, Client, eventually
from tests.lab import launch
from tidb_magic import Cluster
from tidb_magic.connection import Connection
from tidb_magic.playground import Playground

# A shell starts its background jobs with Ctrl-C ignored, and what it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure: what a test needs is installed, or the test fails."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {call.excinfo}"
    return report


def furnish(playground: Playground) -> Playground:
    """Make the table of the long SELECTs."""
    with Client(playground) as root:
        root.query("CREATE TABLE IF NOT EXISTS test.numbers (n INT PRIMARY KEY)")
        root.query(f"INSERT IGNORE INTO test.numbers VALUES {', '.join(f'({n})' for n in range(ROWS))}")
    return playground


@pytest.fixture(scope="session")
def playground() -> Iterator[Playground]:
    """Three instances, as TiDB comes: global kill on, 32-bit ids."""
    with Playground(instances=3) as started:
        yield furnish(started)


@pytest.fixture(scope="session")
def ids64() -> Iterator[Playground]:
    """Three instances with 64-bit connection ids."""
    with Playground(instances=3, connection_ids=64) as started:
        yield furnish(started)


@pytest.fixture(scope="session")
def no_global_kill() -> Iterator[Playground]:
    """Three instances without global kill, and with the setting that TiDB's documentation warns of."""
    with Playground(instances=3, global_kill=False, compatible_kill_query=True) as started:
        yield furnish(started)


@pytest.fixture(scope="session")
def fragile() -> Iterator[Playground]:
    """Three instances to freeze and crash."""
    with Playground(instances=3) as started:
        yield furnish(started)


@pytest.fixture
def healed(fragile: Playground) -> Iterator[Playground]:
    """The same, and everything runs again afterwards."""
    yield fragile
    for at, server in enumerate(("tidb-0", "tidb-1", "tidb-2")):
        match fragile.status()[server]:
            case "frozen":
                fragile.resume(at)
            case "stopped":
                fragile.restart(at)
    if fragile.status()["pd"] == "frozen":
        fragile.resume("pd")
    with tidb_magic.connect(fragile.url(0)) as after:
        eventually(lambda: after.processlist().complete and not after._link.trouble)


@pytest.fixture
def cluster(playground: Playground) -> Iterator[Cluster]:
    """A cluster connected through the first instance."""
    with tidb_magic.connect(playground.url(0)) as connected:
        yield connected


@pytest.fixture(scope="module")  # Playwright's event loop runs as long, and no other may meanwhile
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


@pytest.fixture
def every_statement(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by every statement that any connection of tidb_magic sends from now on."""
    asked: list[str] = []
    run = Connection._run

    def noted(self: Connection, sql: str, args: Any) -> Any:
        asked.append(sql)
        return run(self, sql, args)

    monkeypatch.setattr(Connection, "_run", noted)
    return asked


@pytest.fixture
def recorded() -> Any:
    """What a real server of another version answered: ``recorded("6.5", "cluster_processlist")``."""

    def find(version: str, words: str) -> dict[str, Any]:
        answers = json.loads((Path(__file__).parent / "recorded" / f"tidb-{version}.json").read_text())
        return next(answer for answer in answers if words in answer["sql"])

    return find


@pytest.fixture
def users(playground: Playground) -> dict[str, str]:
    """Users with a password: joe without rights, monitor with PROCESS, oncall with CONNECTION_ADMIN."""
    password = "planted-s3cret"
    with Client(playground) as root:
        for user, right in (("joe", None), ("monitor", "PROCESS"), ("oncall", "CONNECTION_ADMIN")):
            root.query(f"CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}'")
            root.query(f"GRANT SELECT ON test.* TO '{user}'@'%'")
            if right:
                root.query(f"GRANT {right} ON *.* TO '{user}'@'%'")
    return dict.fromkeys(("joe", "monitor", "oncall"), password)


@pytest.fixture
def running(playground: Playground) -> Any:
    """Return a function that waits until the cluster's list shows a statement of this client."""

    def wait(client: Client, *, on: Playground = playground) -> Client:
        with Client(on) as root:
            eventually(
                lambda: root.query(
                    "SELECT 1 FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST"
                    f" WHERE ID = {client.id} AND INSTANCE = '{client.instance}' AND INFO IS NOT NULL"
                )
            )
        return client

    return wait


@pytest.fixture(scope="session")
def session_shell() -> InteractiveShell:
    started = start_ipython()
    assert isinstance(started, InteractiveShell)
    return started


@pytest.fixture
def shell(session_shell: InteractiveShell) -> Iterator[InteractiveShell]:
    session_shell.config.pop("TidbMagics", None)  # what %config set stays for the next loading
    session_shell.run_line_magic("load_ext", "tidb_magic")
    yield session_shell
    session_shell.run_line_magic("unload_ext", "tidb_magic")
    session_shell.reset()


@pytest.fixture
def connected(shell: InteractiveShell, playground: Playground) -> InteractiveShell:
    shell.run_line_magic("tidb_connect", playground.url(0))
    return shell
