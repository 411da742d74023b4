"""Text from outside reaches the terminal without its control characters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.cli.text import last_line, one_line, printable


def test_an_escape_sequence_is_made_harmless() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\N{REPLACEMENT CHARACTER}[2Jb\nc"


@given(st.text())
def test_printable_holds_no_control_character(text: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in printable(text))


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    assert "\n" not in one_line(text)


@given(st.text(), st.integers(2, 30))
def test_last_line_fits_and_is_the_end_of_the_text(text: str, width: int) -> None:
    shown = last_line(text, width).plain
    assert len(shown) <= width
    assert shown.removeprefix("…") in printable(text)
