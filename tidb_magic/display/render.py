"""Rows as text and as escaped HTML. What comes from a server is shown, never interpreted."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral
from types import MappingProxyType

from humanize import naturalsize
from wcwidth import wcswidth

ROWS_SHOWN = 200
TEXT_WIDTH = 60  # of one column, in a text table
HTML_WIDTH = 400
_LEFT = "text-align:left;vertical-align:top"
_BAR = "rgba(66,133,244,.3)"  # lets light and dark themes through

# Characters that a terminal or a browser acts on instead of showing: controls, bidi and other format marks, unassigned.
_ACTIVE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_VALUE = re.compile(r" row(?= )| index \S+(?= \()|^key(?= )")
_SPACE = re.compile(r"[ \t\r\n]+")


@dataclass
class Display:
    """What is shown, for all of this process: with `sql` off, statements and values of keys only by their kind."""

    sql: bool = True


DISPLAY = Display()


def statement(text: str | None) -> str:
    """Return a statement as it may be shown.

    >>> statement("SELECT secret FROM t")
    'SELECT secret FROM t'
    """
    if DISPLAY.sql or not text:
        return text or ""
    word = _COMMENT.sub(" ", text).split(maxsplit=1)[:1]
    return f"{word[0].upper()[:20]} …" if word and word[0].isalpha() else "…"


def lock(text: str) -> str:
    """Return what is locked as it may be shown.

    >>> lock("shop.stock row 1")
    'shop.stock row 1'
    """
    found = None if DISPLAY.sql else _VALUE.search(text)
    return f"{text[: found.end()]} …" if found else text


class Bytes(int):
    """A size; shown for people, a number otherwise.

    >>> str(Bytes(1_234_567))
    '1.2 MiB'
    """

    def __str__(self) -> str:
        return naturalsize(int(self), binary=True)


class Seconds(int):
    """A time.

    >>> str(Seconds(3_600))
    '3,600 s'
    """

    def __str__(self) -> str:
        return f"{int(self):,} s"


def plain(value: object, width: int = TEXT_WIDTH) -> str:
    r"""Return `value` on one line of at most `width` characters, with nothing in it that acts on a terminal.

    >>> plain("SELECT 1,\n       2")
    'SELECT 1, 2'
    >>> plain("\x1b[2J\u202edrop")
    '\\x1b[2J\\u202edrop'
    >>> plain("a" * 10, width=5)
    'aaaa…'
    """
    text = _SPACE.sub(" ", str(value)[: width * 4]).strip(" ")
    if not text.isascii() or not text.isprintable():
        text = "".join(
            char.encode("unicode_escape").decode() if unicodedata.category(char) in _ACTIVE else char for char in text
        )
    return text if len(text) <= width else text[: width - 1] + "…"


def first_line(message: object, width: int = 300) -> str:
    r"""Return the first line of a server's message: the rest can be pages of stack trace.

    >>> first_line("bad regexp\ngithub.com/pingcap/...")
    'bad regexp'
    """
    return plain((str(message).splitlines() or [""])[0], width)


def text_table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    footer: Sequence[str],
    widths: Mapping[str, int] = MappingProxyType({}),
    total: int | None = None,
) -> str:
    """Return an aligned table, numbers to the right, with the footer below; `widths` of columns that need another.

    `total` is how many rows there are, if only those are given that are shown.

    >>> print(text_table(["ID", "USER"], [[5, "ann"], [17, "<b>"]], ["2 sessions"]))
    ID  USER
     5  ann
    17  <b>
    2 sessions
    """
    shown = rows[:ROWS_SHOWN]
    limits = [widths.get(name, TEXT_WIDTH) for name in header]
    cells = [list(header), *([plain(*cell) for cell in zip(row, limits, strict=True)] for row in shown)]
    needed = [max(_width(row[column]) for row in cells) for column in range(len(header))]
    numeric = [all(isinstance(row[column], Integral) for row in shown) and bool(shown) for column in range(len(header))]
    lines = []
    for row in cells:
        padded = []
        for cell, width, right in zip(row, needed, numeric, strict=True):
            gap = " " * (width - _width(cell))
            padded.append(gap + cell if right else cell + gap)
        lines.append("  ".join(padded).rstrip())
    return "\n".join([*lines, *_more(total or len(rows)), *footer])


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    footer: Sequence[str],
    bars: Mapping[str, Sequence[float]] = MappingProxyType({}),
    total: int | None = None,
) -> str:
    """Return the same as an HTML table, every cell escaped; behind the columns of `bars` their values are drawn.

    >>> "<b>" in html_table(["USER"], [["<b>"]], [])
    False
    """
    head = "".join(f'<th style="{_LEFT}">{escape(name)}</th>' for name in header)
    drawn = {name: _bars(values) for name, values in bars.items()}
    body = ""
    for at, row in enumerate(rows[:ROWS_SHOWN]):
        styles = [_LEFT + (drawn[name][at] if name in drawn else "") for name in header]
        cells = zip(row, styles, strict=True)
        row_html = (f'<td style="{style}">{escape(plain(value, HTML_WIDTH))}</td>' for value, style in cells)
        body += f"<tr>{''.join(row_html)}</tr>"
    notes = "".join(f"<div>{escape(line)}</div>" for line in [*_more(total or len(rows)), *footer])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _bars(values: Sequence[float]) -> list[str]:
    """Return a background for each cell, as wide as its value is large.

    >>> _bars([50, 200])[0]
    ';background:linear-gradient(to right,rgba(66,133,244,.3) 25%,transparent 25%)'
    """
    largest = max(values, default=0)
    shares = [round(100 * max(value, 0) / largest) if largest > 0 else 0 for value in values]
    return [f";background:linear-gradient(to right,{_BAR} {share}%,transparent {share}%)" for share in shares]


def _more(total: int) -> list[str]:
    if total <= ROWS_SHOWN:
        return []
    return [f"{total - ROWS_SHOWN:,} more rows are not shown here; the variable holds all {total:,}."]


def _width(text: str) -> int:
    return max(wcswidth(text), 0)
