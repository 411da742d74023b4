"""Released prompts whose states are kept, for prompts to come that begin alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic

from zip_introspect.backend.sequences import S

SHORTEST = 32
"""Tokens of a prefix that is worth the trouble."""


class KeptPrompts(Generic[S]):
    """The kept prompts of a backend, the least recently used first.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[S] = []

    def __iter__(self) -> Iterator[S]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def wants(self, sample: S) -> bool:
        """Whether a released sequence is worth keeping: a prompt that was read to its end, and is not too short."""
        prompt = sample.sampling is None and not sample.step and not sample.ended
        return prompt and self._most > 0 and len(sample.tokens) >= SHORTEST

    def keep(self, sample: S) -> list[S]:
        """Keep a prompt; those that give way to it."""
        gone = [other for other in self._kept if other.tokens == sample.tokens]
        rest = [other for other in self._kept if other not in gone]
        over = max(0, len(rest) + 1 - self._most)
        self._kept = [*rest[over:], sample]
        return gone + rest[:over]

    def touch(self, sample: S) -> None:
        """Mark one as the last used, if it is among them."""
        if sample in self._kept:
            self._kept.remove(sample)
            self._kept.append(sample)

    def pop(self) -> S:
        """Take the least recently used out."""
        return self._kept.pop(0)

    def clear(self) -> None:
        """Let all of them go."""
        self._kept.clear()


def longest(tokens: Sequence[int], holders: Iterable[S], cuttable: int | None = None) -> tuple[S | None, int]:
    """Whose state begins with most of a prompt, and with how many of its tokens; its last one is always computed.

    Args:
        holders: sequences whose states are those of all their tokens.
        cuttable: states of fewer tokens than this can be cut back, None is any; others are taken over as a whole.
    """
    best: tuple[S | None, int] = (None, 0)
    if len(tokens) <= SHORTEST:
        return best
    start = list(tokens[:SHORTEST])
    for holder in holders:
        if holder.tokens[:SHORTEST] != start:
            continue
        count = min(common(tokens, holder.tokens), len(tokens) - 1)
        whole = count == len(holder.tokens)
        if count > best[1] and (whole or cuttable is None or len(holder.tokens) < cuttable):
            best = holder, count
    return best


def behind(samples: Sequence[S], known: Sequence[int]) -> list[S]:
    """Those that begin as one before them in the list does, and are best computed after it.

    Args:
        known: how many tokens of each are held already.
    """
    first: list[S] = []
    later: list[S] = []
    for sample, held in zip(samples, known, strict=True):
        (later if longest(sample.tokens, first)[1] > held else first).append(sample)
    return later


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two sequences begin with together."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is a matter of C
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
