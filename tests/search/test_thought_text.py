"""Thought and answer are told apart, however the tokens come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.backend.detokenization import ByteStream
from zip_introspect.search.thought_text import Marker, ThinkingText

WORDS = ("<think>", "</think>", "<", "/th", "ink>", "</", "think", ">\n\n", "a", "12", " ", "\n", "é")
SPECIAL = len(WORDS)
"""An id that says nothing, as special tokens do; the next one, too."""
OPENING, CLOSING = Marker((0,), "<think>", by_text=True), Marker((1,), "</think>", by_text=True)


def piece(token: int) -> bytes:
    return WORDS[token].encode() if token < SPECIAL else b""


def said(tokens: list[int]) -> str:
    return b"".join(map(piece, tokens)).decode()


def text(opening: Marker | None = OPENING, closing: Marker = CLOSING, stops: tuple[str, ...] = ()) -> ThinkingText:
    return ThinkingText(ByteStream(piece), opening, closing, stops)


def parted(whole: str, opened: bool) -> tuple[str, str | None]:
    """Answer and thought of a whole text."""
    before, thinking = "", whole
    if not opened:
        before, mark, thinking = whole.partition("<think>")
        if not mark:
            return whole, None
    thought, mark, answer = thinking.partition("</think>")
    return (before if before.strip() else "") + (answer if mark else ""), thought


@given(
    tokens=st.lists(st.integers(0, SPECIAL - 1), max_size=25),
    cuts=st.lists(st.integers(0, 25), max_size=4),
    opened=st.booleans(),
)
def test_parts_are_those_of_the_whole_text(tokens: list[int], cuts: list[int], opened: bool) -> None:
    growing = text(None if opened else OPENING)
    places = sorted({0, len(tokens), *(min(cut, len(tokens)) for cut in cuts)})
    seen, thought_so_far = "", ""
    for start, end in pairwise(places):
        growing = growing.fork()
        assert growing.grow(tokens[start:end]) is None
        assert growing.text.startswith(seen)  # what was shown stays
        assert growing.thinking.startswith(thought_so_far)
        seen, thought_so_far = growing.text, growing.thinking
    answer, thought = parted(said(tokens), opened)
    assert growing.end() == answer
    assert growing.thought.text == (thought or "")
    assert (growing.phase == "before") == (thought is None)
    closed = growing.phase == "answering"
    assert growing.thought.closed == ("itself" if closed else None)
    if closed:  # the tokens of the thought are the fewest that hold its end
        count = growing.thought.tokens
        assert parted(said(tokens[:count]), opened)[1] == thought
        one_less = said(tokens[: count - 1])
        assert "</think>" not in (one_less if opened else one_less.partition("<think>")[2])


@given(tokens=st.lists(st.integers(0, SPECIAL + 1), max_size=25), cut=st.integers(0, 25))
def test_markers_that_say_nothing_are_known_by_their_ids(tokens: list[int], cut: int) -> None:
    ids = (SPECIAL, SPECIAL + 1)
    growing = text(None, Marker(ids, "", by_text=False))
    growing.grow(tokens[:cut])
    growing.grow(tokens[cut:])
    ends = [end for end in range(2, len(tokens) + 1) if tuple(tokens[end - 2 : end]) == ids]
    if ends:
        assert growing.thought.tokens == ends[0]
        assert growing.thought.text == said(tokens[: ends[0]])
        assert growing.end() == said(tokens[ends[0] :])
    else:
        assert growing.phase == "thinking"
        assert growing.end() == ""


def test_ids_that_say_something_are_no_part_of_the_thought() -> None:
    growing = text(None, Marker((1,), "</think>", by_text=False))
    growing.grow([8, 1, 9])
    assert (growing.thought.text, growing.end()) == ("a", "12")


def test_stop_strings_end_the_answer_alone() -> None:
    growing = text(None, stops=("12",))
    assert growing.grow([9, 8, 1, 8]) is None
    assert growing.grow([8, 9, 8]) == 2
    assert (growing.thought.text, growing.text) == ("12a", "aa")


@given(
    tokens=st.lists(st.integers(0, len(WORDS) + 1), max_size=25),
    cuts=st.lists(st.integers(0, 25), max_size=4),
    stops=st.lists(st.sampled_from(["\n\n", "12", "ink>", "a\n", "<"]), min_size=1, max_size=3),
)
def test_stop_strings_are_found_wherever_they_begin(tokens: list[int], cuts: list[int], stops: list[str]) -> None:
    """In the token that ends the thought too: the answer ends where the whole text says, in as few tokens."""
    words = (*WORDS, "</think>\n\n12", "a</think>a")

    def answer(count: int) -> str:
        return "".join(words[token] for token in tokens[:count]).partition("</think>")[2]

    ends = (end for end in range(1, len(tokens) + 1) if any(stop in answer(end) for stop in stops))
    end = next(ends, None)
    stream = ByteStream(lambda token: words[token].encode())
    growing, found = ThinkingText(stream, None, CLOSING, tuple(stops)), None
    places = sorted({0, len(tokens), *(min(cut, len(tokens)) for cut in cuts)})
    for start, stop_at in pairwise(places):
        if (count := growing.grow(tokens[start:stop_at])) is not None:
            found = start + count
            break
    assert found == end
    if end is not None:
        assert growing.text == answer(end)[: min(answer(end).find(stop) for stop in stops if stop in answer(end))]


def test_one_token_may_end_all_of_a_thought() -> None:
    words = ("<think></think>\n\nEND", "a")
    growing = ThinkingText(ByteStream(lambda token: words[token].encode()), OPENING, CLOSING, ("END",))
    assert growing.grow([1, 0, 1]) == 2
    assert (growing.text, growing.thought.text, growing.thought.closed) == ("a\n\n", "", "itself")
    assert growing.thought.tokens == growing.tokens == 2


def test_what_closes_it_is_told() -> None:
    growing = text(None)
    growing.grow([8, 5])  # half a marker is the sample's own
    growing.close([1], "count")
    growing.grow([9])
    assert (growing.text, growing.thought.text, growing.thought.closed) == ("12", "a</", "count")
    assert growing.thought.tokens == 3


@pytest.mark.parametrize("opening", [OPENING, None])
def test_half_a_marker_is_not_shown(opening: Marker | None) -> None:
    growing = text(opening)
    growing.grow([2, 6] if opening else [8, 5])
    assert (growing.text, growing.thinking) == ("", "" if opening else "a")
