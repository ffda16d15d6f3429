"""The kernel's side of the dialogs that ask whether to kill: plan, confirm, confirm again, kill."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidb_magic.api import Cluster
from tidb_magic.display.frame import values_of
from tidb_magic.display.render import first_line
from tidb_magic.errors import NotConnectedError, TidbMagicError
from tidb_magic.kill.report import KillReport, marked_outcome
from tidb_magic.sessions.processlist import ProcessList
from tidb_magic.widget.settings import TableSettings

ANSWER_WITHIN = 5.0  # seconds in which the browser has to confirm again
_GRACE = 1.0  # seconds that this answer may be under way, else the browser is asked again
_CANCELLED = "This was cancelled. Nothing was sent."
Message = Mapping[str, Any]


@dataclass
class _Dialog:
    """A kill that was planned: the rows as the browser showed them, and when it was asked to confirm again."""

    rows: ProcessList
    query: bool
    asked: float | None = None


class KillDialogs:
    """The open dialogs of a table, by the number that the browser gave each.

    `cluster` returns the cluster to kill in, `send` sends a message to the browser, `work` runs a job in a thread.
    """

    def __init__(
        self,
        settings: TableSettings,
        cluster: Callable[[], Cluster],
        send: Callable[[dict[str, Any]], object],
        work: Callable[..., object],
    ) -> None:
        self._settings, self._cluster, self._send, self._work = settings, cluster, send, work
        self._open: dict[str, _Dialog] = {}

    def plan(self, said: Message, rows: ProcessList | None) -> None:
        """Plan the kill of the selected sessions; `rows` is None if the browser shows an old list. Sends no KILL."""
        number, most, error = said["ask"], self._settings.max_victims, ""
        if rows is None:
            error = "This list is out of date: refresh it first."
        elif len(rows) > most:
            error = f"{len(rows):,} sessions are more than max_victims ({most:,}): %config TidbMagics.max_victims."
        if rows is None or error:
            self._send({"kind": "planned", "ask": number, "error": error})
            return
        self._open[number] = _Dialog(rows, query=bool(said["query"]))
        deadline = self._settings.deadline
        answer = _outcome(lambda: self._cluster().plan(rows, query=said["query"], deadline=deadline))
        age = 0.0 if rows.taken_at is None else time.time() - rows.taken_at.timestamp()
        self._send({"kind": "planned", "ask": number, "age": max(age, 0.0)} | answer)

    def cancel(self, said: Message) -> None:
        """Forget a dialog."""
        self._open.pop(said["ask"], None)

    def confirm(self, said: Message) -> None:
        """Ask the browser to confirm again: this message may have waited here while a cell ran."""
        dialog = self._open.get(said["ask"])
        if dialog is None:
            self._send({"kind": "killed", "ask": said["ask"], "error": _CANCELLED})
            return
        dialog.asked = time.monotonic()
        self._send({"kind": "asked", "ask": said["ask"]})

    def confirm_again(self, said: Message) -> None:
        """Kill, if the browser was asked to confirm again just now."""
        number = said["ask"]
        dialog = self._open.get(number)
        if dialog is None or dialog.asked is None:
            self._send({"kind": "killed", "ask": number, "error": _CANCELLED})
        elif time.monotonic() - dialog.asked > min(max(said["after"], 0), ANSWER_WITHIN) + _GRACE:
            self.confirm(said)  # this message waited here, while a cell ran
        else:
            del self._open[number]
            self._send({"kind": "sending", "ask": number})
            self._work(self._kill, number, dialog)

    def _kill(self, number: str, dialog: _Dialog) -> None:
        def kill() -> KillReport:
            chosen = self._settings
            return self._cluster().kill(
                dialog.rows,
                query=dialog.query,
                deadline=chosen.deadline,
                timeout=chosen.timeout,
                max_victims=chosen.max_victims,
            )

        self._send({"kind": "killed", "ask": number} | _outcome(kill))


def _outcome(job: Callable[[], KillReport]) -> dict[str, Any]:
    """Return what a kill or a plan reports; an error as a line, since exceptions of a thread are not displayed."""
    try:
        report = job()
    except NotConnectedError as error:
        return {"error": f"{error} Nothing was sent.", "sent": False}
    except TidbMagicError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 (see above)
        return {"error": f"{type(error).__name__}: {first_line(error)}"}
    names = {
        name: values_of(report, name.upper()) for name in ("instance", "outcome", "reason", "seconds", "statement")
    }
    ids = [str(number) for number in values_of(report, "ID")]
    names["text"] = [marked_outcome(outcome) for outcome in names["outcome"]]
    rows = [dict(zip(("id", *names), row, strict=True)) for row in zip(ids, *names.values(), strict=True)]
    return {"rows": rows, "remarks": list(report.remarks)}
