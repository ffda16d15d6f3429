"""Ending what sessions of this process still run."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tidb_magic.connection.client_sessions import ClientSession
from tidb_magic.connection.deadline import Deadline

if TYPE_CHECKING:
    from concurrent.futures import Future

    import pandas as pd

    from tidb_magic.api import Cluster

SEARCH = 10.0  # seconds for which a session is searched for while not every instance answers
_AGAIN = 0.3  # seconds between two searches
_REASON = "cell interrupted"


class Statements:
    """Ends what sessions run, or only says what still runs if `mode` returns ``ask``.

    For each address and user a cluster of its own is opened, in the background when the first connection there is.
    """

    def __init__(self, mode: Callable[[], str]) -> None:
        self._mode = mode
        self._clusters: dict[str, Future[Cluster]] = {}

    def close(self) -> None:
        """Close the clusters, also those that are still being opened."""
        for opening in self._clusters.values():
            opening.add_done_callback(_close)
        self._clusters.clear()

    def open(self, session: ClientSession) -> "Future[Cluster]":
        """Return the cluster of a session, which is opened in the background if there is none yet."""
        from concurrent.futures import Future  # here, so that loading the extension is fast

        key = session.settings.address
        if key not in self._clusters or _failed(self._clusters[key]):
            opening: Future[Cluster] = Future()
            self._clusters[key] = opening

            def run() -> None:
                try:
                    # Here, for it imports numpy, which an interrupt of the main thread would leave broken.
                    from tidb_magic.api import connect

                    opening.set_result(connect(session.settings))
                except Exception as error:  # noqa: BLE001 (it is raised where the cluster is needed)
                    opening.set_exception(error)

            threading.Thread(target=run, name="tidb_magic-stop-connect", daemon=True).start()
        return self._clusters[key]

    def end(self, sessions: list[ClientSession], *, query: bool) -> list[str]:
        """End the sessions that run a statement, of one user at one address, or only these; say what became of each."""
        try:
            return self._ended(self.open(sessions[0]).result(), sessions, query=query)
        except Exception as error:  # noqa: BLE001 (exceptions of a thread are not displayed)
            ids = ", ".join(str(one.id) for one in sessions)
            return [f"Interrupted: your statement on connection {ids} may still run. {error}"]

    def _ended(self, cluster: "Cluster", sessions: list[ClientSession], *, query: bool) -> list[str]:
        # An ID alone can be another session's by now.
        ours = {(one.id, one.host, one.settings.user) for one in sessions}
        ids, due = ", ".join(str(number) for number, *_ in ours), Deadline(SEARCH)
        while True:
            listed = cluster.processlist(where=f"ID IN ({ids})", idle=True)
            keys = list(zip(listed["ID"], listed["HOST"], listed["USER"], strict=True))
            known = listed.complete or ours <= set(keys)
            if known or due.passed:
                break
            time.sleep(_AGAIN)
        rows = listed[[key in ours and runs for key, runs in zip(keys, listed["INFO"].notna(), strict=True)]]
        if not len(rows):
            if known:
                return []  # they have ended
            missing = ", ".join(listed.missing)
            return [f"Interrupted: your statement on connection {ids} may still run: {missing} did not answer."]
        what = [
            f"Interrupted: your statement on connection {row['ID']} ({row['INSTANCE']}) was still running"
            for _, row in rows.iterrows()
        ]
        spent = [f"It had run for {seconds} s." for seconds in rows["TIME"]]
        if self._mode() == "ask":
            ends = [f"{ran} To end it: %tidb_kill {number}" for ran, number in zip(spent, rows["ID"], strict=True)]
            return [". ".join(pair) for pair in zip(what, ends, strict=True)]
        # Whatever these sessions run belongs to the cell: the next one begins later. So the statement is not compared,
        # which takes a second where it has just begun.
        whom = rows[["ID", "INSTANCE", "USER", "HOST"]]
        report = cluster.kill(whom, query=query, reason=_REASON, max_victims=len(rows))
        ends = [_outcome(row, query=query) for _, row in report.iterrows()]
        return [f"{one}; {end} {ran}" for one, end, ran in zip(what, ends, spent, strict=True) if end]


def _outcome(row: "pd.Series", *, query: bool) -> str:
    """Return what became of a statement or its session, by its row of a KillReport; nothing if it ended by itself."""
    if row["OUTCOME"] == "already gone":
        return ""
    if row["OUTCOME"] not in ("killed", "interrupted"):
        return f"{row['OUTCOME']}: {row['REASON']}. To try again: %tidb_kill {row['ID']}."
    if query:  # its session can end as well: SQLAlchemy closes a connection that was interrupted
        return f"it was ended ({row['SECONDS']:.2f} s)."
    rolled = f"; {row['REASON']}" if row["REASON"] else ""
    return f"its session was ended ({row['SECONDS']:.2f} s{rolled})."


def _failed(opening: "Future[Cluster]") -> bool:
    return opening.done() and (opening.exception() is not None or opening.result().closed)


def _close(opening: "Future[Cluster]") -> None:
    if opening.exception() is None:
        opening.result().close()
