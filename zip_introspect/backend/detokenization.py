"""From tokens to text, piece by piece: what was said is never decoded again, and no piece holds half a character."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

HALF = "\N{REPLACEMENT CHARACTER}"
"""What decoding makes of bytes that are no whole character."""


class TextStream(ABC):
    """The text of a growing sample. The pieces joined, `end` included, are what `Backend.decode` makes of all tokens.

    How the tokens are grouped into steps makes no difference to the text.
    """

    @abstractmethod
    def step(self, tokens: Sequence[int]) -> str:
        """The text that further tokens bring; a character whose bytes are not all there yet is held back."""

    @abstractmethod
    def end(self) -> str:
        """What was held back, when no further token comes; the stream is not used after it."""

    @abstractmethod
    def fork(self) -> Self:
        """A stream that goes on from here on its own."""


class ByteStream(TextStream):
    """For vocabularies whose tokens stand for certain bytes of UTF-8, whatever is beside them.

    Args:
        piece: the bytes of a token; none for one that is left out of the text.
    """

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        self._piece = piece
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self, tokens: Sequence[int]) -> str:
        return self._decoder.decode(b"".join(map(self._piece, tokens)))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)

    def fork(self) -> Self:
        twin = type(self)(self._piece)
        twin._decoder.setstate(self._decoder.getstate())
        return twin


class WindowStream(TextStream):
    """For any way of decoding: new tokens are decoded behind the last ones before them, and only what is new is given.

    A text that ends in U+FFFD may end in half a character, so that end is held back until more is known.

    Args:
        decode: as `Backend.decode`.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._before: list[int] = []
        self._pending: list[int] = []
        self._given = 0
        """Characters of the window's text that were given."""

    def step(self, tokens: Sequence[int]) -> str:
        self._pending += tokens
        text = self._window()
        settled = max(len(text.rstrip(HALF)), self._given)
        piece, self._given = text[self._given : settled], settled
        if piece and settled == len(text):  # tokens without text are no ground for others to stand on
            self._before, self._pending = self._pending, []
            self._given = len(self._window())
        return piece

    def end(self) -> str:
        return self._window()[self._given :]

    def fork(self) -> Self:
        twin = type(self)(self._decode)
        twin._before, twin._pending, twin._given = list(self._before), list(self._pending), self._given
        return twin

    def _window(self) -> str:
        return self._decode([*self._before, *self._pending])


def text_of(piece: Callable[[int], bytes], tokens: Sequence[int]) -> str:
    """The text of tokens that stand for bytes, all at once; bytes that are no UTF-8 become U+FFFD."""
    return b"".join(map(piece, tokens)).decode("utf-8", "replace")
