"""The magics: they parse a line, call the library and return its value."""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.magic import (
    cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
    output_can_be_silenced,
)
from traitlets import observe

from tidb_magic.errors import NotConnectedError, OptionError
from tidb_magic.notebook.arguments import (
    FILTERS,
    LIVE,
    NOT_WITH,
    Parser,
    connect_parser,
    kill_cell,
    kill_parser,
    kill_targets,
    limit_seconds,
    ps_parser,
    usage_error,
)
from tidb_magic.notebook.config import Preferences
from tidb_magic.notebook.run import run
from tidb_magic.stop.interrupts import Stop

if TYPE_CHECKING:
    from tidb_magic.api import Cluster
    from tidb_magic.kill.report import History, KillReport
    from tidb_magic.locks.lock_forest import LockForest
    from tidb_magic.notebook.connections import Connected
    from tidb_magic.sessions.processlist import ProcessList
    from tidb_magic.sessions.summaries import ConnectionList, InstanceList, SessionCounts
    from tidb_magic.widget.settings import TableSettings
    from tidb_magic.widget.table import SessionTable

_VARIABLE = re.compile(r"\$\w+|\{.*\}")
# What shows itself as a table with Kill buttons.
_SHOWN = [
    ("sessions.processlist", "ProcessList"),
    ("locks.lock_forest", "LockForest"),
    ("widget.table", "SessionTable"),
]


