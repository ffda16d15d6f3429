"""The notebook front: parse a line, call the library, return what it gives."""

import argparse
import re
import shlex
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand, output_can_be_silenced
from traitlets import Enum, Float

from tidb_magic.errors import Interrupted, KillSyntaxError, NotConnectedError, OptionError
from tidb_magic.grammar import KillStatement, parse_kill
from tidb_magic.settings import seconds

if TYPE_CHECKING:
    from tidb_magic.api import Cluster
    from tidb_magic.kill import KillReport
    from tidb_magic.processlist import ProcessList
    from tidb_magic.views import InstanceList, SessionCounts

PLAYGROUND = "playground"
_FILTERS = {"user", "host", "db", "instance", "command", "min_time", "match", "where", "idle"}
# Each view without the options that would do nothing there.
_NOT_WITH = {"by": {"sort", "full", "idle"}, "instances": _FILTERS | {"sort", "full", "limit", "by"}}


def _usage_error(magic: str, message: str) -> UsageError:
    message = re.sub(r"://\S*@", "://...@", message)  # what is repeated of a line must not hold a password
    return UsageError(f"{magic}: {message} {magic}? shows the help.")


class _Parser(argparse.ArgumentParser):
    """Options as in a shell. A wrong one is IPython's UsageError; -h and --help show the help of the magic."""

    def error(self, message: str) -> NoReturn:
        raise _usage_error(self.prog, f"{message}.")

    def parse(self, line: str) -> argparse.Namespace:
        try:
            words = shlex.split(line.strip().removesuffix(";"))
        except ValueError as error:
            self.error(f"{error} (quotes as in a shell)".lower())
        return self.parse_intermixed_args(words)


def _parser(name: str) -> _Parser:
    return _Parser(prog=f"%{name}", add_help=False, allow_abbrev=False)


@cache  # making it takes half a millisecond
def _ps_parser() -> _Parser:
    parser = _parser("tidb_ps")
    for name in ("user", "host", "db", "instance", "command", "match", "where", "sort", "by"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--min-time", type=float)
    parser.add_argument("--limit", type=int)
    for name in ("idle", "full", "instances"):
        parser.add_argument(f"--{name}", action="store_true", default=None)
    return parser


def _seconds(text: str) -> float:
    try:
        return seconds(float(text), "the time")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error).removesuffix(".")) from error


