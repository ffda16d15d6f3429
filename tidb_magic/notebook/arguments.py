"""Parses the lines of the magics: options as in a shell, IDs as in SQL, ``{...}`` in the place of an ID."""

import argparse
import ast
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from IPython.core.error import UsageError

from tidb_magic.errors import KillSyntaxError, OptionError
from tidb_magic.kill.parser import KillStatement, parse_kill, parse_kills
from tidb_magic.sessions.filters import FilterOptions, seconds

LIVE = 0.0  # --live without a number: as %config TidbMagics.live_interval has it
PLACES = ("sql", "playground")  # words with a meaning of their own to %tidb_connect
FILTERS = frozenset(FilterOptions.__annotations__)
# Each view without the options that would do nothing there.
NOT_WITH = {
    "history": FILTERS | {"sort", "full", "limit", "by", "instances", "locks", "live"},
    "locks": FILTERS | {"sort", "full", "limit", "by", "instances", "live"},
    "instances": FILTERS | {"sort", "full", "limit", "by", "live"},
    "by": {"sort", "full", "idle", "live"},
}
_EXPANDED = "\ue000"  # private use: the placeholder of {...}, followed by its number
_WORD = re.compile(r"\s*((?:[^\s'\"\\]|\\.|'[^']*'|\"(?:[^\"\\]|\\.)*\")+|['\"\\])", re.DOTALL)


def usage_error(magic: str, message: str) -> UsageError:
    """Return IPython's own error, which shows as one line."""
    message = re.sub(r"://\S*@", "://...@", message)  # what is repeated of a line must not hold a password
    return UsageError(f"{magic}: {' '.join(message.split())} {magic}? shows the help.")


class Parser(argparse.ArgumentParser):
    """Options as in a shell. A wrong one is IPython's UsageError, which names the help of the magic."""

    @property
    def options(self) -> dict[str, argparse.Action]:
        """The options by how they are typed."""
        return {text: action for action in self._actions for text in action.option_strings}

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise usage_error(self.prog, f"{message}.")

    def as_usage_error(self, error: OptionError) -> UsageError:
        """Return the error of a value, which names a parameter, as one that names the option."""
        names = {action.dest for action in self._actions}
        option = re.match(r"\w*", str(error))
        if option and option[0] in names:
            return usage_error(self.prog, f"--{option[0].replace('_', '-')}{str(error)[option.end() :]}")
        return usage_error(self.prog, str(error))

    def parse(self, line: str) -> argparse.Namespace:
        """Parse a line."""
        try:
            words = shlex.split(line.strip().removesuffix(";"))
        except ValueError as error:
            self.error(f"{error} (quotes as in a shell)".lower())
        options, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            raise usage_error(self.prog, f"unrecognized arguments: {' '.join(unknown)}.{self._instead(unknown)}")
        return options

    def _instead(self, unknown: Iterable[str]) -> str:
        """Return a question with the nearest options, if there are any that are near."""
        names = {text.strip("-"): text for text in self.options}
        typed = (word.partition("=")[0].strip("-").lower() for word in unknown if word.startswith("-"))
        from difflib import get_close_matches  # here, so that loading the extension is fast

        near = dict.fromkeys(names[name] for word in typed for name in get_close_matches(word, names, n=1))
        return f" Did you mean {' and '.join(near)}?" if near else ""

    def expand(self, line: str, evaluate: Callable[[str], Any]) -> tuple[str, list[Any]]:
        """Replace ``{...}`` in the place of an ID by a placeholder, and return its value; leave the values of options.

        >>> parser("tidb_kill").expand("QUERY {1 + 1} x{2}", eval)[1]
        [2]
        """
        if _EXPANDED in line:
            self.error(f"expected connection ids (digits only), found {_EXPANDED!r}")
        options = {text for text, action in self.options.items() if action.nargs is None}
        values: list[Any] = []
        done, at, before = "", 0, ""
        while word := _WORD.match(line, at):
            start, end = word.start(1), word.end()
            if line[start] == "{" and before not in options:
                end = self._braces(line, start)
                values.append(self._value(line[start + 1 : end - 1], evaluate))
                done += f"{line[at:start]}{_EXPANDED}{len(values) - 1}"
            else:
                done += line[at:end]
            before, at = line[start:end], end
        return done + line[at:], values

    def _braces(self, line: str, start: int) -> int:
        """Return where the brackets around an expression end; a dict in it has some of its own."""
        for found in re.finditer(r"\}(?=\s|;?\s*$)", line[start:]):
            try:
                ast.parse(line[start + 1 : start + found.start()].strip(), mode="eval")
            except (SyntaxError, ValueError):  # ValueError: a lone surrogate
                continue
            return start + found.end()
        return self.error(f"not an expression in braces: {line[start : start + 40]}")

    def _value(self, expression: str, evaluate: Callable[[str], Any]) -> Any:
        try:
            return evaluate(expression.strip())
        except Exception as error:  # noqa: BLE001 (whatever a person's own expression raises)
            return self.error(f"{{{expression}}}: {type(error).__name__}: {error}")


