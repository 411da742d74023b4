"""The text of a sample that thinks before it answers: where its thought begins and ends, and what is its answer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zip_introspect.backend.detokenization import TextStream
from zip_introspect.result import Thought, ThoughtClosed
from zip_introspect.search.stopping import SampleText


@dataclass(frozen=True, slots=True)
class Marker:
    """What opens or closes a thought."""

    ids: tuple[int, ...]
    text: str
    """What its tokens say; "" of special ones."""
    by_text: bool
    """Whether it is looked for in the text, which may come in other tokens; if not, its ids are."""


class ThinkingText:
    """As `SampleText`, of an answer that a thought comes before. Stop strings end the answer, not the thought.

    A sample thinks once: what looks like a marker in its answer is text.

    Args:
        opening: what opens a thought; None where one has begun already.
        closing: what closes it.
        stops: strings that end the sample.
    """

    def __init__(self, stream: TextStream, opening: Marker | None, closing: Marker, stops: Sequence[str] = ()) -> None:
        self._closing, self._stops = closing, tuple(stops)
        self.phase: Literal["before", "thinking", "answering"] = "thinking" if opening is None else "before"
        self.tokens = 0
        """All that it was given."""
        self.begun = 0
        """Those up to where its thought began."""
        self._ended = 0
        self._closed: ThoughtClosed | None = None
        self._before = self._thought = ""
        self._recent: list[int] = []
        self._marker = opening or closing
        self._part = SampleText(stream, self._sought)

    @property
    def text(self) -> str:
        """Its answer so far, without what may yet become a marker; space alone before a thought is none of it."""
        if self.phase == "thinking":
            return self._before
        if self.phase == "before":
            said = _without_beginning(self._part.text, self._marker)
            return said if said.strip() else ""
        return self._before + self._part.text

    @property
    def thinking(self) -> str:
        """Its thought so far, without what may yet become the marker that closes it."""
        if self.phase == "thinking":
            return _without_beginning(self._part.text, self._marker)
        return self._thought

    @property
    def thought(self) -> Thought:
        """What became of its thought."""
        tokens = {"before": 0, "thinking": self.tokens, "answering": self._ended}[self.phase]
        return Thought(self._part.text if self.phase == "thinking" else self._thought, tokens, self._closed)

    def grow(self, tokens: Sequence[int]) -> int | None:
        """Take in new tokens; how many of them complete the first stop string of the answer, None where none does."""
        done = 0
        while self.phase != "answering":
            found = self._find(tokens[done:])
            self.tokens += len(tokens) - done if found is None else found
            if found is None:
                return None
            done += found
            if self._next_phase("itself"):
                return done
        stop = self._part.grow(tokens[done:])
        self.tokens += len(tokens) - done if stop is None else stop
        return None if stop is None else done + stop

    def close(self, tokens: Sequence[int], by: ThoughtClosed) -> None:
        """Take in the tokens that close its thought."""
        self.grow(tokens)
        if self.phase != "answering":  # what was written before the marker made another text of it
            self.phase = "thinking"
            self._next_phase(by)
        self._closed = by

    def end(self) -> str:
        """The answer when no further token comes."""
        self._part.end()
        if self.phase == "before":  # what might have become a marker did not
            return self._part.text
        return self.text

    def fork(self) -> ThinkingText:
        """The text of a sample that goes on from here on its own."""
        twin = copy.copy(self)
        twin._part, twin._recent = self._part.fork(), list(self._recent)
        return twin

    @property
    def _sought(self) -> tuple[str, ...]:
        """What ends the present part of the text."""
        if self.phase == "answering":
            return self._stops
        return (self._marker.text,) if self._marker.by_text else ()

    def _find(self, tokens: Sequence[int]) -> int | None:
        """Take in tokens up to the end of the marker; how many these are, None where it is not among them."""
        if self._marker.by_text:
            return self._part.grow(tokens)
        ids, before = self._marker.ids, self._recent
        seen = [*before, *tokens]
        ends = (end for end in range(len(ids), len(seen) + 1) if tuple(seen[end - len(ids) : end]) == ids)
        end = next(ends, None)
        count = None if end is None else end - len(before)
        self._part.grow(tokens[:count])
        self._recent = [] if end is not None else seen[len(seen) - len(ids) + 1 :] if len(ids) > 1 else []
        return count

    def _next_phase(self, by: ThoughtClosed) -> bool:
        """Go on behind the marker; whether the token that completed it completes a stop string of the answer, too."""
        said = self._part.text if self._marker.by_text else self._part.text.removesuffix(self._marker.text)
        if self.phase == "before":
            self._before, self.begun = said if said.strip() else "", self.tokens
            self.phase, self._marker = "thinking", self._closing
        else:
            self._thought, self._ended, self._closed = said, self.tokens, by
            self.phase = "answering"
        self._part, ended = self._part.behind(self._sought)
        return ended and (self.phase == "answering" or self._next_phase(by))


def _without_beginning(text: str, marker: Marker) -> str:
    """A growing text without an end of it that may be the beginning of a marker."""
    sizes = range(min(len(marker.text) - 1, len(text)), 0, -1)
    return text[: len(text) - next((size for size in sizes if text.endswith(marker.text[:size])), 0)]