@magics_class
class TidbMagics(Magics):
    """%tidb_connect, %tidb_ps and %tidb_kill."""

    deadline = Float(
        3.0,
        min=0.1,
        max=86_400,
        help="Seconds that the cluster's own list gets; after that each instance is read by itself.",
    ).tag(config=True)
    direct = Enum(
        ["auto", "always", "never"],
        "auto",
        help="Whether to connect to the addresses that the instances advertise: auto, always or never.",
    ).tag(config=True)

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.cluster: Cluster | None = None

    @no_var_expand
    @output_can_be_silenced
    @line_magic
    def tidb_connect(self, line: str) -> "Cluster":
        """Connect to a TiDB cluster.

            %tidb_connect [URL | playground]

        URL         mysql://user@host:4000/database. Leave the password out: you are asked for it if one is needed.
        playground  a real three-instance TiDB cluster on this machine with a small crowd of users; one is started
                    if none runs, and built the first time (about 6 minutes).

        Without a word it returns the cluster that is connected. A new connection replaces it. Returns a Cluster.

            %tidb_connect mysql://analyst@db.example.com:4000
            %tidb_connect playground
        """
        parser = _parser("tidb_connect")
        parser.add_argument("target", nargs="?")
        options = parser.parse(line)
        del line  # it can hold a password, which no traceback may show
        if options.target is None:
            return self._connected()
        from tidb_magic.api import connect

        url = _playground_url() if options.target == PLAYGROUND else vars(options).pop("target")
        cluster = connect(url, direct=self.direct)
        self.close()
        self.cluster = cluster
        return cluster

    @no_var_expand
    @output_can_be_silenced
    @line_magic
    def tidb_ps(self, line: str) -> "ProcessList | SessionCounts | InstanceList":
        """List the sessions of the whole cluster.

            %tidb_ps [FILTERS] [--idle] [--sort COL] [--limit N] [--full]
            %tidb_ps --by COL[,COL] [FILTERS] [--limit N]
            %tidb_ps --instances

        By default those that run a statement or hold a transaction, longest running first; the footer counts the
        others. Returns a ProcessList, a DataFrame with the columns of INFORMATION_SCHEMA.CLUSTER_PROCESSLIST.

        If an instance does not answer within the deadline (%config TidbMagics.deadline, 3 seconds) the others are read
        by themselves, and the footer names who is missing.

        Filters; a session must match all that are given:

        --user USER          its user
        --host HOST          where its client is, without the port
        --db DB              its database
        --instance ADDRESS   its instance, as the list shows it
        --command COMMAND    Query, Sleep, Execute ...; Sleep lists idle sessions
        --min-time SEC       TIME is at least that many seconds
        --match REGEX        its statement matches this regular expression (TiDB's RLIKE)
        --where SQL          a condition in SQL over the columns of CLUSTER_PROCESSLIST

        --idle               list idle sessions too
        --sort COL           by this column: numbers from the largest, text from A (default: TIME)
        --limit N            list at most N (default: 200); all are counted
        --full               statements whole, also those of more than 16 KiB

        Views, one at most:

        --by COL[,COL]       count sessions by these columns: SESSIONS (idle ones too), ACTIVE, LONGEST, MEMORY
        --instances          the instances: address, version, server id, up since, sessions, memory, answering or not

            %tidb_ps
            df = %tidb_ps --idle --user app
            %tidb_ps --min-time 60 --match '^SELECT'
            %tidb_ps --where 'MEM > 1 << 30' --sort MEM
            %tidb_ps --by USER,DB
        """
        parser = _ps_parser()
        given = {name: value for name, value in vars(parser.parse(line)).items() if value is not None}
        for view in ("instances", "by"):
            if view in given and (besides := sorted(_NOT_WITH[view] & given.keys())):
                parser.error(f"--{view} does not go with --{besides[0].replace('_', '-')}")
        cluster = self._connected()
        try:
            if given.pop("instances", False):
                return cluster.instances(deadline=self.deadline)
            if (by := given.pop("by", None)) is not None:
                return cluster.count_by(*by.split(","), **given, deadline=self.deadline)
            return cluster.processlist(**given, deadline=self.deadline)
        except OptionError as error:
            message = re.sub(r"^\w+", lambda name: "--" + name[0].replace("_", "-"), str(error))
            raise _usage_error(parser.prog, message) from error

    @output_can_be_silenced
    @line_magic
    def tidb_kill(self, line: str) -> "KillReport":
        """End sessions or their statements, on any instance.

            %tidb_kill [KILL] [TIDB] [CONNECTION | QUERY] ID...

        CONNECTION (or neither word) ends the session; QUERY ends its running statement, the session lives on.
        Acts at once. Returns a KillReport: a DataFrame with one row an ID and an OUTCOME that was observed:
        killed, interrupted, still running, unconfirmed, already gone, refused, unreachable or failed.

        --dry-run      only show what would be sent
        --timeout SEC  seconds from each KILL to its proof (default: 10)

            %tidb_kill QUERY 5857102839209263511
            %tidb_kill 5857102839209263511 5857102839209263513
        """
        parser = _parser("tidb_kill")
        parser.add_argument("words", nargs="*")
        parser.add_argument("--dry-run", action="store_true")
        parser.add_argument("--timeout", type=_seconds)
        options = parser.parse(line)
        statements = kill_words(options.words)
        timeout = {} if options.timeout is None else {"timeout": options.timeout}
        return self._connected().execute(statements, dry_run=options.dry_run, **timeout)

    def close(self) -> None:
        """Close what is connected."""
        if self.cluster is not None:
            self.cluster.close()
            self.cluster = None

    def _connected(self) -> "Cluster":
        if self.cluster is None:
            raise NotConnectedError(
                "Not connected. First: %tidb_connect mysql://user@host:4000 (or: %tidb_connect playground)"
            )
        return self.cluster


def kill_words(words: Sequence[str]) -> list[KillStatement]:
    """Read ``[KILL] [TIDB] [CONNECTION | QUERY] ID...``: KILL's grammar, but with several ids.

    >>> [statement.sql for statement in kill_words(["QUERY", "5", "7"])]
    ['KILL TIDB QUERY 5', 'KILL TIDB QUERY 7']
    """
    scope, ids = ["KILL"], list(words)
    for choice in (["KILL"], ["TIDB"], ["CONNECTION", "QUERY"]):
        if ids and ids[0].upper() in choice:
            word = ids.pop(0).upper()
            scope += [word] if word != "KILL" else []
    for word in ids:
        if not (word.isascii() and word.isdecimal()):
            raise _usage_error("%tidb_kill", f"expected connection ids (digits only), found {word!r}.")
    try:
        return [parse_kill(" ".join([*scope, word])) for word in ids or [""]]
    except KillSyntaxError as error:
        raise _usage_error("%tidb_kill", f"{error.problem}.") from error


def _playground_url() -> str:
    try:
        from tidb_magic.playground.cluster import obtain
        from tidb_magic.playground.records import Options
    except ModuleNotFoundError as error:
        raise UsageError(str(error)) from error
    try:
        return obtain(Options(workload=True)).url(0)
    except KeyboardInterrupt:
        raise Interrupted("What was started is stopped again.") from None
