"""Generation cost as the paper measures it (section 6.1), and differences between strategies at equal cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000


def generation_cost(
    compute: ArrayLike, latency: ArrayLike, single_compute: ArrayLike, single_latency: ArrayLike, alpha: float
) -> NDArray[np.float64]:
    """alpha * normalised compute + (1 - alpha) * normalised best-case latency, for each prompt.

    Args:
        compute: tokens processed, the prompt's once (2N FLOPs each, KV cached) and all generated ones.
        latency: serial forward passes, the longest path.
        single_compute, single_latency: the same for one sample of that prompt, on average.
    """
    spent, serial, one, one_serial = (
        np.asarray(item, dtype=np.float64) for item in (compute, latency, single_compute, single_latency)
    )
    return np.asarray(alpha * spent / one + (1 - alpha) * serial / one_serial)


@dataclass(frozen=True)
class Interval:
    """A difference or a mean with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def interval_of(
    statistic: Callable[..., Any], *columns: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """A function of the means of columns, shape (n,) each, with a paired percentile bootstrap interval.

    Args:
        statistic: of the means, as numbers or as arrays.
    """
    weights = _weights(len(columns[0]), seed, resamples)
    return _interval(float(statistic(*(c.mean() for c in columns))), statistic(*(weights @ c for c in columns)))


def mean_interval(values: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of figures of problems, shape (n,), with a percentile bootstrap interval."""
    return interval_of(np.asarray, values, seed=seed, resamples=resamples)


def paired_difference(
    right: NDArray[np.float64],
    cost: NDArray[np.float64],
    rival_right: NDArray[np.float64],
    rival_cost: NDArray[np.float64],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """A strategy's mean accuracy less a rival family's at the same mean cost, with a paired bootstrap interval.

    The rival is a curve of settings (one, two, three samples ...): its accuracy is interpolated at the strategy's
    mean cost, and where that is below its cheapest setting, the cheapest stands for it, to its advantage.

    Args:
        right, cost: shape (n,), the strategy's accuracy and cost on each problem.
        rival_right, rival_cost: shape (k, n), the same for each of the rival's settings.
    """
    curves = right[None], cost[None], rival_right, rival_cost
    return paired_differences(*curves, seed=seed, resamples=resamples)[0]


def paired_differences(
    right: NDArray[np.float64],
    cost: NDArray[np.float64],
    rival_right: NDArray[np.float64],
    rival_cost: NDArray[np.float64],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """`paired_difference` for each of a strategy's settings: right and cost of shape (m, n)."""
    weights = _weights(right.shape[1], seed, resamples)
    means = _leads(*(item.mean(1) for item in (right, cost, rival_right, rival_cost)))
    drawn = _leads(*(weights @ item.T for item in (right, cost, rival_right, rival_cost)))
    return [_interval(float(mean), column) for mean, column in zip(means, drawn.T, strict=True)]


def _leads(
    right: NDArray[np.float64],
    cost: NDArray[np.float64],
    rival_right: NDArray[np.float64],
    rival_cost: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Shapes (..., m) and, the rival's, (..., k): `np.interp` over leading axes."""
    order = np.argsort(rival_cost, axis=-1)
    costs, rights = (np.take_along_axis(item, order, -1) for item in (rival_cost, rival_right))
    at = np.clip(cost, costs[..., :1], costs[..., -1:])
    upper = np.maximum((costs[..., None, :] < at[..., None]).sum(-1), min(1, costs.shape[-1] - 1))
    lower = np.maximum(upper - 1, 0)
    near, far, low, high = (np.take_along_axis(item, i, -1) for item in (costs, rights) for i in (lower, upper))
    share = np.divide(at - near, far - near, out=np.zeros_like(at), where=far > near)
    return np.asarray(right - (low + share * (high - low)))


@lru_cache(maxsize=16)
def _weights(size: int, seed: int, resamples: int) -> NDArray[np.float64]:
    """Shape (resamples, size): how often each problem was drawn, as a share. The same for all, so all is paired."""
    drawn = np.random.default_rng(seed).integers(0, size, (resamples, size))
    cells = np.arange(resamples)[:, None] * size + drawn
    return np.bincount(cells.ravel(), minlength=resamples * size).reshape(resamples, size) / size


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    """Rounded, so that the noise of float64 is no difference."""
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(*(round(float(number), 12) + 0.0 for number in (value, low, high)))
