"""The connections of a Cluster."""

import gc
from weakref import ref

import tidb_magic
from tests.clients import Client, eventually
from tidb_magic.playground import Playground


def test_a_cluster_that_is_dropped_leaves_no_session_before_any_garbage_is_collected(playground: Playground) -> None:
    gc.disable()
    try:
        cluster = tidb_magic.connect(playground.url(0))
        number, pool = int(cluster._pool.connection().id or 0), ref(cluster._pool)
        del cluster
        assert pool() is None
    finally:
        gc.enable()
    with Client(playground) as root:
        listing = f"SELECT ID FROM INFORMATION_SCHEMA.PROCESSLIST WHERE ID = {number}"
        eventually(lambda: root.query(listing) == ())
