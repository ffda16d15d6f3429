"""How each server is started, and how it is known to answer."""

import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from tidb_magic.playground import processes
from tidb_magic.playground.processes import LOOPBACK
from tidb_magic.playground.records import CA, CERT, FIRST_SQL, KEY, State

# One PD and one store: PD elects itself at once, and moves no regions.
_PD = """
tick-interval = "200ms"
election-interval = "1s"
[schedule]
patrol-region-interval = "10m"
[replication]
max-replicas = 1
"""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not asked for through a proxy


def sql_url(state: State, instance: int) -> str:
    """Return ``mysql://root@127.0.0.1:PORT`` of one instance; with TLS also where its CA is."""
    url = f"mysql://root@{LOOPBACK}:{state.ports[f'tidb-{instance}']}"
    return f"{url}?ssl_ca={quote(f'{state.folder}/{CA}')}" if state.options.tls else url


def certify(folder: Path) -> None:
    """Make a CA, and a certificate for the instances."""
    import trustme  # takes its time, and few want TLS

    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / CA))
    cert = ca.issue_cert(LOOPBACK, "localhost")
    cert.private_key_pem.write_to_path(str(folder / KEY))
    for pem in cert.cert_chain_pems:
        pem.write_to_path(str(folder / CERT), append=True)


def command(server: str, state: State, binaries: dict[str, Path]) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a server and what it needs in its environment."""
    folder, ports = Path(state.folder), state.ports
    pd = f"{LOOPBACK}:{ports['pd']}"
    if server == "pd":
        peer = f"http://{LOOPBACK}:{ports['pd-peer']}"
        command = [str(binaries["pd-server"]), "--name=pd", f"--data-dir={folder / 'pd'}", f"--peer-urls={peer}"]
        command += [f"--client-urls=http://{pd}", f"--log-file={folder / 'pd.log'}", f"--config={folder / 'pd.toml'}"]
        (folder / "pd.toml").write_text(_PD)
        # Its routes are written for the older pattern rules; with the new ones it panics at start.
        return command, {"GODEBUG": "httpmuxgo121=1"}
    if server == "store":
        addr = f"{LOOPBACK}:{ports['store']}"
        return [str(binaries["store"]), "-pd", pd, "-addr", addr, "-path", str(folder / "store")], {}
    if server == "workload":
        urls = [sql_url(state, instance) for instance in range(state.options.instances)]
        return [sys.executable, "-m", "tidb_magic.playground.workload", str(folder), *urls], {}
    config = folder / "tidb.toml"
    (folder / FIRST_SQL).write_text(state.options.first_sql)
    config.write_text(state.options.toml(folder))
    command = [str(binaries["tidb-server"]), "--store=tikv", f"--path={pd}", f"--config={config}"]
    command += [f"--host={LOOPBACK}", f"--advertise-address={LOOPBACK}", f"--status-host={LOOPBACK}"]
    command += [f"-P={ports[server]}", f"--status={ports[f'{server}-status']}"]
    command += [f"--socket={folder / server}.sock", f"--temp-dir={folder / server}"]
    return [*command, f"--log-file={folder / server}.log", f"--log-slow-query={folder / server}-slow.log"], {}


def answers(server: str, state: State) -> bool:
    """Tell whether a server does its work."""
    ports = state.ports
    match server:
        case "pd":
            return _get(f"http://{LOOPBACK}:{ports['pd']}/pd/api/v1/health", lambda body: b'"health": true' in body)
        case "store":
            return processes.listens(ports["store"])
        case "workload":
            return (Path(state.folder) / "workload.ready").exists()
        case _:
            return _get(f"http://{LOOPBACK}:{ports[f'{server}-status']}/status", lambda _: True)


def last_lines(server: str, state: State) -> str:
    """Return the last lines that a server wrote."""
    lines: list[str] = []
    folder = Path(state.folder)
    for file in (folder / f"{server}.log", folder / f"{server}.out"):
        if file.exists():
            lines += file.read_text(errors="backslashreplace").splitlines()[-5:]
    return "\n".join(line[:500] for line in lines) or "(it wrote nothing)"


def _get(url: str, good: Callable[[bytes], bool]) -> bool:
    try:
        with _DIRECT.open(url, timeout=5) as answer:
            return good(answer.read())
    except (OSError, urllib.error.URLError):
        return False
