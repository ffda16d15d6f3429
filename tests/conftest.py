"""A real cluster for the tests, and the rule that nothing is skipped."""

import base64
import fcntl
import gc
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from filelock import FileLock, Timeout
from hypothesis import HealthCheck, settings
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython
from playwright.sync_api import Browser, sync_playwright

import tidb_magic
from tests.clients import LONG, ROWS, Client, eventually, wait_for_right
from tests.lab import launch
from tidb_magic import Cluster
from tidb_magic.cluster import monitor
from tidb_magic.connection import cleanup
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE
from tidb_magic.playground import Playground, servers
from tidb_magic.playground.build import cache_folder
from tidb_magic.playground.records import Options

# A shell starts its background jobs with Ctrl-C ignored, and what it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# An example takes as long as a busy machine makes it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

TESTS = Path(__file__).parent
SHORT = 1.0  # seconds
USUAL_LOAD = 3  # processes that run at once, for each core, while the tests run alone
GROUPS = 3  # of the tests on the usual cluster, each of which starts one
# Groups that take longer than others with as many tests, the longest first: they start before the others.
LONGEST = ("fragile", "browser tests/widget/test_jupyterlab.py", "starts")
# A test that uses one of these fixtures needs a cluster.
CLUSTERS = ("fragile", "no_global_kill", "second_cluster", "sem", "with_tls", "analyzing", "ids64", "playground")


# The slow tests of each file that was collected.
SLOW = pytest.StashKey[dict[str, set[str]]]()


def busy() -> float:
    """Return how many times the usual number of processes waits for the processors of this machine."""
    return os.getloadavg()[0] / (USUAL_LOAD * (os.cpu_count() or 1))


