"""What was planned and killed: kept in this process, and appended to a file if one is named."""

import getpass
import json
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tidb_magic.errors import AuditError
from tidb_magic.kill.model import Target

KEPT = 10_000  # entries of each kind: a large plan must not push kills out
PLANS: deque[tuple[datetime, str, str, str, Target]] = deque(maxlen=KEPT)
KILLS: deque[tuple[datetime, str, str, str, Target]] = deque(maxlen=KEPT)


@dataclass(frozen=True)
class Audit:
    """Where and how a kill is written down.

    `file` gets a line of JSON for each KILL before it is sent (``"event": "sending"``) and one for each outcome; SQL
    text only with `sql`. `reason` is what the person gave.
    """

    cluster: str  # as user@host:port
    user: str  # of the server
    file: str | None = None
    sql: bool = False
    reason: str = ""

    def check(self) -> None:
        """Make sure that the file can be written.

        Raises
        ------
        AuditError
        """
        try:
            self._append([])
        except AuditError as error:
            raise AuditError(f"{error} Nothing was sent.") from error

    def sending(self, targets: Iterable[Target]) -> None:
        """Note what is sent next. As `check` for what can go wrong: nothing may be sent then."""
        self._append(self._line("sending", target) for target in targets)

    def ended(self, targets: Iterable[Target], *, plan: bool) -> None:
        """Keep what became of the targets, and append it to the file. As `check` for what can go wrong."""
        now, known = datetime.now().astimezone(), list(targets)
        asked = "plan" if plan else "kill"
        kept = PLANS if plan else KILLS
        kept.extend((now, self.cluster, asked, self.reason, target) for target in known)
        self._append(self._line("plan" if plan else "outcome", target) for target in known)

    def _append(self, lines: Iterable[Mapping[str, object]]) -> None:
        if not self.file:
            return
        try:
            path = Path(self.file).expanduser()
            # Only its owner reads a new one.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except (OSError, RuntimeError, ValueError) as error:  # no such home folder; a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise AuditError(f"The audit file {self.file!r} cannot be written ({why}).") from error

    def _line(self, event: str, target: Target) -> dict[str, object]:
        session = target.session
        line: dict[str, object] = {
            "time": datetime.now().astimezone().isoformat(),
            "event": event,
            "cluster": self.cluster,
            "user": self.user,
            "os_user": _os_user(),
            "statement": target.statement.sql,
            "instance": target.instance,
            "session_user": session.user if session else None,
            "session_host": session.host if session else None,
            "reason": self.reason,
        }
        if target.outcome is not None and event != "sending":
            line |= {
                "outcome": str(target.outcome),
                "why": target.reason,
                "warning": target.warning,
                "seconds": target.seconds,
            }
        if self.sql:
            line["sql"] = session.info if session else None
        return line


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for the user
        return str(os.getuid())