class _Once(argparse.Action):
    """Keeps a value; a second one is a mistake, which would silently replace the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string and getattr(namespace, self.dest) != self.default:
            parser.error(f"{option_string} is given twice")
        setattr(namespace, self.dest, values)


def parser(name: str) -> Parser:
    """Return an empty parser."""
    made = Parser(prog=f"%{name}", usage="", add_help=False, allow_abbrev=False)  # making a usage takes its time
    made.register("action", None, _Once)
    return made


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def limit_seconds(line: str) -> float:
    """Return the seconds that %%tidb_limit was given.

    >>> limit_seconds("30s"), limit_seconds("1.5 m"), limit_seconds("20")
    (30.0, 90.0, 20.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", line.strip())
    if found is None or not float(found[1]):
        raise usage_error("%%tidb_limit", f"expected a time above 0, as 30s, 5m or 1h, not {line.strip()!r}.")
    return seconds(float(found[1]) * _UNITS[found[2]], "the limit")


def _filtering(name: str) -> Parser:
    made = parser(name)
    for option in sorted(FILTERS - {"min_time", "mine", "orphans", "idle"}):
        made.add_argument(f"--{option}")
    made.add_argument("--min-time", type=float)
    for option in ("mine", "orphans", "idle"):
        made.add_argument(f"--{option}", action="store_true", default=None)
    return made


@cache  # making it takes half a millisecond
def ps_parser() -> Parser:
    """Return the parser of %tidb_ps."""
    made = _filtering("tidb_ps")
    for option in ("sort", "by"):
        made.add_argument(f"--{option}")
    made.add_argument("--limit", type=int)
    made.add_argument("--live", nargs="?", const=LIVE, type=_seconds)
    for option in ("full", "locks", "instances", "history"):
        made.add_argument(f"--{option}", action="store_true", default=None)
    return made


@cache
def kill_parser() -> Parser:
    """Return the parser of %tidb_kill."""
    made = _filtering("tidb_kill")
    made.add_argument("words", nargs="*")
    made.add_argument("--from", dest="from_")
    made.add_argument("--timeout", type=_seconds)
    made.add_argument("--max-victims", type=int)
    made.add_argument("--reason", default="")
    for option in ("dry-run", "yes", "force"):
        made.add_argument(f"--{option}", action="store_true")
    return made


@cache
def connect_parser() -> Parser:
    """Return the parser of %tidb_connect."""
    made = parser("tidb_connect")
    made.add_argument("target", nargs="?")
    made.add_argument("--alias", type=_alias)
    for option in ("section", "defaults-file", "ssl-ca"):
        made.add_argument(f"--{option}", type=_something)
    for option in ("list", "close"):
        made.add_argument(f"--{option}", action="store_true")
    return made


def _something(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _alias(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text) or text in PLACES:
        raise argparse.ArgumentTypeError(f"letters, digits, - and _, and neither {' nor '.join(PLACES)}; not {text!r}")
    return text


def _seconds(text: str) -> float:
    try:
        return seconds(float(text), "the time")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error).removesuffix(".")) from error


def kill_targets(words: Sequence[str], values: Sequence[Any] = ()) -> tuple[bool, Any]:
    """Read ``[KILL] [TIDB] [CONNECTION | QUERY] ID...``: KILL's grammar, but with several ids, or none.

    Return whether it is QUERY, and the targets: a list, a frame or lock forest as it is, None for none. `values` are
    what placeholders stand for.

    >>> kill_targets(["QUERY", "5"])
    (True, [KillStatement(connection_id=5, query=True, tidb=False)])
    """
    scope, ids = ["KILL"], list(words)
    for choice in (["KILL"], ["TIDB"], ["CONNECTION", "QUERY"]):
        if ids and ids[0].upper() in choice:
            word = ids.pop(0).upper()
            scope += [word] if word != "KILL" else []
    found: list[Any] = []
    for word in ids:
        if word.startswith(_EXPANDED) and word[1:].isdecimal():
            found.append(values[int(word.removeprefix(_EXPANDED))])
        elif word.isascii() and word.isdecimal():
            try:
                found.append(parse_kill(" ".join([*scope, word])))
            except KillSyntaxError as error:
                raise usage_error("%tidb_kill", f"{error.problem}.") from error
        else:
            hint = " Separate ids by spaces." if word.strip(",;").isdecimal() else ""
            raise usage_error("%tidb_kill", f"expected connection ids (digits only), found {word!r}.{hint}")
    query = "QUERY" in scope
    if len(found) == 1 and any(hasattr(found[0], name) for name in ("columns", "dtype", "roots")):
        return query, found[0]
    if any(hasattr(one, name) for one in found for name in ("columns", "roots")):
        raise usage_error("%tidb_kill", "a frame in braces must be the only argument.")
    return query, [number for one in found for number in _flat(one)] if found else None


def _flat(value: Any) -> Iterable[Any]:
    """Return the ids that a value in braces holds; what is no id stays as it is, and is refused later."""
    several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    return value if several and getattr(value, "ndim", 1) == 1 else [value]


def kill_cell(text: str) -> list[KillStatement]:
    """Read a cell of KILL statements, one a line or separated by semicolons."""
    try:
        found = parse_kills(text)
    except KillSyntaxError as error:
        before = text[: error.column - 1].split("\n")
        where = f"line {len(before)}, column {len(before[-1]) + 1}"
        raise usage_error("%%tidb_kill", f"{error.problem} ({where}); nothing was sent.") from error
    if not found:
        raise usage_error("%%tidb_kill", "the cell contains no KILL.")
    return found
