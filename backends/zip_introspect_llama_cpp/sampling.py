"""Drawing the next token of every row by the inverse CDF of given uniforms, on llama.cpp's own buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.nucleus import nucleus
from zip_introspect.config import SamplingParams

_BLOCK = 512
_DEPTHS = (8.0, 16.0)
"""Below the largest logit, over the temperature: few tokens lie nearer to it."""


class NumpySampler:
    """The sampling parameters of a batch's rows; what no row asks for costs nothing.

    Rows are drawn one after another: the numbers of one fit into a core's cache, those of many do not.
    """

    def __init__(self, rows: Sequence[SamplingParams]) -> None:
        self._rows = rows
        self._all_greedy = all(row.greedy for row in rows)

    def draw(self, logits: NDArray[np.float32], highest: NDArray[np.float32], uniforms: Sequence[float]) -> list[int]:
        """A token id for each row.

        Args:
            logits: shape (rows, V), tokens that must not be drawn at minus infinity.
            highest: shape (rows, 1), the largest of each row.
            uniforms: one a row, in [0, 1).
        """
        if self._all_greedy:
            return [int(number) for number in logits.argmax(-1)]
        with np.errstate(over="ignore"):  # to minus infinity, which is a weight of 0
            rows = zip(self._rows, logits, highest[:, 0], uniforms, strict=True)
            return [int(own.argmax()) if row.greedy else _drawn(row, own, top, draw) for row, own, top, draw in rows]


def _drawn(row: SamplingParams, logits: NDArray[np.float32], highest: np.float32, uniform: float) -> int:
    scaled = logits - highest  # first, for a tiny temperature must not overflow
    if row.temperature != 1:
        scaled /= np.float32(row.temperature)
    if 0 < row.top_k < scaled.size:
        scaled[scaled < _kth(scaled, row.top_k)] = -np.inf
    weights = np.exp(scaled, out=scaled)
    if row.top_p == 1:
        if row.min_p > 0:
            weights[weights < np.float32(row.min_p)] = 0.0  # the likeliest token's is 1
        return _inverse_cdf_of_many(weights, uniform)
    kept = nucleus(weights, row.top_p)
    if row.min_p > 0:
        kept = kept[weights[kept] >= np.float32(row.min_p)]
    return int(kept[_inverse_cdf(weights[kept], uniform)])


def _kth(scaled: NDArray[np.float32], k: int) -> np.float32:
    """The k-th largest number, of those that lie at 0 or below."""
    for depth in _DEPTHS:
        some = scaled[scaled >= -depth]
        if some.size >= k:
            break
    else:
        some = scaled
    return np.float32(np.partition(some, -k)[-k])


def _inverse_cdf(weights: NDArray[np.float32], uniform: float, before: float = 0.0, total: float | None = None) -> int:
    """The first token whose cumulative weight exceeds the uniform's share of the total, so never one of weight 0.

    Args:
        before: weight in front of these.
    """
    sums = np.add.accumulate(weights, dtype=np.float64) + before
    total = sums.item(-1) if total is None else total
    place = int(sums.searchsorted(min(uniform * total, math.nextafter(total, 0.0)), side="right"))
    return place if place < weights.size else int(np.flatnonzero(weights)[-1])  # sums of blocks round otherwise


def _inverse_cdf_of_many(weights: NDArray[np.float32], uniform: float) -> int:
    """`_inverse_cdf`, block by block: a vocabulary's running sum takes longer than all else of a draw."""
    whole = weights.size // _BLOCK * _BLOCK
    blocks = weights[:whole].reshape(-1, _BLOCK).sum(-1, dtype=np.float64)
    sums = np.append(blocks, weights[whole:].sum(dtype=np.float64)).cumsum()
    total = sums.item(-1)
    block = int(sums.searchsorted(min(uniform * total, math.nextafter(total, 0.0)), side="right"))
    begin, before = block * _BLOCK, sums.item(block - 1) if block else 0.0
    return begin + _inverse_cdf(weights[begin : begin + _BLOCK], uniform, before, total)
