"""Text streams: whatever the steps, the pieces are the text, and none ends within a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.backend.detokenization import HALF, ByteStream, TextStream, WindowStream, text_of

WORDS = [b"", b" ", b" de", b"f", "é".encode(), "\N{EURO SIGN}".encode(), "\N{SLIGHTLY SMILING FACE}".encode()]
PIECES = [*WORDS, *(bytes([byte]) for byte in "\N{EURO SIGN}\N{SLIGHTLY SMILING FACE}".encode()), b"\xff", b"a\xe2"]
"""Of a small vocabulary: whole characters, single bytes, what is no UTF-8, and a token without a text."""

tokens_of_any_kind = st.lists(st.integers(0, len(PIECES) - 1), max_size=30)
whole_words = st.lists(st.integers(0, len(WORDS) - 1), max_size=30)
cuts = st.lists(st.integers(0, 30), max_size=8)
Make = Callable[[], TextStream]


def decode(tokens: Sequence[int]) -> str:
    return text_of(PIECES.__getitem__, tokens)


STREAMS: list[Make] = [lambda: ByteStream(PIECES.__getitem__), lambda: WindowStream(decode)]
each_stream = pytest.mark.parametrize("make", STREAMS, ids=["bytes", "window"])


def grouped(tokens: Sequence[int], places: Sequence[int]) -> list[Sequence[int]]:
    ends = [0, *sorted(min(place, len(tokens)) for place in places), len(tokens)]
    return [tokens[start:end] for start, end in pairwise(ends)]


@each_stream
@given(tokens=tokens_of_any_kind, places=cuts)
def test_the_pieces_joined_are_the_text(make: Make, tokens: list[int], places: list[int]) -> None:
    stream = make()
    pieces = [stream.step(group) for group in grouped(tokens, places)]
    assert "".join([*pieces, stream.end()]) == decode(tokens)


@each_stream
@given(words=whole_words, places=cuts)
def test_a_text_of_whole_characters_is_never_seen_with_half_a_one(
    make: Make, words: list[int], places: list[int]
) -> None:
    singles = [PIECES.index(bytes([byte]), len(WORDS)) for byte in "\N{EURO SIGN}\N{SLIGHTLY SMILING FACE}".encode()]
    tokens = [*words, *singles, *words]
    stream, seen = make(), ""
    for group in grouped(tokens, [*places, *(len(words) + count for count in range(len(singles)))]):
        seen += stream.step(group)
        assert HALF not in seen
        assert decode(tokens).startswith(seen)
    assert stream.end() == ""
    assert seen == decode(tokens)


@each_stream
@given(head=tokens_of_any_kind, tails=st.tuples(tokens_of_any_kind, tokens_of_any_kind))
def test_a_fork_goes_on_from_where_it_was_made(make: Make, head: list[int], tails: tuple[list[int], list[int]]) -> None:
    origin = make()
    begun = origin.step(head)
    twin = origin.fork()
    for stream, tail in zip((origin, twin), tails, strict=True):
        assert begun + stream.step(tail) + stream.end() == decode([*head, *tail])


def test_the_window_stays_small() -> None:
    """What was said is not decoded again: the cost of a text grows with its length, not with its square."""
    asked: list[int] = []

    def counted(tokens: Sequence[int]) -> str:
        asked.append(len(tokens))
        return decode(tokens)

    stream = WindowStream(counted)
    for _ in range(200):
        stream.step([2, 3, 0, 4])
    assert max(asked) == 8


def test_tokens_without_text_are_no_ground_to_stand_on() -> None:
    """A decoder that strips the first space of what it is given must not see one of the middle first."""
    stream = WindowStream(lambda tokens: decode(tokens).removeprefix(" "))
    assert stream.step([3]) + stream.step([0]) + stream.step([2, 3]) == "f def"
