"""Text from a server is shown, never interpreted."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from tidb_magic.display.render import ROWS_SHOWN, html_table, plain, text_table

HOSTILE = "<script>alert(1)</script>\x1b]0;title\x07\x00\u202egnp.exe\r\nnext 👩‍💻 \"'`&amp;"


def test_nothing_in_a_cell_acts_on_a_terminal() -> None:
    shown = plain(HOSTILE, 1000)
    assert shown.isprintable()
    assert "\\x1b" in shown
    assert "\\u202e" in shown
    assert "👩" in shown


@given(st.text(), st.integers(2, 100))
def test_a_cell_is_one_printable_line_of_its_width(text: str, width: int) -> None:
    shown = plain(text, width)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert len(shown) <= width


@given(st.text(), st.text())
def test_html_holds_every_cell_as_text(one: str, two: str) -> None:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: set[str] = set()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags.add(tag)

    cells = Cells()
    cells.feed(html_table(["A", one], [[two, HOSTILE]], [one, two]))
    assert cells.tags <= {"table", "thead", "tbody", "tr", "th", "td", "div"}


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    rows = [[n] for n in range(ROWS_SHOWN + 5)]
    for shown in (text_table(["N"], rows, []), html_table(["N"], rows, [])):
        assert "5 more rows are not shown here" in shown
        assert str(ROWS_SHOWN + 4) not in shown


def test_columns_align_with_wide_characters() -> None:
    lines = text_table(["NAME", "X"], [["日本", "a"], ["abcd", "b"]], []).splitlines()
    assert lines[1] == "日本  a"
    assert lines[2] == "abcd  b"
