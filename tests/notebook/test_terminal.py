"""In IPython in a real terminal: Ctrl-C, the password prompt, and the demo."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.clients import LONG_SELECT, Client
from tidb_magic.playground import Playground

ROOT = Path(__file__).parent.parent.parent
PLANTED = "planted-s3cret"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator["pexpect.spawn[str]"]:
    """IPython as a person starts it, with a history of its own."""
    arguments = ["-m", "IPython", "--no-banner", "--simple-prompt", "--colors=NoColor", "--ext=tidb_magic"]
    arguments += [f"--HistoryManager.hist_file={tmp_path / 'history.sqlite'}"]
    child = pexpect.spawn(sys.executable, arguments, encoding="utf-8", timeout=300, dimensions=(50, 200))
    child.expect_exact("In [1]: ")
    yield child
    child.close(force=True)


def test_ctrl_c_in_a_list_is_one_line(terminal: "pexpect.spawn[str]", playground: Playground) -> None:
    terminal.sendline(f"%tidb_connect {playground.url(0)}")
    terminal.expect_exact("In [2]: ")
    playground.freeze(2)
    try:
        terminal.sendline("%tidb_ps")
        with Client(playground, 0) as here:
            while not here.query(
                "SELECT 1 FROM INFORMATION_SCHEMA.PROCESSLIST"
                f" WHERE INFO LIKE '%tidb_magic:%CLUSTER_PROCESSLIST%' AND ID <> {here.id}"
            ):
                pass
            terminal.sendintr()
            terminal.expect_exact("In [3]: ")
    finally:
        playground.resume(2)
    said = (terminal.before or "").replace("^C", "").split("%tidb_ps")[-1].split()
    assert " ".join(said) == "Interrupted: Our statement was ended on the server."


def test_the_terminal_asks_for_a_password_and_shows_none(
    terminal: "pexpect.spawn[str]", playground: Playground, users: dict[str, str], tmp_path: Path, running: object
) -> None:
    terminal.sendline("%tidb_connect " + playground.url(0).replace("root", "joe"))
    terminal.expect_exact("Password for joe@127.0.0.1:")
    terminal.waitnoecho()
    terminal.sendline(PLANTED)
    terminal.expect_exact("<Cluster joe@")
    terminal.expect_exact("In [2]: ")
    with Client(playground, 1, "joe", password=PLANTED) as client:
        running(client.start(LONG_SELECT.format("terminal")))  # type: ignore[operator]
        terminal.sendline(f"%tidb_kill QUERY {client.id}")
        terminal.expect_exact("1 interrupted (joe@127.0.0.1:")
    terminal.sendline("exit")
    terminal.expect(pexpect.EOF)
    assert PLANTED.encode() not in (tmp_path / "history.sqlite").read_bytes()


@pytest.mark.cluster
@pytest.mark.xdist_group("notebooks")
def test_the_demo_proves_a_kill_on_another_instance_and_leaves_what_ran_before(default_name: None) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / "demo.py")], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified: the statement on 127.0.0.1:" in done.stdout
    assert "7 sessions on 3 instances" in done.stdout
    assert "1 interrupted (root@127.0.0.1:" in done.stdout
