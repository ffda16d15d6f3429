"""A process that forks, and objects that cannot leave their process."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.clients import Client
from tidb_magic import Cluster
from tidb_magic.errors import CopyError
from tidb_magic.playground import Playground
from tidb_magic.widget.settings import TableSettings
from tidb_magic.widget.table import SessionTable

FORKED = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
import tidb_magic
from tests.clients import Client

cluster = tidb_magic.connect(sys.argv[1])
cluster.processlist()
connection = cluster._pool.connection()
number = int(connection.id)
asked = []
def ask():
    asked.append(connection.query("SELECT SLEEP(2), CONNECTION_ID()", deadline=60).rows)
thread = threading.Thread(target=ask)
thread.start()
while not connection.busy:
    time.sleep(0.01)
out, into = os.pipe()
child = os.fork()
if not child:
    listed = cluster.processlist(idle=True)
    own = int(cluster._pool.connection().id)
    (outcome,) = cluster.kill([int(sys.argv[2])])["OUTCOME"]
    os.write(into, f"{own} {listed.complete} {number in set(listed['ID'])} {outcome}".encode())
    cluster.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
thread.join()
told = os.read(out, 1000).decode().split()
print(status, told[1:], told[0] != str(number), asked == [((0, number),)], int(cluster._pool.connection().id) == number)
print(cluster.processlist().complete)
"""


@pytest.mark.parametrize("tls", [False, True])
def test_a_forked_child_uses_connections_of_its_own_and_the_parents_statement_goes_on(
    playground: Playground, with_tls: Playground, tls: bool
) -> None:
    used = with_tls if tls else playground
    with Client(used) as victim:
        command = [sys.executable, "-c", FORKED, used.url(0), str(victim.id)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "0 ['True', 'True', 'killed'] True True True\nTrue\n"


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_cluster_and_a_table_are_not_copied_and_say_what_to_pass(
    cluster: Cluster, act: Callable[[object], object]
) -> None:
    table = SessionTable(cluster.processlist(), TableSettings(3.0, 50, 10.0, 2.0))
    with pytest.raises(CopyError, match=r"Pass its URL and call tidb_magic\.connect there\."):
        act(cluster)
    with pytest.raises(CopyError, match="Pass its DataFrame"):
        act(table)
    table.close()
