"""A sequence and the cells that remember it, some of which others hold too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.sequences import Sample


@dataclass(eq=False)
class Stem:
    """Cells that several sequences share, after those of `parent`."""

    cells: int
    parent: Stem | None = None

    def chain(self) -> Iterator[Stem]:
        """This stem and all before it."""
        stem: Stem | None = self
        while stem is not None:
            yield stem
            stem = stem.parent


@dataclass(eq=False)
class SharedPrompt:
    """The prompt that samples have in common."""

    length: int


@dataclass(eq=False, kw_only=True)
class Held(Sample):
    """A sample, and the cells that remember it."""

    origin: SharedPrompt
    slot: int | None = None
    """None while it holds no cells."""
    stem: Stem | None = None
    """What it shares of its cells."""
    taken_over: int = 0
    """Tokens whose cells another one held when its own were computed."""
    logits: NDArray[np.float32] | None = None
    """Shape (V,), after the last token, reserved ids masked; shared by forks, never written to."""
    hidden: NDArray[np.float32] | None = None
    """Shape (hidden size,): the sum of the hidden states after the prompt and each token since, where they are read.
    Shared by forks, never written to."""

    @property
    def own(self) -> int:
        """Cells that nobody else holds."""
        return len(self.tokens) - (sum(stem.cells for stem in self.stem.chain()) if self.stem else 0)

    def freeze(self) -> None:
        """Turn its own cells into a stem that others may share."""
        if self.own:
            self.stem = Stem(self.own, self.stem)

    def stem_to(self, length: int) -> Stem:
        """What it shares of its cells up to a length, made where there is none; of its first `length` tokens."""
        self.freeze()
        stem, end = self.stem, len(self.tokens)
        while stem is not None and end - stem.cells >= length:
            end, stem = end - stem.cells, stem.parent
        assert stem is not None, f"a sequence of {len(self.tokens)} tokens has no cells up to {length}"
        if length < end:  # all who share the whole of it share both halves
            stem.parent, stem.cells = Stem(stem.cells - (end - length), stem.parent), end - length
            return stem.parent
        return stem
