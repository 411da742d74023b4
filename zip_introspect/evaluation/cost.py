"""Generation cost as the paper measures it (section 6.1), and differences between strategies at equal cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


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
    """A difference with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(
    right: NDArray[np.float64],
    cost: NDArray[np.float64],
    rival_right: NDArray[np.float64],
    rival_cost: NDArray[np.float64],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """A strategy's mean accuracy less a rival family's at the same mean cost, with a paired bootstrap interval.

    The rival is a curve of settings (one, two, three samples ...): its accuracy is interpolated at the strategy's
    mean cost, and where that is below its cheapest setting, the cheapest stands for it, to its advantage.

    Args:
        right, cost: shape (n,), the strategy's accuracy and cost on each problem.
        rival_right, rival_cost: shape (k, n), the same for each of the rival's settings.
    """

    def difference(index: NDArray[np.int64]) -> float:
        costs, accuracies = rival_cost[:, index].mean(1), rival_right[:, index].mean(1)
        order = np.argsort(costs)
        return float(right[index].mean() - np.interp(cost[index].mean(), costs[order], accuracies[order]))

    everything = np.arange(len(right))
    result = stats.bootstrap(
        (everything,), difference, vectorized=False, n_resamples=resamples, method="percentile", rng=seed
    )
    interval = result.confidence_interval
    return Interval(difference(everything), float(interval.low), float(interval.high))
