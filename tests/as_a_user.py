"""A user's script, outside any checkout: mypy reads it and each Python runs it with nothing but the wheel installed.

``python as_a_user.py URL ID``, where ID is a session that may be ended.
"""

import sys
from datetime import datetime
from pathlib import Path
from typing import assert_type

import tidb_magic
import tidb_magic.widget.table
from tidb_magic import (
    Cluster,
    ConnectionId,
    History,
    KillReport,
    KillStatement,
    Outcome,
    ProcessList,
    TidbMagicError,
    connect,
    parse_kill,
)
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.sessions.summaries import InstanceList, SessionCounts


def without_a_cluster() -> None:
    """Read a KILL and an id, and show a list made by hand."""
    statement = assert_type(parse_kill("KILL TIDB QUERY 5857102839209263511"), KillStatement)
    assert (assert_type(statement.query, bool), assert_type(statement.tidb, bool)) == (True, True)
    assert assert_type(statement.connection_id, ConnectionId | None) == ConnectionId(5857102839209263511)
    assert assert_type(ConnectionId("5857102839209263511").server_id, int | None) == 2663502
    wrong = ""
    try:
        parse_kill("KILL everything")
    except TidbMagicError as error:
        wrong = str(error)
    assert "connection id" in wrong
    listed = ProcessList({"ID": [5], "INSTANCE": ["db-1:10080"], "USER": ["<app>"], "INFO": ["SELECT 1"]})
    assert "1 session on 1 instance." in repr(listed)
    assert "&lt;app&gt;" in (assert_type(listed._repr_html_(), str | None) or "")


def with_a_cluster(url: str, victim: int) -> None:
    """List, plan, and kill one session."""
    with connect(url) as cluster:
        assert_type(cluster, Cluster)
        sessions = assert_type(cluster.processlist(user="root", idle=True), ProcessList)
        assert assert_type(sessions.complete, bool)
        assert assert_type(sessions.missing, tuple[str, ...]) == ()
        assert assert_type(sessions.taken_at, datetime | None)
        assert victim in set(sessions["ID"])
        assert len(assert_type(cluster.instances(), InstanceList)) == 3
        assert assert_type(cluster.count_by("USER"), SessionCounts)["SESSIONS"].sum() >= 2
        assert "Complete: every registered instance answered." in repr(assert_type(cluster.locks(), LockForest))
        planned = assert_type(cluster.plan([victim]), KillReport)
        assert list(planned["OUTCOME"]) == [Outcome.PLANNED]
        report = assert_type(cluster.kill(sessions[sessions["ID"] == victim], reason="a try"), KillReport)
        assert list(report["OUTCOME"]) == [Outcome.KILLED]
        assert len(assert_type(cluster.history(), History)) == 2
    assert assert_type(cluster.closed, bool)


if __name__ == "__main__":
    assert Path(tidb_magic.__file__).is_relative_to(sys.prefix), "not the installed one"
    without_a_cluster()
    with_a_cluster(sys.argv[1], int(sys.argv[2]))
