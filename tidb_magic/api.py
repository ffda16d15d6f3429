"""Cluster: what scripts and the magics hold."""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, Self, Unpack
from weakref import ref

import pandas as pd

from tidb_magic.cluster.pool import Pool
from tidb_magic.cluster.topology import Direct
from tidb_magic.connection.deadline import DEADLINE
from tidb_magic.connection.orphans import ORPHANS
from tidb_magic.connection.prompt import prompt
from tidb_magic.connection.settings import Secret, Settings
from tidb_magic.connection.sources import find, with_keyring
from tidb_magic.display.frame import counted
from tidb_magic.errors import AuthenticationError, CopyError, Interrupted, OptionError, TidbMagicError
from tidb_magic.kill.audit import Audit
from tidb_magic.kill.executor import kill
from tidb_magic.kill.instance_worker import MAX_VICTIMS, TIMEOUT, KillOptions
from tidb_magic.kill.report import History, KillReport, history
from tidb_magic.kill.resolve import Victims, matching, targets
from tidb_magic.locks.followup import kill_blockers
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.locks.reader import locks
from tidb_magic.sessions.counts import count_by, count_waiting
from tidb_magic.sessions.filters import FilterOptions, Filters, seconds
from tidb_magic.sessions.instances import list_instances
from tidb_magic.sessions.lookup import Rights
from tidb_magic.sessions.processlist import ProcessList
from tidb_magic.sessions.reader import read
from tidb_magic.sessions.statements import LIMIT
from tidb_magic.sessions.summaries import InstanceList, SessionCounts


class PasswordInUrlWarning(UserWarning):
    """A password was typed into a URL: it stays in the notebook and in the history."""


