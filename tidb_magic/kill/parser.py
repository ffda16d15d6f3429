"""The parser of TiDB's KILL grammar.

    KILL [TIDB] [CONNECTION | QUERY] <decimal id> | CONNECTION_ID()

`CONNECTION_ID()` is accepted without CONNECTION or QUERY only. Comments, executable ones too, and any number of
semicolons around it are TiDB's own (8.5.6, measured; tests/kill/test_parser.py compares with the real server).

Two things that TiDB accepts are refused, because they mean another thing than they seem to: a comment for some features
only, as in ``KILL /*T![feature] QUERY */ 5``, counts on one version and not on another; and arguments of CONNECTION_ID
are ignored.
"""

import re
from dataclasses import dataclass

from tidb_magic.connection_id import ConnectionId
from tidb_magic.errors import ConnectionIdError, KillSyntaxError

_BLANK = re.compile(
    r"""
      [ \t\n\v\f\r]+                       # white space of other alphabets is none
    | /\*(?!T?!)(?:[^*]|\*(?!/))*\*/
    | --(?=[ \t\n\v\f\r]|$)[^\n]*
    | \#[^\n]*
    """,
    re.VERBOSE,
)
_EXECUTABLE = re.compile(r"/\*(?:T!(?!\[)|!(?:[0-9]{5})?)")
_TOKEN = re.compile(r"[0-9]+(?![\w$.])|\w[\w$]*|`(?:[^`]|``)*`|.", re.DOTALL | re.ASCII)


@dataclass(frozen=True)
class KillStatement:
    """A KILL as it was typed: its scope and its connection ID. `connection_id` is None for CONNECTION_ID()."""

    connection_id: ConnectionId | None
    query: bool = False
    tidb: bool = False

    @property
    def sql(self) -> str:
        """The statement that is sent: the one form that means the same with every setting of the server."""
        if self.connection_id is None:
            return "KILL TIDB CONNECTION_ID()"
        return f"KILL TIDB {'QUERY' if self.query else 'CONNECTION'} {int(self.connection_id)}"


def parse_kill(text: str) -> KillStatement:
    """Parse one KILL statement.

    Raises
    ------
    KillSyntaxError
        TiDB would not accept it; the message names the column and what was expected there.

    Examples
    --------
    >>> parse_kill("KILL TIDB QUERY 5857102839209263511")
    KillStatement(connection_id=5857102839209263511, query=True, tidb=True)
    >>> parse_kill("kill query all")
    Traceback (most recent call last):
    ...
    tidb_magic.errors.KillSyntaxError: Expected a connection id (digits only), found 'all' (column 12)
    """
    tokens = _Tokens(text)
    statement = _statement(tokens)
    while tokens.take(";"):
        pass
    if tokens.next:
        raise tokens.error("Expected the end of the statement (one id a statement)")
    return statement


def parse_kills(text: str) -> list[KillStatement]:
    r"""Parse KILL statements, one a line or separated by semicolons; none is fine too.

    Raises
    ------
    KillSyntaxError
        As for one; the column is counted from the beginning of the text.

    Examples
    --------
    >>> [statement.query for statement in parse_kills("KILL 5; KILL QUERY 6\n-- the last\nKILL 7;")]
    [False, True, False]
    """
    tokens, found = _Tokens(text), []
    while tokens.next:
        if tokens.take(";"):
            continue
        found.append(_statement(tokens))
        if tokens.next not in ("", ";") and not tokens.on_a_new_line:
            raise tokens.error("Expected a semicolon or a new line (one id a statement)")
    return found


def _statement(tokens: "_Tokens") -> KillStatement:
    while tokens.take(";"):
        pass
    if not tokens.take("KILL"):
        raise tokens.error("Expected KILL")
    tidb = tokens.take("TIDB")
    query = tokens.take("QUERY")
    scoped = query or tokens.take("CONNECTION")
    if not scoped and (tokens.take("CONNECTION_ID") or tokens.take("`CONNECTION_ID`")):
        for bracket in "()":
            if not tokens.take(bracket):
                raise tokens.error(f"Expected {bracket!r}")
        number = None
    else:
        number = tokens.take_id()
    return KillStatement(number, query=query, tidb=tidb)


class _Tokens:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._executable = False  # within a comment whose content counts
        self.next = ""
        self._advance()

    def _advance(self) -> None:
        self._at += len(self.next)
        before = self._at
        while True:
            if blank := _BLANK.match(self._text, self._at):
                self._at = blank.end()
            elif opened := _EXECUTABLE.match(self._text, self._at):
                self._at, self._executable = opened.end(), True
            elif self._executable and self._text.startswith("*/", self._at):
                self._at, self._executable = self._at + 2, False
            else:
                break
        token = _TOKEN.match(self._text, self._at)
        self.next = token[0] if token else ""
        self.on_a_new_line = "\n" in self._text[before : self._at]

    def take(self, word: str) -> bool:
        if self.next.upper() != word:
            return False
        self._advance()
        return True

    def take_id(self) -> ConnectionId:
        if not (self.next.isascii() and self.next.isdecimal()):
            raise self.error("Expected a connection id (digits only)")
        try:
            number = ConnectionId(self.next)
        except ConnectionIdError as error:
            raise self.error(str(error).removesuffix(".")) from error
        self._advance()
        return number

    def error(self, message: str) -> KillSyntaxError:
        found = f", found {self.next[:40]!r}" if self.next else ", found the end"
        return KillSyntaxError(message + found, self._at + 1)