def on_a_worker(config: pytest.Config) -> bool:
    """Tell whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def clusters_of(item: pytest.Item) -> list[str]:
    """Return the clusters that a test uses, by the names of their fixtures."""
    return [name for name in CLUSTERS if name in getattr(item, "fixturenames", ())]


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a cluster or a browser, and group the tests: one worker runs those of a group in turn.

    The tests of one cluster are one group, so that it is started once. The usual one has several groups of modules,
    each with about the same number of tests, and the browser one for each module.
    """
    usual: dict[str, list[pytest.Item]] = {}
    slow = config.stash.setdefault(SLOW, {})
    for item in items:
        file = str(item.path.relative_to(TESTS.parent))
        of_file = slow.setdefault(file, set())
        if item.get_closest_marker("slow"):
            of_file.add(item.name.partition("[")[0])
        needed = clusters_of(item)
        if needed:
            item.add_marker("cluster")
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
            needed.insert(0, f"browser {file}")
        if needed and group_of(item) is None:
            if needed[0] == "playground":
                usual.setdefault(file, []).append(item)
            else:
                item.add_marker(pytest.mark.xdist_group(needed[0]))
    sizes = [0] * GROUPS
    for module in sorted(usual.values(), key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(module)
        for item in module:
            item.add_marker(pytest.mark.xdist_group(f"playground {smallest}"))
    items.sort(key=rank)


def group_of(item: pytest.Item | None) -> str | None:
    """Return the group of a test, if it has one."""
    marker = item.get_closest_marker("xdist_group") if item is not None else None
    return marker.args[0] if marker else None


def rank(item: pytest.Item) -> int:
    """Return which tests begin first: those of the longest groups, of other groups, without a group."""
    group = group_of(item)
    return LONGEST.index(group) if group in LONGEST else len(LONGEST) + (group is None)


class Clusters:
    """Stops the clusters that the next test does not use: an idle one takes a tenth of a core or more.

    A plugin of its own, since pytest does not ask a conftest in a folder about fixtures of the whole session.
    """

    def __init__(self) -> None:
        self._started: dict[str, tuple[pytest.FixtureDef[Any], pytest.FixtureRequest]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Any:
        if fixturedef.argname in CLUSTERS:
            self._started[fixturedef.argname] = fixturedef, request
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        if nextitem is not None:
            for name in self._started.keys() - set(clusters_of(nextitem)):
                fixturedef, request = self._started.pop(name)
                fixturedef.finish(request)  # type: ignore[arg-type]


class Turns:
    """Limits how many groups of tests run at once on this machine, those of other clones included."""

    def __init__(self) -> None:
        folder, most = Path(tempfile.gettempdir()), 2 * (os.cpu_count() or 1)
        self._turns = [FileLock(folder / f"tidb_magic-tests-{os.getuid()}-{number}.lock") for number in range(most)]
        self._taken: FileLock | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        group = group_of(item)
        while group and self._taken is None:
            for turn in self._turns:
                with suppress(Timeout):
                    turn.acquire(blocking=False)
                    self._taken = turn
                    break
            else:
                time.sleep(0.1)
        result = yield
        if self._taken is not None and group_of(nextitem) != group:
            self._taken.release()
            self._taken = None
        return result


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and config.getoption("dist") != "loadgroup":
        raise pytest.UsageError("Add --dist loadgroup to -n: the tests of a cluster run one after the other.")
    if on_a_worker(config):  # else no group orders the tests: the clusters stay until the end
        config.pluginmanager.register(Clusters())
        config.pluginmanager.register(Turns())


@contextmanager
def without_a_late_ctrl_c(item: pytest.Item) -> Iterator[None]:
    """Let a Ctrl-C that a test sent, and that comes too late, fail one test instead of ending the worker's run."""
    try:
        yield
    except KeyboardInterrupt as late:
        if on_a_worker(item.config):  # which has no terminal
            raise AssertionError("Ctrl-C came while no test waited for it.") from late
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Any:
    """Run the set-up."""
    with without_a_late_ctrl_c(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Run the test."""
    with without_a_late_ctrl_c(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Any:
    """Clean up."""
    with without_a_late_ctrl_c(item):
        return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Wait for the benchmarks of other clones on this machine, or, with benchmarks only, for all of their tests.

    Then take what was imported out of the garbage collector's sight: IPython's shell collects at each reset.
    """
    if session.items:
        alone = all(item.get_closest_marker("benchmark") for item in session.items)
        lock = os.open(Path(tempfile.gettempdir()) / f"tidb_magic-tests-{os.getuid()}.lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)  # until this process ends
    if on_a_worker(session.config):
        lost = [one.nodeid for one in session.items if group_of(one) and "@" not in one.nodeid]
        if lost:
            raise pytest.UsageError(f"pytest-xdist does not read the groups of tests with this pytest: {lost[0]}")
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure: what a test needs is installed, or the test fails. Name servers that do not run."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {call.excinfo}"
    if report.failed:
        report.sections += [
            (f"{name}: {server} is {state}", servers.last_lines(server, playground.state))
            for name in clusters_of(item)
            if (playground := getattr(item, "funcargs", {}).get(name))
            for server, state in playground.status().items()
            if state != "running"
        ]
    return report


def base64url(data: bytes) -> str:
    """Return the encoding of JSON Web Tokens: base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


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
def second_cluster() -> Iterator[Playground]:
    """Two more instances without global kill, of a cluster of their own."""
    with Playground(instances=2, global_kill=False) as started:
        yield furnish(started)


@pytest.fixture(scope="session")
def sem() -> Iterator[Playground]:
    """Three instances in security-enhanced mode: guarded is a protected user, the others may end connections."""
    users = """
        CREATE USER guarded, admin, plain, blind, chief;
        GRANT RESTRICTED_USER_ADMIN ON *.* TO guarded;
        GRANT CONNECTION_ADMIN, PROCESS ON *.* TO admin, blind, chief;
        GRANT RESTRICTED_CONNECTION_ADMIN ON *.* TO chief;
        GRANT SELECT ON mysql.* TO admin;
    """
    with Playground(instances=3, sem=True, initialize=users) as started:
        yield furnish(started)


@pytest.fixture(scope="session")
def token_key() -> rsa.RSAPrivateKey:
    """The key that signs the tokens which the cluster with TLS accepts."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def with_tls(tmp_path_factory: pytest.TempPathFactory, token_key: rsa.RSAPrivateKey) -> Iterator[Playground]:
    """Two instances with TLS, which accept tokens signed by `token_key`."""
    numbers = token_key.public_key().public_numbers()
    key = {
        name: base64url(value.to_bytes(256, "big").lstrip(b"\0"))
        for name, value in (("n", numbers.n), ("e", numbers.e))
    }
    keys = tmp_path_factory.mktemp("tokens") / "jwks.json"
    keys.write_text(json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", **key}]}))
    toml = Options.toml
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "toml", lambda *args: f"{toml(*args)}auth-token-jwks = {json.dumps(str(keys))}\n")
        with Playground(instances=2, tls=True) as started:
            yield furnish(started)


@pytest.fixture(scope="session")
def fragile() -> Iterator[Playground]:
    """Three instances to freeze and crash."""
    with Playground(instances=3) as started:
        yield furnish(started)


@pytest.fixture(scope="session", autouse=True)
def _folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """IPython and Jupyter have folders of their own: the user's settings are not those of the tests."""
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            (folder / name).mkdir()
            patch.setenv(name, str(folder / name))
        yield


@pytest.fixture(autouse=True)
def only_marked_tests_start_a_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuse a playground to a test without the mark `cluster`, which `make check` would run."""

    def refuse(_: Playground) -> Playground:
        raise AssertionError("Mark this test with pytest.mark.cluster: it starts a playground.")

    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("cluster") is None:
            patch.setattr(Playground, "start", refuse)
        yield


def set_default_deadline(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for name in ("processlist", "count_by", "instances", "locks", "waiting", "kill", "plan"):
        monkeypatch.setitem(getattr(Cluster, name).__kwdefaults__, "deadline", seconds)


@pytest.fixture(autouse=True)
def _patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On clusters that always answer no default deadline passes, however busy the machine is."""
    if "fragile" not in request.fixturenames:
        set_default_deadline(monkeypatch, LONG)


@pytest.fixture
def deadline(request: pytest.FixtureRequest, fragile: Playground, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the default deadline in seconds: shorter than the product's, but for a test marked `product_deadlines`.

    What a test waits for happens at a deadline; how long that is makes no difference to it. Instances that run answer
    long before, also on a busy machine.
    """
    if request.node.get_closest_marker("product_deadlines"):
        return DEADLINE
    began = time.monotonic()
    with Client(fragile) as client:
        client.query("SELECT * FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST")
    needed = 10 * (time.monotonic() - began)
    short = max(SHORT, SHORT * busy(), needed)  # what answers at once can hang for a moment later
    set_default_deadline(monkeypatch, short)
    monkeypatch.setattr(monitor, "_RETRY", (0.1, 1.0))
    return short


@pytest.fixture
def healed(fragile: Playground, deadline: float) -> Iterator[Playground]:
    """The cluster to break; everything runs again afterwards."""
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
        eventually(lambda: after.processlist(deadline=10).complete and not after._pool.monitor.degraded)


@pytest.fixture
def default_name() -> Iterator[None]:
    """The name `default` for this test alone: a user has one playground of that name."""
    with FileLock(cache_folder() / "default-of-the-tests.lock"):
        yield


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
    """A list that grows by every statement that any connection of tidb_magic sends from now on.

    A KILL of tidb_magic's own statement, which the cluster was too slow for, is not in it.
    """
    asked: list[str] = []
    own: set[str] = set()
    run, run_all, end = Connection._run, Connection._run_all, cleanup._kill

    def noted(self: Connection, sql: str, args: Any) -> Any:
        if sql.partition("*/ ")[2] not in own:
            asked.append(sql)
        return run(self, sql, args)

    def noted_all(self: Connection, statements: Sequence[str]) -> Any:
        asked.extend(statements)
        return run_all(self, statements)

    def noted_own(ask: Any, dropped: Connection, seconds: float) -> str:
        own.add(f"KILL TIDB CONNECTION {int(dropped.id or 0)}")
        return end(ask, dropped, seconds)

    monkeypatch.setattr(Connection, "_run", noted)
    monkeypatch.setattr(Connection, "_run_all", noted_all)
    monkeypatch.setattr(cleanup, "_kill", noted_own)
    return asked


@pytest.fixture
def recorded() -> Any:
    """What a real server of another version answered: ``recorded("6.5", "cluster_processlist")``."""

    def find(version: str, words: str) -> dict[str, Any]:
        answers = json.loads((TESTS / "recorded" / f"tidb-{version}.json").read_text())
        return next(answer for answer in answers if words in answer["sql"])

    return find


@pytest.fixture(scope="session")
def users(playground: Playground) -> dict[str, str]:
    """Users with a password: joe without rights, monitor with PROCESS, oncall with CONNECTION_ADMIN."""
    password, rights = "planted-s3cret", {"joe": "", "monitor": "PROCESS", "oncall": "CONNECTION_ADMIN"}
    with Client(playground) as root:
        for user, right in rights.items():
            root.query(f"CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}'")
            if right:
                root.query(f"GRANT {right} ON *.* TO '{user}'@'%'")
            root.query(f"GRANT SELECT ON test.* TO '{user}'@'%'")
    for user, right in rights.items():
        wait_for_right(playground, user, password, right, "SELECT ON `test`")
    return dict.fromkeys(rights, password)


@pytest.fixture
def running() -> Any:
    """Return a function that waits until the cluster's list shows a statement of this client.

    With `aged` it waits until the statement is older than several looks at it take, and on a busy machine 2 s old. A
    kill by a row of a list needs that: TIME, in whole seconds, must prove that the statement is the one of the list.
    """

    def wait(client: Client, *, aged: bool = False) -> Client:
        took = 0.0

        def listed() -> bool:
            nonlocal took
            began = time.monotonic()
            found = root.query(
                "SELECT 1 FROM INFORMATION_SCHEMA.CLUSTER_PROCESSLIST"
                f" WHERE ID = {client.id} AND INSTANCE = '{client.instance}' AND INFO IS NOT NULL"
                f" AND TIME >= {2 if busy() > 1 and aged else 0}"
            )
            took = time.monotonic() - began
            return bool(found)

        with Client(client.playground) as root:
            eventually(listed)
        if aged:
            time.sleep(5 * took)
        return client

    return wait


@pytest.fixture(scope="session")
def session_shell() -> InteractiveShell:
    started = start_ipython()
    assert isinstance(started, InteractiveShell)
    return started


@pytest.fixture
def shell(session_shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A shell with the extension. For the connections of the tests themselves it opens none of its own."""
    monkeypatch.setenv("TIDB_MAGIC_STOP", "off")
    session_shell.config.pop("TidbMagics", None)  # what %config set stays for the next loading
    session_shell.run_line_magic("load_ext", "tidb_magic")
    yield session_shell
    session_shell.run_line_magic("unload_ext", "tidb_magic")
    session_shell.reset()


@pytest.fixture
def connected(shell: InteractiveShell, playground: Playground) -> InteractiveShell:
    shell.run_line_magic("tidb_connect", playground.url(0))
    return shell
