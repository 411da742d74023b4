"""Released prompts whose cells are kept, for prompts to come that begin alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from zip_introspect_llama_cpp.cache.held import Held

SHORTEST = 32
"""Tokens of a prefix that is worth the trouble."""


class Prefixes:
    """The kept prompts, the least recently used first.

    Args:
        most: how many are kept; each makes every step of all sequences attend over as many cells more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[Held] = []

    def __iter__(self) -> Iterator[Held]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def wants(self, sample: Held) -> bool:
        """Whether a released sequence is worth keeping."""
        holds = sample.slot is not None and not sample.ended and sample.is_prompt
        return holds and self._most > 0 and len(sample.tokens) >= SHORTEST

    def keep(self, sample: Held) -> list[Held]:
        """Keep a prompt; those that give way to it."""
        gone = [other for other in self._kept if other.tokens == sample.tokens]
        gone += [other for other in self._kept if other not in gone][: max(0, len(self) - len(gone) + 1 - self._most)]
        self._kept = [other for other in self._kept if other not in gone] + [sample]
        return gone

    def touch(self, sample: Held) -> None:
        """Mark one as the last used, if it is among them."""
        if sample in self._kept:
            self._kept.remove(sample)
            self._kept.append(sample)

    def pop(self) -> Held:
        """Take the least recently used out."""
        return self._kept.pop(0)


def longest(tokens: Sequence[int], holders: Iterable[Held], cuttable: int | None = None) -> tuple[Held | None, int]:
    """Whose cells begin with most of a prompt, and with how many of its tokens; its last one is always computed.

    Args:
        cuttable: states of fewer tokens than this can be cut back, None is any; others are taken over as a whole.
    """
    best: tuple[Held | None, int] = (None, SHORTEST - 1)
    start = list(tokens[:SHORTEST])
    if len(tokens) <= SHORTEST:
        return None, 0
    for holder in holders:
        if holder.tokens[:SHORTEST] != start:
            continue
        count = min(common(tokens, holder.tokens), len(tokens) - 1)
        whole = count == len(holder.tokens)
        if count > best[1] and (whole or cuttable is None or len(holder.tokens) < cuttable):
            best = holder, count
    return best if best[0] is not None else (None, 0)


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
