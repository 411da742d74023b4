"""Where a sample ends before the backend says so: at a stop string, or at logits that are not finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zip_introspect.backend.contract import Advanced
from zip_introspect.backend.detokenization import TextStream
from zip_introspect.errors import BackendError


class SampleText:
    """A sample's text as it grows. Each token is decoded once, and each character searched once for stop strings.

    Args:
        stream: from token ids to text, at the sample's beginning.
        stops: strings that end the sample; none of them is empty.
    """

    def __init__(self, stream: TextStream, stops: Sequence[str] = ()) -> None:
        self._stream, self._stops = stream, tuple(stops)
        self._tail = max(map(len, self._stops), default=1) - 1
        """Characters in which a stop string may have begun."""
        self.text = ""
        """All so far: up to the first stop string, and without a character whose bytes are not all there yet."""
        self._rest = ""
        """What the token that completed the stop string says beyond it."""

    def grow(self, tokens: Sequence[int]) -> int | None:
        """Take in new tokens; how many of them complete the first stop string, None where none occurs."""
        before = self._stream.fork() if self._stops else self._stream
        piece = self._stream.step(tokens)
        if self._place(piece) is None:
            self.text += piece
            return None
        for count, token in enumerate(tokens, 1):
            if self._append(before.step([token])):
                self._stream = before
                return count
        raise BackendError(
            f"decode_stream gave {piece!r} for {len(tokens)} tokens at once and another text for the same one by one; "
            f"expected the same however tokens are grouped. Mend the backend."
        )

    def end(self) -> str:
        """The text when no further token comes."""
        self._append(self._stream.end())
        return self.text

    def fork(self) -> SampleText:
        """The text of a sample that goes on from here on its own."""
        twin = SampleText(self._stream.fork(), self._stops)
        twin.text = self.text
        return twin

    def behind(self, stops: Sequence[str] = ()) -> tuple[SampleText, bool]:
        """The text that follows the stop string, empty where none came, with other strings that end it.

        Returns:
            the text, and whether the token that completed the stop string has completed one of these too.
        """
        after = SampleText(self._stream, stops)
        return after, after._append(self._rest)

    def _append(self, piece: str) -> bool:
        """Add to the text up to the first stop string; whether there was one."""
        place, whole = self._place(piece), self.text + piece
        self.text = whole[:place]
        if place is not None:
            self._rest = whole[place + next(len(stop) for stop in self._stops if whole.startswith(stop, place)) :]
        return place is not None

    def _place(self, piece: str) -> int | None:
        """Where the first stop string begins that the text would hold with a piece more; None without one."""
        start = max(0, len(self.text) - self._tail)
        searched = self.text[start:] + piece
        places = [place for stop in self._stops if (place := searched.find(stop)) >= 0]
        return start + min(places) if places else None


def sound(advanced: Advanced) -> Advanced:
    """What was generated up to the first joint that is not finite: it too is a sign of broken logits."""
    finite = np.isfinite(advanced.joint_logits).all(axis=1)
    if finite.all():
        return advanced
    good = int(finite.argmin())
    return Advanced(
        advanced.tokens[: good + 1],
        advanced.joint_logits[:good],
        finished=False,
        non_finite=True,
        confidences=None if advanced.confidences is None else advanced.confidences[: good + 1],
    )
