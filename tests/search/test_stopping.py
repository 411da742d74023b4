"""Stop strings found in growing texts, against a plain look at the whole text after every token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backend.test_detokenization import PIECES, STREAMS, Make, decode, grouped
from zip_introspect.backend.detokenization import HALF, ByteStream, TextStream, WindowStream
from zip_introspect.errors import BackendError
from zip_introspect.search.stopping import SampleText

LETTERS = [b"a", b"b", b"ab", b"ba", "\N{EURO SIGN}".encode(), b"\xe2", b"\x82", b"\xac", b""]


def stream() -> TextStream:
    return ByteStream(LETTERS.__getitem__)


def naive(tokens: Sequence[int], stops: Sequence[str]) -> tuple[int, str] | None:
    """How many tokens complete the first stop string, and the text before it; halves of characters left out."""
    for count in range(1, len(tokens) + 1):
        text = stream().step(tokens[:count])
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        if places:
            return count, text[: min(places)]
    return None


@given(
    tokens=st.lists(st.integers(0, len(LETTERS) - 1), max_size=25),
    places=st.lists(st.integers(0, 25), max_size=6),
    stops=st.lists(st.text("ab\N{EURO SIGN}", min_size=1, max_size=5), max_size=3),
)
def test_the_first_stop_string_ends_a_text_whatever_the_intervals(
    tokens: list[int], places: list[int], stops: list[str]
) -> None:
    text, taken, found = SampleText(stream(), stops), 0, None
    for group in grouped(tokens, places):
        count = text.grow(group)
        if count is not None:
            found = taken + count, text.text
            break
        taken += len(group)
    assert found == naive(tokens, stops)


@pytest.mark.parametrize("make", STREAMS, ids=["bytes", "window"])
@given(tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=25), places=st.lists(st.integers(0, 25), max_size=6))
def test_without_a_stop_string_the_end_is_the_whole_text(make: Make, tokens: list[int], places: list[int]) -> None:
    text = SampleText(make(), ["never said"])
    for group in grouped(tokens, places):
        assert text.grow(group) is None
        assert decode(tokens).startswith(text.text)
    assert text.end() == decode(tokens)


def test_a_stop_string_may_begin_long_before_the_interval_it_ends_in() -> None:
    text = SampleText(stream(), ["abab"])
    assert [text.grow([token]) for token in (1, 0, 1, 0)] == [None] * 4
    twin = text.fork()
    assert text.grow([1, 0]) == 1
    assert text.text == "b"
    assert twin.grow([0, 0]) is None
    assert twin.text == "babaaa"


def test_what_comes_to_light_at_the_end_is_searched_too() -> None:
    text = SampleText(stream(), [HALF])
    assert text.grow([0, 5]) is None
    assert text.text == "a"
    assert text.end() == "a"


def test_a_backend_whose_text_depends_on_the_grouping_is_told() -> None:
    odd = SampleText(WindowStream(lambda tokens: "END" if len(tokens) == 2 else "-" * len(tokens)), ["END"])
    with pytest.raises(BackendError, match="decode_stream gave 'END' for 2 tokens at once and another text"):
        odd.grow([1, 2])