class Cluster:
    """A TiDB cluster, through one connection to one of its instances. Get one from `connect`.

    It connects again after the connection was lost. While an instance or PD does not respond, it holds a connection to
    each other instance too, and a thread finds out when the instance responds again. Close it, or use it in a ``with``
    block.

    Attributes
    ----------
    audit_file : str or None
        A file to which every KILL, plan and outcome is appended as a line of JSON. If it cannot be written nothing is
        sent.
    audit_sql : bool
        Whether the statements of the sessions are written there too.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.audit_file: str | None = None
        self.audit_sql = False
        self._twins: dict[str, Cluster] = {}
        self._making_twins = threading.Lock()

    def processlist(  # noqa: PLR0913 (a filter each)
        self,
        *,
        user: str | None = None,
        host: str | None = None,
        db: str | None = None,
        instance: str | None = None,
        command: str | None = None,
        min_time: float | None = None,
        match: str | None = None,
        where: str | None = None,
        mine: bool = False,
        orphans: bool = False,
        idle: bool = False,
        sort: str | None = None,
        limit: int = LIMIT,
        full: bool = False,
        deadline: float = DEADLINE,
    ) -> ProcessList:
        """Read the sessions of the whole cluster, longest running first.

        When an instance or PD does not respond, every instance is read separately, and the list names the missing ones.

        Parameters
        ----------
        user, host, db, instance, command, min_time, match, where, mine, orphans
            What a session must be like, see `Filters`. All that are given must hold.
        idle
            All sessions, not only those that run something or hold a transaction.
        sort
            The column to sort by: numbers from the largest, text from A. TIME by default.
        limit
            How many to list at most; all are counted.
        full
            Statements whole, also those of more than 16 KiB.
        deadline
            Seconds after which an incomplete list is accepted. While no instance has answered, the first answer is
            waited for up to ten times as long.

        Raises
        ------
        OptionError
            A filter is empty, there is no such column, or TiDB does not accept a pattern or a condition.
        DeadlineError, ConnectError
            No instance answered.
        ServerError
        Interrupted
            Ctrl-C: no statement of ours is left running, or the message names it.
        """
        deadline = seconds(deadline, "deadline")
        filters = Filters(user, host, db, instance, command, min_time, match, where, mine, orphans, idle)
        reload = partial(_read, filters=filters, sort=sort, limit=limit, full=full)
        listed = reload(self, deadline=deadline)
        if orphans and listed.complete and filters == Filters(orphans=True, idle=idle):
            ORPHANS.forget(self.address, zip(listed["ID"], listed["HOST"], strict=True))
        self._note_origin(listed, reload)
        return listed

    def count_by(
        self, *columns: str, limit: int = LIMIT, deadline: float = DEADLINE, **filters: Unpack[FilterOptions]
    ) -> SessionCounts:
        """Count the sessions of the whole cluster by one column or several, idle ones included; most first.

        `filters` are those of `processlist`, and so is what can be raised. HOST is taken without the port.
        """
        deadline = seconds(deadline, "deadline")
        with _interruptible():
            return count_by(self._pool, columns, Filters(**filters), limit=limit, deadline=deadline)

    def instances(self, *, deadline: float = DEADLINE) -> InstanceList:
        """List the registered instances, with the sessions of each and whether it answers. As `processlist`."""
        deadline = seconds(deadline, "deadline")
        with _interruptible():
            return list_instances(self._pool, deadline=deadline)

    def locks(self, *, deadline: float = DEADLINE) -> LockForest:
        """Read the lock waits: for row locks, and of DDL for transactions. Raises what `processlist` raises.

        Every store is asked. Needs PROCESS; without it your own sessions that wait are listed. Waiting DDL
        needs SELECT on mysql.tidb_mdl_info and mysql.tidb_ddl_job; without it all running DDL is treated as waiting.
        """
        deadline = seconds(deadline, "deadline")
        forest = _read_locks(self, deadline=deadline)
        self._note_origin(forest.frame, _read_locks)
        return forest

    def waiting(self, *, deadline: float = DEADLINE) -> int | None:
        """Count the transactions that wait for locks; None without PROCESS. As `processlist` for what can be raised.

        Statements in autocommit mode are not among them; `locks` finds these too.
        """
        with _interruptible():
            return count_waiting(self._pool, deadline=seconds(deadline, "deadline"))

    def kill(  # noqa: PLR0913 (the targets and the options)
        self,
        victims: Victims | LockForest | None = None,
        *,
        query: bool = False,
        timeout: float = TIMEOUT,
        deadline: float = DEADLINE,
        max_victims: int = MAX_VICTIMS,
        force: bool = False,
        reason: str = "",
        **filters: Unpack[FilterOptions],
    ) -> KillReport:
        """End sessions, or only their running statements, and report what was seen to happen.

        Of rows of a list this must hold still: INSTANCE, ID, USER, HOST, the statement, the transaction; else the
        outcome is ``changed`` and nothing is sent. With filters a session must match them when its KILL is sent.

        Parameters
        ----------
        victims
            One connection id or several, as whole numbers, on any instance (floats are refused: they have lost
            digits); or what `parse_kill` gave; or a frame: rows of `processlist`; or what `locks` gave: its root
            blockers. After these, or rows of its frame, were killed, the waiting sessions are watched for up to 30 s.
        query
            End the running statement only; the session lives on.
        timeout
            Seconds from each KILL to its proof.
        deadline
            Seconds for each step before it: reaching the session's instance, and each look at the session.
        max_victims
            If there are more, nothing is sent and all are planned.
        force
            Send also to DDL, IMPORT INTO, internal work, and what is committing, where something better is known.
        reason
            Why, for the history and the audit file.
        filters
            Instead of victims: those of `processlist`, of which one at least must narrow.

        Raises
        ------
        ConnectionIdError, OptionError
            One of them is no connection id, a filter narrows nothing, or the timeout is no time. Nothing was sent.
        AuditError
            The audit file cannot be written. Nothing was sent.
        DeadlineError, ConnectError, ServerError
            The sessions that match filters could not be listed. Nothing was sent.
        Interrupted
            Ctrl-C: the message says what was sent and what is known of it.
        """
        timeout, deadline = seconds(timeout, "timeout"), seconds(deadline, "deadline")
        if not isinstance(max_victims, int) or isinstance(max_victims, bool) or max_victims < 1:
            raise OptionError(f"max_victims must be a whole number of 1 or more, not {max_victims!r}.")
        how = KillOptions(timeout, deadline, max_victims, force)
        return self._kill(victims, how, query=query, reason=reason, filters=filters)

    def plan(
        self,
        victims: Victims | LockForest | None = None,
        *,
        query: bool = False,
        deadline: float = DEADLINE,
        force: bool = False,
        reason: str = "",
        **filters: Unpack[FilterOptions],
    ) -> KillReport:
        """Report what `kill` would do now: `planned`, or why nothing would be sent. Sends nothing."""
        how = KillOptions(deadline=seconds(deadline, "deadline"), force=force, plan=True)
        return self._kill(victims, how, query=query, reason=reason, filters=filters)

    def _kill(
        self,
        victims: Victims | LockForest | None,
        how: KillOptions,
        *,
        query: bool,
        reason: str,
        filters: FilterOptions,
    ) -> KillReport:
        if unknown := filters.keys() - FilterOptions.__annotations__.keys():
            instead = " cluster.plan(...) sends nothing." if "dry_run" in unknown else ""
            raise TypeError(f"There is no option {', '.join(sorted(unknown))}.{instead}")
        if (victims is None) == (not filters):
            raise OptionError("Pass connection IDs, a frame or filters: exactly one of these.")
        with _interruptible():
            if isinstance(victims, LockForest) or (isinstance(victims, pd.DataFrame) and "FREES" in victims.columns):
                return kill_blockers(self._pool, victims, how, self._audit(reason), query=query)
            if victims is not None:
                return kill(self._pool, targets(victims, self._pool, query=query), how, self._audit(reason))
            chosen = Filters(**filters)
            found, remarks = matching(self._pool, chosen, query=query, deadline=how.deadline)
            condition = (chosen.selecting, chosen.parameters)
            return kill(self._pool, found, how, self._audit(reason), condition=condition, remarks=remarks)

    @property
    def address(self) -> str:
        """Where it is connected, as ``user@host:port``."""
        return self._pool.settings.address

    def history(self) -> History:
        """Return what this process planned and killed, in any cluster."""
        return history()

    def _audit(self, reason: str) -> Audit:
        settings = self._pool.settings
        return Audit(settings.address, settings.user, self.audit_file, self.audit_sql, reason)

    def close(self) -> None:
        """Close what is connected, and end its threads."""
        self._pool.close()
        with self._making_twins:
            twins, self._twins = list(self._twins.values()), {}
        for clone in twins:
            clone.close()

    def _note_origin(self, listed: ProcessList, reload: Callable[..., object]) -> None:
        if listed.origin is not None:
            listed.origin = replace(listed.origin, cluster=ref(self), reload=reload, rows=len(listed))

    def clone(self, role: str) -> "Cluster":
        """Return the same with a connection of its own, one for each role: for other threads. It ends with this one.

        Raises
        ------
        NotConnectedError
            This one was closed.
        AuthenticationError, ConnectError
        """
        with self._making_twins:
            self._pool.check()
            if role not in self._twins or self._twins[role].closed:
                self._twins[role] = Cluster(Pool(self._pool.settings, self._pool.direct))
            clone = self._twins[role]
        clone.audit_file, clone.audit_sql = self.audit_file, self.audit_sql
        return clone

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._pool.closed.is_set()

    @property
    def rights(self) -> Rights:
        """Whose sessions this user may end, as far as it was last asked."""
        return Rights(self._pool.settings.user, others=self._pool.capabilities.kill_others)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied and pickled."""
        raise CopyError("A Cluster cannot be copied or pickled. Pass its URL and call tidb_magic.connect there.")

    def __enter__(self) -> Self:
        """Return the cluster."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    @property
    def state(self) -> Mapping[str, object]:
        """What is connected, by the names of the columns of ``%tidb_connect --list``. Sends no statement."""
        pool, able = self._pool, self._pool.capabilities
        return {
            "ADDRESS": pool.settings.address,
            "SOURCE": pool.settings.source,
            "VERSION": pool.main.version,
            "INSTANCES": len(pool.topology.registered()),
            "GLOBAL_KILL": able.global_kill,
            "SEES": "all" if able.see_others else "own",
            "MAY_END": "all" if able.kill_others else "own",
            "TLS": pool.main.tls,
            "CAUTIONS": "; ".join(_cautions(pool)),
        }

    def __repr__(self) -> str:
        """Return address, version and what matters for a KILL; no secrets."""
        if self.closed:
            return f"<Cluster {self.address}: closed>"
        state = self.state
        source = f" from {state['SOURCE']}" if state["SOURCE"] else ""
        global_kill = {True: "on", False: "off", None: "unknown"}[self._pool.capabilities.global_kill]
        parts = [
            f"{self.address}{source}: TiDB {state['VERSION']}",
            counted(len(self._pool.topology.registered()), "instance"),
            f"global kill {global_kill}",
            f"sees {state['SEES']} sessions",
            f"may end {state['MAY_END']} sessions",
            *([str(state["TLS"])] if state["TLS"] != "no TLS" else []),
            *(f"caution: {caution}" for caution in _cautions(self._pool)),
        ]
        return f"<Cluster {', '.join(parts)}>"


def _cautions(pool: Pool) -> list[str]:
    found = []
    if pool.capabilities.compatible_kill_query:
        found.append("compatible-kill-query is on")
    if pool.monitor.unresponsive:
        found.append(f"no answer from {', '.join(pool.monitor.unresponsive)}")
    return found


def connect(  # noqa: PLR0913 (where, and how)
    target: object = None,
    *,
    password: str | None = None,
    section: str | None = None,
    defaults_file: str | None = None,
    ssl_ca: str | None = None,
    direct: str = Direct.AUTO,
) -> Cluster:
    """Connect to a TiDB cluster.

    Parameters
    ----------
    target
        A URL: ``mysql://user@host:4000/database``, with ``?ssl_ca=PATH`` and the other options of TLS; or ``sql``, the
        current connection of jupysql; ``playground``; an engine, connection or URL of SQLAlchemy; a connection of
        PyMySQL, whose settings are taken; a Cluster; or Settings. Without any: the group [tidb_magic] of ``~/.my.cnf``,
        then the variables TIDB_MAGIC_URL, DATABASE_URL, and TIDB_HOST with TIDB_PORT, TIDB_USER, TIDB_PASSWORD,
        TIDB_DB_NAME and CA_PATH, of the environment or a ``.env``.
    password
        If None and there is none in the target or in the keyring (service tidb_magic, user ``user@host:port``): the
        empty password is tried, then the person is asked if one is there.
    section
        A section of jupysql's connections file; with `defaults_file` a group of that.
    defaults_file
        A MySQL option file: its groups [client] and [tidb_magic].
    ssl_ca
        A file with the CA of the server's certificate: TLS, verified.
    direct
        Whether to connect to the addresses that the instances advertise, to read them separately while another one is
        unresponsive: ``auto`` (not to a loopback address of another machine), ``always`` or ``never``. Without it the
        given address is tried again until it leads there, as a balancer does.

    Raises
    ------
    OptionError, SettingsError, NotConnectedError
        There is nothing to connect to, or it cannot be read.
    AuthenticationError, TlsError, NotTidbError, ConnectError
    Interrupted
    """
    if direct not in list(Direct):
        raise OptionError(f"direct is {', '.join(Direct)}, not {direct!r}.")
    if isinstance(target, Cluster):
        target = target._pool.settings  # noqa: SLF001 (of this module)
    with _interruptible():
        found = find(target, section=section, defaults_file=defaults_file, ssl_ca=ssl_ca)
    typed = isinstance(target, str) and "://" in target
    del target  # a traceback with locals must not show it
    if isinstance(found, TidbMagicError):
        del password
        raise found
    if password is not None:
        found = replace(found, password=Secret(password))
    elif typed and found.password is not None:
        warnings.warn_explicit(
            "The password in the URL stays in this notebook and in the history. Omit it: you will be prompted.",
            PasswordInUrlWarning,
            "tidb_magic.connect",  # in the place of a file, of which the line would be shown, with the password
            1,
        )
    del password
    with _interruptible():
        return Cluster(_pool(found if found.password is not None else with_keyring(found), Direct(direct)))


def _pool(settings: Settings, direct: Direct) -> Pool:
    try:
        return Pool(settings, direct)
    except AuthenticationError as error:
        if settings.password is not None:
            raise
        refused = error
    return Pool(replace(settings, password=prompt(settings, refused)), direct)


def _read_locks(cluster: Cluster, deadline: float) -> LockForest:
    with _interruptible():
        return locks(cluster._pool, deadline=deadline)  # noqa: SLF001 (of this module)


def _read(cluster: Cluster, filters: Filters, **how: Any) -> ProcessList:
    with _interruptible():
        return read(cluster._pool, filters, **how)  # noqa: SLF001 (of this module)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C, wherever it hits, into one line."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted("Nothing was returned.") from None
