"""What every backend's text must be: that of its tokens, whole and piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zip_introspect.backend.contract import Backend
from zip_introspect.backend.detokenization import HALF

TEXTS = (
    "def add(a, b):\n    return a + b\n",
    "    four spaces, then\ttabs\r\n\r\n  and two.  ",
    "naïve – 日本語 €5 🙂 👩‍👩‍👧 é",
)


class TextConformance:
    """Tests of `Backend.decode` and `Backend.decode_stream`, on encoded texts and on tokens drawn at random."""

    def test_pieces_joined_are_the_text(self, backend: Backend) -> None:
        for tokens in (*_encoded(backend), *_drawn(backend)):
            whole = backend.decode(tokens)
            for size in (1, 3, 16, len(tokens)):
                stream, pieces = backend.decode_stream(), []
                for start in range(0, len(tokens), size):
                    pieces.append(stream.step(tokens[start : start + size]))
                    assert whole.startswith("".join(pieces))
                assert "".join([*pieces, stream.end()]) == whole

    def test_no_piece_holds_half_a_character(self, backend: Backend) -> None:
        for tokens in _encoded(backend):
            stream = backend.decode_stream()
            assert not any(HALF in stream.step([token]) for token in tokens)
            assert stream.end() == ""

    def test_a_continuation_keeps_what_it_begins_with(self, backend: Backend) -> None:
        """Spaces too: wherever a text is cut, but within a character, its parts joined are the text."""
        for tokens in _encoded(backend):
            whole = backend.decode(tokens)
            for cut in range(len(tokens) + 1):
                head, tail = backend.decode(tokens[:cut]), backend.decode(tokens[cut:])
                assert HALF in head + tail or head + tail == whole

    def test_streams_of_one_beginning_go_their_own_ways(self, backend: Backend) -> None:
        first, second = _drawn(backend)[:2]
        for cut in range(0, len(first), 7):
            origin = backend.decode_stream()
            begun = origin.step(first[:cut])
            twin = origin.fork()
            for stream, tail in ((twin, second), (origin, first[cut:])):
                assert begun + stream.step(tail) + stream.end() == backend.decode([*first[:cut], *tail])

    def test_nothing_says_nothing(self, backend: Backend) -> None:
        assert backend.decode([]) == ""
        stream = backend.decode_stream()
        assert stream.step([]) + stream.end() == ""


def _encoded(backend: Backend) -> list[list[int]]:
    return [backend.encode(text, chat=False) for text in TEXTS]


def _drawn(backend: Backend) -> list[Sequence[int]]:
    """Tokens of all kinds, special ones and parts of characters among them."""
    random = np.random.default_rng(5)
    return [random.integers(0, backend.info.vocab_size, 60).tolist() for _ in range(8)]