@magics_class
class TidbMagics(Preferences):
    """%tidb_connect, %tidb_ps and %tidb_kill."""

    def __init__(self, shell: Any) -> None:
        self._open: Connected | None = None  # made when it is needed: it imports pandas
        self.seen: ProcessList | None = None  # what Tab completes from
        self.stopping = Stop(lambda: self.stop)
        super().__init__(shell)

    @property
    def cluster(self) -> "Cluster | None":
        """The cluster that is current."""
        return self._open.current if self._open else None

    @property
    def clusters(self) -> "Mapping[str, Cluster]":
        """What is connected, by alias."""
        return self._open.clusters if self._open else {}

    @no_var_expand
    @output_can_be_silenced
    @needs_local_scope
    @line_magic
    def tidb_connect(self, line: str, local_ns: dict[str, Any] | None = None) -> "Cluster | ConnectionList":
        """Connect to a TiDB cluster.

            %tidb_connect [URL | ALIAS | VARIABLE | sql | playground] [--alias NAME] [--ssl-ca PATH]
            %tidb_connect --section NAME | --defaults-file PATH
            %tidb_connect [--list]
            %tidb_connect [ALIAS] --close

        The source is the first of these that applies:

        URL            mysql://user@host:4000/database, or mysql+pymysql://. Leave the password out.
        ALIAS          the name that --alias gave to an open connection
        VARIABLE       holds a URL; an engine, connection or URL of SQLAlchemy, or a connection of PyMySQL, whose
                       settings are used for a new connection; or a Cluster
        sql            the current connection of jupysql
        playground     a real three-instance TiDB cluster on this machine with a small crowd of users; one is started
                       if none runs, and built the first time (about 6 minutes)
        --section      a section of jupysql's connections.ini; with --defaults-file a group of that file
        --defaults-file  a MySQL option file: its groups [client] and [tidb_magic]
        without any    the group [tidb_magic] of ~/.my.cnf, with [client]; then the variables TIDB_MAGIC_URL,
                       DATABASE_URL, and TIDB_HOST (with TIDB_PORT, TIDB_USER, TIDB_PASSWORD, TIDB_DB_NAME, CA_PATH), of
                       the environment, then of a .env in this folder or above

        Passwords are looked up in this order: the source, the keyring (if the package keyring is installed; service
        tidb_magic, user user@host:port), an empty password, a prompt.

        TLS is verified wherever it is required: by --ssl-ca, by ?ssl_ca=PATH or ?ssl_mode=REQUIRED in the URL, by the
        source, and for *.tidbcloud.com. Otherwise it is used if the server offers it, without verification. To relax
        verification, set: ?ssl_verify_identity=false (any host name), ?ssl_verify_cert=false (any certificate),
        ?ssl_mode=DISABLED (no TLS).

        --alias NAME   keep it beside others, under this name; a connection without a name replaces the last such one.
                       Without a target, or with an alias, it renames that connection
        --ssl-ca PATH  the CA of the server's certificate
        --list         the open connections; without any argument the current Cluster is returned
        --close        close the connection, with its tables and threads; then none is current

        Returns a Cluster; with --list a ConnectionList, a DataFrame.

            %tidb_connect mysql://analyst@db.example.com:4000
            %tidb_connect engine --alias prod
            %tidb_connect prod
            %tidb_connect --defaults-file ~/.my.cnf
            %tidb_connect playground
        """
        reader = connect_parser()
        options = reader.parse(line)
        variable = self._names(local_ns).__getitem__
        del line, local_ns  # they can hold passwords, which no traceback may show
        alone = {name for name, value in vars(options).items() if value}
        if (options.list and alone != {"list"}) or (options.close and not alone <= {"close", "target"}):
            reader.error("--list stands alone, and --close with an alias or alone")
        if _VARIABLE.fullmatch(options.target or ""):
            reader.error("Variables are not expanded here: type the name alone")
        if self._open is None:
            from tidb_magic.notebook.connections import Connected

            self._open = Connected()
        if options.list:
            return self._open.table()
        before = self.cluster
        try:
            if options.close:
                return self._open.close(options.target or self._open.name(self._connected()))
            given = {name: vars(options)[name] for name in alone & {"section", "defaults_file", "ssl_ca"}}
            return self._open.connect(vars(options).pop("target"), variable, given, options.alias, self.direct)
        except OptionError as error:
            raise usage_error("%tidb_connect", str(error)) from error
        finally:
            if self.cluster is not before:
                self.seen = None
                self._write_down()

    @no_var_expand
    @output_can_be_silenced
    @line_magic
    def tidb_ps(self, line: str) -> "ProcessList | SessionCounts | LockForest | InstanceList | History | SessionTable":
        """List the sessions of the whole cluster.

            %tidb_ps [FILTERS] [--idle] [--sort COL] [--limit N] [--full]
            %tidb_ps --by COL[,COL] [FILTERS] [--limit N]
            %tidb_ps --locks
            %tidb_ps --instances
            %tidb_ps --history
            %tidb_ps --live [SEC] [FILTERS] [--idle] [--sort COL] [--limit N] [--full]

        By default sessions that run a statement or hold a transaction, longest running first; the footer counts the
        hidden ones. Returns a ProcessList, a DataFrame with the columns of INFORMATION_SCHEMA.CLUSTER_PROCESSLIST.

        If an instance does not respond within the deadline (%config TidbMagics.deadline, 3 seconds), the others are
        read separately, and the footer names the missing one. While no instance has answered, the first answer is
        waited for up to ten times as long; Ctrl-C ends the wait.

        Filters; a session must match all that are given:

        --user USER          its user
        --host HOST          where its client is, without the port
        --db DB              its database
        --instance ADDRESS   its instance, as the list shows it
        --command COMMAND    Query, Sleep, Execute ...; Sleep lists idle sessions
        --min-time SEC       TIME is at least that many seconds
        --match REGEX        its statement matches this regular expression (TiDB's RLIKE)
        --where SQL          a condition in SQL over the columns of CLUSTER_PROCESSLIST
        --mine               it belongs to a connection in this kernel, of PyMySQL or of an engine of SQLAlchemy
        --orphans            a kernel that was ended by force has left it

        --idle               list idle sessions too
        --sort COL           by this column: numbers from the largest, text from A (default: TIME)
        --limit N            list at most N (default: 200); all are counted
        --full               show whole statements, also those of more than 16 KiB

        Views, at most one:

        --by COL[,COL]       count sessions by these columns: SESSIONS (idle ones too), ACTIVE, LONGEST, MEMORY
        --locks              which session blocks which: root blockers first, each with the sessions that wait for it
        --instances          the instances: address, version, server ID, start time, sessions, memory, responding or not
        --history            the plans and kills of this kernel; needs no connection
        --live [SEC]         the list as a table that is read again, every 2 seconds by default; in a notebook

            %tidb_ps
            df = %tidb_ps --idle --user app
            %tidb_ps --min-time 60 --match '^SELECT'
            %tidb_ps --where 'MEM > 1 << 30' --sort MEM
            %tidb_ps --by USER,DB
            blocked = %tidb_ps --locks
            %tidb_ps --live 5 --user app

        In a notebook a list is displayed as a table with Kill buttons, which ask before they send anything.
        """
        reader = ps_parser()
        given = {name: value for name, value in vars(reader.parse(line)).items() if value is not None}
        for view, others in NOT_WITH.items():
            if view in given and (besides := sorted(others & given.keys())):
                reader.error(f"--{view} does not go with --{besides[0].replace('_', '-')}")
        if "history" in given:
            from tidb_magic.kill.report import history

            return history()
        cluster = self._connected()
        try:
            if given.pop("locks", False):
                return cluster.locks(deadline=self.deadline)
            if given.pop("instances", False):
                return cluster.instances(deadline=self.deadline)
            if (by := given.pop("by", None)) is not None:
                return cluster.count_by(*by.split(","), **{"limit": self.limit, **given}, deadline=self.deadline)
            live = given.pop("live", None)
            live = self.live_interval if live == LIVE else live
            if live is not None and not self._widgets():
                reader.error("--live needs a notebook with widgets; %tidb_ps lists once")
            listed = cluster.processlist(**{"limit": self.limit, **given}, deadline=self.deadline)
        except OptionError as error:
            raise reader.as_usage_error(error) from error
        listed.remarks = (*listed.remarks, *_as_typed(given))
        self.seen = listed
        if live is None:
            return listed
        from tidb_magic.widget.table import SessionTable

        return SessionTable(listed, self._for_widgets(), live=live)

    @no_var_expand
    @needs_local_scope
    @line_magic
    def tidb_kill(self, line: str, local_ns: dict[str, Any] | None = None) -> "KillReport":
        """End sessions or their statements, on any instance.

            %tidb_kill [KILL] [TIDB] [CONNECTION | QUERY] ID...
            %tidb_kill [CONNECTION | QUERY] FILTERS [--yes]
            %tidb_kill [CONNECTION | QUERY] --from VARIABLE [--yes]

        CONNECTION (or neither word) ends the session; QUERY ends its running statement, and the session lives on.
        An ID is digits or {expression}: an ID, a column of IDs, or rows of %tidb_ps. Returns a KillReport: a DataFrame
        with one row per ID and an OUTCOME that was observed: killed, interrupted, still running, unconfirmed, already
        gone, changed, refused, unreachable or failed.

        IDs are killed at once. With filters, which are those of %tidb_ps, and with --from, a variable that holds rows
        of %tidb_ps or IDs, nothing is sent without --yes: the OUTCOME is planned. The session, user, statement and
        transaction of a row must still be the same; otherwise the OUTCOME is changed, and nothing is sent.

        --yes            kill the sessions that match the filters, or the rows of --from
        --dry-run        only show what would be sent
        --max-victims N  send nothing if there are more targets (default: %config TidbMagics.max_victims, 50)
        --force          send also to DDL, IMPORT INTO, internal work and committing transactions
        --timeout SEC    seconds from each KILL to the proof of its effect (default: 10)
        --reason TEXT    kept in %tidb_ps --history and the audit file (%config TidbMagics.audit_file)

        --user USER, --host HOST, --db DB, --instance ADDRESS, --command COMMAND, --min-time SEC, --match REGEX,
        --where SQL, --mine, --orphans and --idle are the filters: see %tidb_ps?.

            %tidb_kill QUERY 5857102839209263511
            %tidb_kill {df.ID.iloc[0]} {df.ID.iloc[1]}
            %tidb_kill QUERY --user batch --min-time 600 --yes
            %tidb_kill --from blocked --yes

        From a list of %tidb_ps --locks, --from takes the root blockers for which sessions still wait. Then the waiting
        sessions are watched for up to 30 s; Ctrl-C ends only the watching.
        """
        reader = kill_parser()
        expanded, values = reader.expand(line, lambda text: eval(text, self._names(local_ns)))  # noqa: S307 (typed here)
        options = reader.parse(expanded)
        query, victims = kill_targets(options.words, values)
        ids = victims is not None
        filters = {name: value for name in FILTERS if (value := getattr(options, name)) is not None}
        if ids + (options.from_ is not None) + bool(filters) > 1:
            reader.error("give ids, --from or filters: exactly one of these")
        if not (ids or options.from_ or filters):
            reader.error("Expected a connection id (digits only), found the end: give ids, --from or filters")
        if options.yes and options.dry_run:
            reader.error("--yes does not go with --dry-run")
        if options.from_:
            victims = self._variable(reader, options.from_, local_ns)
        if ids and hasattr(victims, "roots"):
            reader.error("a lock forest needs --from VARIABLE, which plans first")
        plan = options.dry_run or not (ids or options.yes)
        killed = self._kill(reader, options, victims, plan=plan, query=query, **filters)
        killed.remarks = (*killed.remarks, *_as_typed(filters))
        if plan and not options.dry_run and (killed["OUTCOME"] == "planned").any():
            most = max(len(killed), options.max_victims or self.max_victims)
            more = f" --max-victims {most}" if most > (options.max_victims or self.max_victims) else ""
            how = f"%tidb_kill {line.strip().removesuffix(';')} --yes{more}"
            killed.remarks = (*killed.remarks, f"Nothing was sent. To send it: {how}")
        return killed

    @no_var_expand
    @cell_magic("tidb_kill")  # type: ignore[arg-type]  # as IPython documents it
    def tidb_kill_cell(self, line: str, cell: str) -> "KillReport":
        """Execute a cell of KILL statements, one a line or separated by semicolons. Acts at once.

            %%tidb_kill [--dry-run] [--max-victims N] [--force] [--timeout SEC] [--reason TEXT]

        If one of them is wrong, nothing is sent. See %tidb_kill? for the options.

            %%tidb_kill
            KILL QUERY 5857102839209263511;
            KILL 5857102839209263513
        """
        reader = kill_parser()
        options = reader.parse(line)
        for name in ("words", "from_", "yes", *sorted(FILTERS)):
            if getattr(options, name) not in (None, []) and getattr(options, name) is not False:
                option = "an id" if name == "words" else f"--{name.strip('_').replace('_', '-')}"
                raise usage_error("%%tidb_kill", f"the cell contains the targets: {option} is not allowed here.")
        return self._kill(reader, options, kill_cell(cell), plan=options.dry_run)

    @no_var_expand
    @output_can_be_silenced
    @cell_magic
    def tidb_limit(self, line: str, cell: str) -> Any:
        """Run a cell for a limited time; then interrupt it, and end the statements that it runs in TiDB.

            %%tidb_limit 30s
            df = pd.read_sql(query, engine)

        The time is a number of seconds, or one with a unit: 30s, 5m, 1h. A cell that takes longer gets TimeLimitError.
        Its statements are ended as after the Stop button, also INSERT, UPDATE and DELETE, which MAX_EXECUTION_TIME does
        not end; they are rolled back. DDL is not ended: %tidb_ps --mine lists it. What became of each is printed.
        """
        with self.stopping.limit(limit_seconds(line)):
            return run(self.shell, cell)

    def _kill(
        self, reader: Parser, options: argparse.Namespace, victims: Any, *, plan: bool, **targets: Any
    ) -> "KillReport":
        if options.max_victims is not None and options.max_victims < 1:
            reader.error(f"--max-victims must be a whole number of 1 or more, not {options.max_victims}")
        cluster = self._connected()
        how = {"deadline": self.deadline, "force": options.force, "reason": options.reason}
        if not plan:
            how["max_victims"] = self.max_victims if options.max_victims is None else options.max_victims
            how["timeout"] = self.timeout if options.timeout is None else options.timeout
        try:
            return (cluster.plan if plan else cluster.kill)(victims, **how, **targets)
        except OptionError as error:
            raise reader.as_usage_error(error) from error

    def _names(self, local_ns: dict[str, Any] | None) -> dict[str, Any]:
        return {**(self.shell.user_ns if self.shell else {}), **(local_ns or {})}

    def _variable(self, reader: Parser, name: str, local_ns: dict[str, Any] | None) -> Any:
        names = self._names(local_ns)
        if name not in names:
            hint = f"; assign it first: x = {name}" if not name.isidentifier() else ""
            reader.error(f"--from: there is no variable {name!r}{hint}")
        return names[name]

    # -- what cells leave running ----------------------------------------------------------------------------------

    def follow_cells(self, shell: Any) -> None:
        """Have what an interrupted cell leaves running ended."""
        shell.events.register("pre_run_cell", self.stopping.begins)
        shell.events.register("post_run_cell", self._cell_ends)
        self.stopping.follow(Path(shell.profile_dir.pid_dir) if shell.profile_dir is not None else None)

    def follow_no_more(self, shell: Any) -> None:
        """Undo that."""
        for event, callback in (("pre_run_cell", self.stopping.begins), ("post_run_cell", self._cell_ends)):
            if callback in shell.events.callbacks[event]:
                shell.events.unregister(event, callback)
        self.stopping.unfollow()

    def _cell_ends(self, result: Any) -> None:
        self.stopping.ends(getattr(result, "error_in_exec", None))

    # -- the table with Kill buttons -----------------------------------------------------------------------------

    def show_with(self, shell: Any) -> None:
        """Have lists shown as tables with Kill buttons, if this shell is a kernel's. Imports nothing yet."""
        if hasattr(shell, "kernel"):
            shown = shell.display_formatter.ipython_display_formatter
            for module, name in _SHOWN:
                shown.for_type_by_name(f"tidb_magic.{module}", name, self._show)

    def show_no_more(self, shell: Any) -> None:
        """Undo that, and close all tables."""
        if not hasattr(shell, "kernel"):
            return
        for module, name in _SHOWN:
            shell.display_formatter.ipython_display_formatter.pop(f"tidb_magic.{module}.{name}", None)
        if "tidb_magic.widget.table" in sys.modules:
            from tidb_magic.widget import busy, table

            busy.BUSY.unfollow(shell)
            table.close_all()

    def _show(self, shown: Any) -> None:
        if not self._widgets():
            raise NotImplementedError  # which IPython takes for: show it as text and HTML
        from tidb_magic.notebook.display import show
        from tidb_magic.widget.busy import BUSY

        if self.shell is not None:
            BUSY.follow(self.shell)
        show(shown, self._for_widgets())

    def _widgets(self) -> bool:
        """Return whether there is a kernel, with what widgets need."""
        if not hasattr(self.shell, "kernel"):
            return False
        try:
            import tidb_magic.widget.table  # noqa: F401
        except ImportError:
            return False
        return True

    def _for_widgets(self) -> "TableSettings":
        from tidb_magic.widget.settings import TableSettings

        return TableSettings(self.deadline, self.max_victims, self.timeout, self.live_interval)

    @observe("audit_file", "audit_sql")
    def _write_down(self, _change: object = None) -> None:
        """Give the settings to the clusters that are connected."""
        for cluster in self.clusters.values():
            cluster.audit_file, cluster.audit_sql = self.audit_file or None, self.audit_sql

    def close(self) -> None:
        """Close what is connected, and show statements again."""
        if self._open is not None:
            self._open.close_all()
        self.seen = None
        self.show_sql = True

    def _connected(self) -> "Cluster":
        if self.cluster is None:
            there = f"; there are: {', '.join(name or '(no alias)' for name in self.clusters)}" if self.clusters else ""
            raise NotConnectedError(
                f"Not connected. Type: %tidb_connect mysql://user@host:4000 (or: %tidb_connect playground){there}"
            )
        return self.cluster


def _as_typed(filters: Mapping[str, Any]) -> list[str]:
    """Return remarks on filters that look like a variable: variables are expanded only in the place of IDs."""
    texts = ((name, value) for name, value in filters.items() if isinstance(value, str))
    return [
        f"--{name} {value} is taken as typed: variables are not expanded here."
        for name, value in texts
        if _VARIABLE.fullmatch(value)
    ]
