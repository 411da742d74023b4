"""Drawing the next token of every row at once by the inverse CDF of given uniforms, on llama.cpp's own buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zip_introspect.config import SamplingParams


class NumpySampler:
    """The sampling parameters of a batch's rows; what no row asks for costs nothing."""

    def __init__(self, rows: Sequence[SamplingParams]) -> None:
        self._greedy = [row.greedy for row in rows]
        self._temperatures = [1.0 if row.greedy else row.temperature for row in rows]
        self._top_k = [row.top_k for row in rows]
        self._top_p = [row.top_p for row in rows]
        self._min_p = [row.min_p for row in rows]
        self._all_greedy, self._any_greedy = all(self._greedy), any(self._greedy)
        self._plain = all(temperature == 1 for temperature in self._temperatures)
        self._any_top_k, self._any_min_p = any(self._top_k), any(self._min_p)
        self._any_top_p = min(self._top_p) < 1

    def draw(self, logits: NDArray[np.float32], highest: NDArray[np.float32], uniforms: Sequence[float]) -> list[int]:
        """A token id for each row.

        Args:
            logits: shape (rows, V), tokens that must not be drawn at minus infinity.
            highest: shape (rows, 1), the largest of each row.
            uniforms: one a row, in [0, 1).
        """
        if self._all_greedy:
            return _integers(logits.argmax(-1))
        with np.errstate(over="ignore"):  # to minus infinity, which is a weight of 0
            weights = logits - highest  # a tiny temperature must not overflow
            if not self._plain:
                weights /= _column(self._temperatures)
        if self._any_top_k:
            self._keep_top_k(weights)
        np.exp(weights, out=weights)
        if self._any_top_p:
            self._keep_top_p(weights)
        if self._any_min_p:
            weights[weights < _column(self._min_p) * weights.max(-1, keepdims=True)] = 0.0
        drawn = _inverse_cdf(weights, uniforms)
        if self._any_greedy:
            for row, (greedy, best) in enumerate(zip(self._greedy, _integers(logits.argmax(-1)), strict=True)):
                drawn[row] = best if greedy else drawn[row]
        return drawn

    def _keep_top_k(self, scaled: NDArray[np.float32]) -> None:
        for row, k in enumerate(self._top_k):
            if 0 < k < scaled.shape[-1]:
                kth = np.partition(scaled[row], -k)[-k]
                scaled[row, scaled[row] < kth] = -np.inf

    def _keep_top_p(self, weights: NDArray[np.float32]) -> None:
        order = np.argsort(-weights, axis=-1, kind="stable")
        ordered = np.take_along_axis(weights, order, -1) / weights.sum(-1, keepdims=True, dtype=np.float64)
        mass_before = np.cumsum(ordered, axis=-1) - ordered
        share = np.array(self._top_p)[:, None]
        dropped = (mass_before >= share) & (share < 1)
        dropped[:, 0] = False
        rows, places = np.nonzero(dropped)
        weights[rows, order[rows, places]] = 0.0


def _inverse_cdf(weights: NDArray[np.float32], uniforms: Sequence[float]) -> list[int]:
    """The first token whose cumulative weight exceeds the uniform's share, so never one of weight 0."""
    drawn = []
    for sums, uniform in zip(np.add.accumulate(weights, axis=-1, dtype=np.float64), uniforms, strict=True):
        total = sums.item(-1)
        drawn.append(int(sums.searchsorted(min(uniform * total, math.nextafter(total, 0.0)), side="right")))
    return drawn


def _column(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]


def _integers(array: NDArray[np.intp]) -> list[int]:
    return [int(number) for number in array]
