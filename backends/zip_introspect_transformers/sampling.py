"""Drawing the next token of every row at once, on the device, by the inverse CDF of given uniforms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zip_introspect.backend.confidences import TOP_K
from zip_introspect.backend.nucleus import nucleus
from zip_introspect.config import SamplingParams
from zip_introspect_transformers.cache.states import upload


class TorchSampler:
    """The sampling parameters of a batch's rows as tensors; what no row asks for costs nothing."""

    def __init__(self, rows: Sequence[SamplingParams], device: torch.device) -> None:
        self._sampled = not all(row.greedy for row in rows)
        self._greedy = any(row.greedy for row in rows)
        self._max_k = max(row.top_k for row in rows)
        self._shares = [row.top_p for row in rows]
        self._any_top_p = any(share < 1 for share in self._shares)
        self._any_min_p = any(row.min_p > 0 for row in rows)

        def column(values: Sequence[float], dtype: type[np.generic]) -> Tensor:
            return upload(np.array(values, dtype=dtype)[:, None], device)

        self._is_greedy = column([row.greedy for row in rows], np.bool_)
        self._temperature = column([1.0 if row.greedy else row.temperature for row in rows], np.float32)
        self._top_k = column([row.top_k for row in rows], np.int64)
        self._top_p = column([row.top_p for row in rows], np.float64)
        self._min_p = column([row.min_p for row in rows], np.float32)

    def draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Token ids (rows,) int64.

        Args:
            logits: (rows, V) float32, tokens that must not be drawn at minus infinity.
            uniforms: (rows,) float64 in [0, 1).
        """
        if not self._sampled:
            return logits.argmax(-1)
        drawn = _inverse_cdf(self._weights(logits), uniforms)
        return torch.where(self._is_greedy[:, 0], logits.argmax(-1), drawn) if self._greedy else drawn

    def _weights(self, logits: Tensor) -> Tensor:
        """What the filters leave of the tokens' probabilities, the likeliest token's at 1."""
        # Subtracting the maximum first keeps a tiny temperature from overflowing.
        scaled = (logits - logits.amax(-1, keepdim=True)) / self._temperature
        if self._max_k:
            scaled = self._keep_top_k(scaled)
        weights = scaled.exp()
        if self._any_top_p:
            weights = self._keep_top_p(weights)
        if self._any_min_p:
            weights = weights.masked_fill(weights < self._min_p * weights.amax(-1, keepdim=True), 0.0)
        return weights

    def _keep_top_k(self, scaled: Tensor) -> Tensor:
        count = min(self._max_k, scaled.shape[-1])
        best = scaled.topk(count, dim=-1).values
        kth = best.gather(-1, (self._top_k.clamp(1, count) - 1))
        return scaled.masked_fill((scaled < kth) & (self._top_k > 0), -torch.inf)

    def _keep_top_p(self, weights: Tensor) -> Tensor:
        if weights.device.type == "cpu":  # where sorting takes longer than a small model's step
            dropped = torch.zeros_like(weights, dtype=torch.bool)
            for row, share in enumerate(self._shares):
                if share < 1:
                    dropped[row] = True
                    dropped[row, torch.from_numpy(nucleus(weights[row].numpy(), share))] = False
            return weights.masked_fill(dropped, 0.0)
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        shares = ordered.double() / weights.sum(-1, keepdim=True, dtype=torch.float64)
        mass_before = shares.cumsum(-1) - shares
        dropped = (mass_before >= self._top_p) & (self._top_p < 1)
        dropped[:, 0] = False
        return weights.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), 0.0)


def token_confidences(logits: Tensor, drawn: Tensor, reserved: int) -> Tensor:
    """(rows, 2) float32, as `Advanced.confidences`.

    Args:
        logits: (rows, V) float32, as the model gave them, `reserved` ids at minus infinity.
        drawn: (rows,) int64, of tokens.
    """
    logs = logits.log_softmax(-1)
    likeliest = logs.topk(min(TOP_K, logs.shape[-1] - reserved)).values
    return torch.cat((logs.gather(-1, drawn[:, None]), likeliest.mean(-1, keepdim=True)), -1)


def _inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose cumulative weight exceeds the uniform's share; never one of weight 0."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, target[:, None], right=True)
    drawn = drawn.clamp_max(weights.shape[-1] - 1)  # reached by rows of NaN alone, which are not used
    # Sums made in parallel may rise by a rounding error where nothing was added.
    found = weights.gather(-1, drawn) > 0
    return torch.where(found, drawn, weights.argmax(-1, keepdim=True))[:, 0]
