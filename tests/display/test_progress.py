"""The line that says what is being waited for."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidb_magic.display.progress import Line


def test_the_line_is_rewritten_in_place_and_taken_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = Line()
    line.show("waiting for 10 s")
    line.show("waiting for 10 s")
    line.show("nearly")
    line.clear()
    line.clear()
    assert capsys.readouterr().err == f"\rwaiting for 10 s\rnearly{10 * ' '}\r{6 * ' '}\r"


def test_a_program_sees_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    Line().show("waiting")
    assert capsys.readouterr().err == ""


def test_a_thread_in_the_background_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ThreadPoolExecutor(1) as executor:
        line = executor.submit(Line).result()
    line.show("waiting")
    assert capsys.readouterr().err == ""
