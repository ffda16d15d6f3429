"""What Tab offers behind the magics: options, values of the last list, names. Asks no server, evaluates nothing."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.error import UsageError
from IPython.core.prefilter import is_shadowed

from tidb_magic.notebook.arguments import FILTERS, NOT_WITH, Parser, connect_parser, kill_parser, ps_parser

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from tidb_magic.notebook.magics import TidbMagics
    from tidb_magic.sessions.processlist import ProcessList

IDENTIFIER = "tidb_magic"
# Of CLUSTER_PROCESSLIST in TiDB 8.5.6, for as long as no list was read.
COLUMNS = [
    "INSTANCE",
    "ID",
    "USER",
    "HOST",
    "DB",
    "COMMAND",
    "TIME",
    "STATE",
    "INFO",
    "DIGEST",
    "MEM",
    "DISK",
    "TxnStart",
    "RESOURCE_GROUP",
    "SESSION_ALIAS",
    "ROWS_AFFECTED",
    "TIDB_CPU",
    "TIKV_CPU",
]
_OURS = {"TXN_ID", "TXN_START_TIME"}  # columns of a list that TiDB does not have
_PARSERS = {"tidb_connect": connect_parser, "tidb_ps": ps_parser, "tidb_kill": kill_parser}
_MAGIC = re.compile(rf"\s*(?P<assigned>[^%=()#]+=\s*)?(?P<escape>%{{0,2}})(?P<name>{'|'.join(_PARSERS)})[ \t]+")
_WORD = re.compile(r"""(?:[^ \t\r\n'"\\]|\\.|'[^']*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|\\?$)|\\$)+""")  # the last may be open
_PORT = re.compile(r":[0-9]+$")
_LISTED = {"user", "host", "db", "instance", "command"}
_TARGETS = {
    ("pymysql", "Connection"),
    *(("sqlalchemy", name) for name in ("Engine", "Connection", "URL", "AsyncEngine", "AsyncConnection")),
    ("tidb_magic", "Cluster"),
}
_MANY_IDS = {("pandas", "Series"), ("pandas", "Index"), ("numpy", "ndarray"), ("numpy", "integer")}
_LOOKED_AT = 100  # of the values of a list, in order to tell whether it holds ids

Offer = tuple[str, str]  # what comes into the line, and what is shown beside it


def install(shell: "InteractiveShell", magics: "TidbMagics") -> None:
    """Complete the lines of the magics in this shell."""

    @context_matcher(identifier=IDENTIFIER)  # type: ignore[untyped-decorator]  # IPython has no types for it
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        word, offers = "", list[Offer]()
        with suppress(Exception):  # whatever it is, a person who pressed Tab cannot do anything about it
            if line := _line(context, shell):
                word, offers = line.word, list(islice(line.offers(magics, shell.user_ns), context.limit))
        found = [SimpleCompletion(text, type=beside) for text, beside in offers]
        return SimpleMatcherResult(completions=found, matched_fragment=word, suppress=bool(found), ordered=True)

    shell.Completer.custom_matchers.append(matcher)


def remove(shell: "InteractiveShell") -> None:
    """Undo that."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [one for one in matchers if getattr(one, "matcher_identifier", None) != IDENTIFIER]


@dataclass(frozen=True)
class Line:
    """What is typed behind a magic, up to the cursor.

    `word` is the word before the cursor, quotes included; `given` are the options of the whole line; `wanting` is
    the option that needs its value there; `others` are the words before that are neither options nor values.
    """

    parser: Parser
    above_cell: bool
    word: str
    given: frozenset[str]
    wanting: argparse.Action | None
    others: tuple[str, ...]

    def offers(self, magics: "TidbMagics", names: Mapping[str, Any]) -> Iterator[Offer]:
        """Return what the word can become."""
        action, before, word = self.wanting, "", self.word
        option, equals, value = word.partition("=")
        if equals and option in self.parser.options:
            action, before, word = self.parser.options[option], f"{option}=", value
        typed = _unquoted(word)
        if action is None and typed.startswith("-"):
            yield from _fitting(self._options(), typed)
            return
        found = self._words(typed, magics, names) if action is None else _values(action.dest, typed, magics, names)
        nothing = True
        for text, beside in _fitting(found, typed):
            if not text.startswith("-"):  # which would be taken for an option
                nothing = False
                yield before + shlex.quote(text), beside
        if nothing and action is None and not typed:
            yield from self._options()

    def _ids(self) -> set[str]:
        return {word for word in self.others if word.upper() not in {"KILL", "TIDB", "QUERY", "CONNECTION"}}

    def _options(self) -> Iterator[Offer]:
        """Return the options that are not given yet, and do not contradict what is."""
        out = set(self.given)
        for view, others in NOT_WITH.items():
            out |= others if view in self.given else {view} if others & self.given else set()
        if out & {"yes", "dry_run"}:
            out |= {"yes", "dry_run"}
        if self.above_cell or self._ids() or "from_" in out:
            out |= FILTERS | {"from_"}
        elif out & FILTERS:
            out.add("from_")
        if self.above_cell:
            out.add("yes")
        return ((text, "option") for text, action in self.parser.options.items() if action.dest not in out)

    def _words(self, typed: str, magics: "TidbMagics", names: Mapping[str, Any]) -> Iterator[Offer]:
        """Return the words that are no options: a source, or the targets of a kill."""
        if self.parser is connect_parser() and not self.others:
            yield from [("playground", "cluster of this machine"), ("sql", "connection of %sql")]
            yield from ((alias, "connected") for alias in magics.clusters)
            yield from _variables(names, _is_target)
        if self.parser is kill_parser() and not self.above_cell:
            if {word.upper() for word in self.others} <= {"KILL", "TIDB"}:
                yield from [("QUERY", "its statement"), ("CONNECTION", "the session")]
            if magics.seen is not None and not self.given & (FILTERS | {"from_"}):
                done = self._ids()
                yield from (offer for offer in _sessions(magics.seen, typed) if offer[0] not in done)


def _line(context: CompletionContext, shell: "InteractiveShell") -> Line | None:
    """Read the line of the cursor; None if it is no magic's of ours, or the cursor is inside a word or ``{...}``."""
    before, after = context.text_until_cursor, context.line_with_cursor[context.cursor_position :]
    magic = _MAGIC.match(before)
    if magic is None or after[:1].strip(" \t\r;") or not _is_run(magic, context, shell):
        return None
    typed = before[magic.end() :]
    word = next((found[0] for found in _WORD.finditer(typed) if found.end() == len(typed)), "")
    parser, whole = _PARSERS[magic["name"]](), typed.removesuffix(word)
    if magic["name"] == "tidb_kill":
        try:
            whole = parser.expand(whole, lambda _: None)[0]
        except UsageError:  # the braces are open, and what is in them is Python
            return None
    given, wanting, others = set(), None, []
    for one in shlex.split(whole):
        option, equals, _ = one.partition("=")
        if action := parser.options.get(option):
            given.add(action.dest)
            wanting = None if equals or action.nargs == 0 else action
        elif wanting is not None:
            wanting = None
        else:
            others.append(one)
    given |= {action.dest for one in after.split() if (action := parser.options.get(one.partition("=")[0]))}
    needing = wanting if wanting is not None and wanting.nargs is None else None
    return Line(parser, magic["escape"] == "%%", word, frozenset(given), needing, tuple(others))


def _is_run(magic: re.Match[str], context: CompletionContext, shell: "InteractiveShell") -> bool:
    """Return whether IPython would take this for a magic."""
    lines = context.full_text.split("\n")
    match magic["escape"]:
        case "%":
            return True
        case "%%":
            first = not any(line.strip() for line in lines[: context.cursor_line])
            return first and magic["name"] == "tidb_kill" and not magic["assigned"]
        case _:
            alone = sum(bool(line.strip()) for line in lines) == 1
            return alone and shell.automagic and not magic["assigned"] and not is_shadowed(magic["name"], shell)


def _unquoted(word: str) -> str:
    r"""Return what a word means whose quotes may be open, and which may end in a backslash that escapes nothing yet.

    >>> _unquoted("'it is"), _unquoted('"the \\'), _unquoted("10.0.0.1:")
    ('it is', 'the ', '10.0.0.1:')
    """
    for end in ("", "'", '"'):
        for text in (word, word.removesuffix("\\")):
            with suppress(ValueError):
                return "".join(shlex.split(text + end))
    return word


def _fitting(offers: Iterable[Offer], typed: str) -> Iterator[Offer]:
    r"""Return those that begin as typed, without any that would bring a control character into the line.

    >>> list(_fitting([("TIME", ""), ("TI\x1b", ""), ("MEM", ""), ("", "")], "ti"))
    [('TIME', '')]
    """
    begin = typed.casefold()
    return (offer for offer in offers if _can_be_typed(offer[0]) and offer[0].casefold().startswith(begin))


def _can_be_typed(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _values(option: str, typed: str, magics: "TidbMagics", names: Mapping[str, Any]) -> Iterable[Offer]:
    """Return what an option can have; where it takes several, one more behind those that are typed."""
    seen = magics.seen
    if option in {"sort", "by"}:
        before = typed[: typed.rfind(",") + 1] if option == "by" else ""
        done = before.upper().split(",")
        columns = COLUMNS if seen is None else [name for name in seen.columns if name not in _OURS]
        return [(before + name, "column") for name in columns if name.upper() not in done]
    if option == "from_":
        return _variables(names, _holds_ids)
    if option in _LISTED and seen is not None:
        texts = seen[option.upper()].dropna().unique()
        return [(text, option) for text in sorted({_PORT.sub("", one) if option == "host" else one for one in texts})]
    return []


def _sessions(seen: "ProcessList", typed: str) -> Iterator[Offer]:
    """Return the ids of a list with their users and statements; without global kill several sessions can have one."""
    from tidb_magic.display.render import plain, statement  # which takes its time, and is there when a list was read

    found: dict[str, list[str]] = {}
    own, columns = seen.own, [seen[name].tolist() for name in ("INSTANCE", "ID", "USER", "COMMAND", "INFO")]
    for instance, number, user, command, info in zip(*columns, strict=True):
        text = str(number)  # digits, or <NA>
        if text.isdecimal() and text.startswith(typed) and (instance, number) not in own:
            found.setdefault(text, []).append(f"{user} {statement(info)[:200] if isinstance(info, str) else command}")
    return ((text, plain(" / ".join(beside))) for text, beside in found.items())


def _variables(names: Mapping[str, Any], are: Callable[[Any], bool]) -> Iterator[Offer]:
    for name, value in list(names.items()):
        if not name.startswith("_") and are(value):
            yield name, type(value).__name__


def _classes(value: object) -> set[tuple[str, str]]:
    """Return the names of its classes, with their packages; isinstance would ask the object itself."""
    return {(one.__module__.partition(".")[0], one.__name__) for one in type(value).__mro__}


def _is_target(value: Any) -> bool:
    """Return whether %tidb_connect can take it."""
    if issubclass(type(value), str):
        return bool(value.startswith(("mysql://", "mysql+pymysql://")))
    return not _TARGETS.isdisjoint(_classes(value))


def _holds_ids(value: Any) -> bool:
    """Return whether --from can take it: rows with IDs, a lock forest, an ID, several."""
    classes = _classes(value)
    if ("pandas", "DataFrame") in classes:
        return "ID" in value.columns
    if ("tidb_magic", "LockForest") in classes:
        return True
    if not classes.isdisjoint(_MANY_IDS):
        return bool(value.dtype.kind in "iu")
    some = list(islice(value, _LOOKED_AT)) if type(value) in {list, tuple, set} else [value]
    return bool(some) and all(issubclass(type(one), int) and type(one) is not bool for one in some)
