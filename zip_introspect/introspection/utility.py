"""The sampling utility of a set of prefixes: expected best reward less the cost of getting there (eq. 17-19, 28).

For one horizon, everything that the utility needs of a prefix is linear in its joint: the distribution functions of
its capped reward and length, and its capped expected length. `capped_statistics` takes them for all horizons in one
matrix product; what a set of prefixes is worth is then a product of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zip_introspect.errors import ConfigError, GridError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.joint import Floats, on_grid
from zip_introspect.introspection.order_statistics import expectation_from_cdf

TOLERANCE = 1e-12
"""Utilities closer than this are equal: the difference is rounding."""

_MAX_ROUNDS = 32  # coordinate ascent settles in 2 to 4


@dataclass(frozen=True, slots=True)
class SamplingUtility:
    """What running a set of prefixes is worth, and the parts that make it up."""

    value: float
    """expected_reward - beta * (alpha * expected_compute + (1 - alpha) * expected_latency)."""
    expected_reward: float
    """E[max Z], the finished values and the forfeits of planned pruning among them (eq. 20)."""
    expected_compute: float
    """Tokens still to generate, summed over the prefixes (eq. 21)."""
    expected_latency: float
    """Serial steps until the last of them ends (eq. 22)."""
    horizon: int | tuple[int, ...]
    """The last length bin allowed (eq. 25), for all prefixes or one each; the last bin of the grid is no cap."""


@dataclass(frozen=True, slots=True)
class CappedStatistics:
    """What the utility needs of n prefixes, for each of H horizons."""

    cdfs: Floats
    """Shape (n, H, (B_V-1) + (B_T-1)): P(reward <= bin b), then P(length <= bin l), of the capped joint; the last
    bin of each axis is left out, for it is 1."""
    lengths: Floats
    """Shape (n, H): expected tokens until the end or the cap."""


def capped_statistics(joints: ArrayLike, grid: JointGrid) -> CappedStatistics:
    """The statistics of joints (n, B_V, B_T) at every horizon of the grid (eq. 24 of eq. 26).

    Raises:
        GridError: joints of another shape.
    """
    array = on_grid(joints, grid)
    if array.ndim != 3:
        raise GridError(f"joints of shape {array.shape}; expected (n, {grid.num_reward_bins}, {grid.num_length_bins})")
    horizons = grid.num_length_bins
    matrix = _statistics_matrix(grid.num_reward_bins, tuple(grid.length_values.tolist()))
    linear = array.reshape(array.shape[0], grid.num_cells) @ matrix
    cdfs = 1.0 - linear[:, :-horizons].reshape(array.shape[0], horizons, sum(grid.shape) - 2)
    return CappedStatistics(cdfs=cdfs, lengths=linear[:, -horizons:])


@lru_cache(maxsize=16)
def _statistics_matrix(rewards: int, length_values: tuple[float, ...]) -> Floats:
    """Shape (B_V*B_T, H*(B_V-1 + B_T-1) + H): from a flat joint to all its statistics.

    It depends on the number of reward bins alone, not on their values: grids that differ in those share it.

    Complements of distribution functions, P(reward > b) and P(length > l), because mass beyond the horizon
    falls into reward bin 0 and length bin h: it is never above b, and above l only where l < h.
    """
    horizons = len(length_values)
    b, length = np.divmod(np.arange(rewards * horizons), horizons)
    h = np.arange(horizons)[:, None, None]
    above_reward = (b[:, None] > np.arange(rewards - 1)).T[None] & (length <= h)
    longer = (length[:, None] > np.arange(horizons - 1)).T[None] & (np.arange(horizons - 1)[:, None] < h)
    columns = np.concatenate([above_reward, longer], axis=1).reshape(-1, rewards * horizons)
    capped = np.array(length_values)[np.minimum(length, np.arange(horizons)[:, None])]
    matrix = np.ascontiguousarray(np.concatenate([columns, capped]).T, dtype=np.float64)
    matrix.setflags(write=False)
    return matrix


def sampling_utility(
    joints: ArrayLike,
    grid: JointGrid,
    alpha: float,
    beta: float,
    finished_values: Sequence[float] = (),
    horizon: int | Sequence[int] | None = None,
) -> SamplingUtility:
    """The utility of running n prefixes to their ends or to a horizon (eq. 17-19).

    Args:
        joints: shape (n, B_V, B_T); n may be 0.
        alpha: compute (1) against latency (0).
        beta: cost against reward, already normalised (eq. 28).
        finished_values: constants that take part in the maximum: of finished samples, the representatives of the bins
            into which their values fall (`JointGrid.representative`), so that like is compared with like.
        horizon: the last length bin allowed, one for all or one a prefix; None takes the best shared one,
            the shortest of those that are equal.

    Raises:
        GridError: joints of another shape, or a horizon that is not a length bin.
        ConfigError: alpha, beta or a finished value out of range.
    """
    check_weights(alpha, beta)
    floor = best_finished(finished_values, grid)
    statistics = capped_statistics(joints, grid)
    n, last = statistics.lengths.shape[0], grid.num_length_bins - 1
    if horizon is None:
        if not n:
            return SamplingUtility(floor, floor, 0.0, 0.0, last)
        candidates = evaluate(statistics.cdfs.prod(axis=0), statistics.lengths.sum(axis=0), grid, alpha, beta, floor)
        # The first within rounding of the best: the shortest horizon.
        chosen = int(np.argmax(candidates[0] >= candidates[0].max() - TOLERANCE))
        return _utility(candidates, chosen, chosen)
    per_prefix = np.asarray(horizon)
    if not np.issubdtype(per_prefix.dtype, np.integer) and per_prefix.size:
        raise GridError(f"horizon {horizon!r}; expected whole numbers 0..{last}")
    if per_prefix.size and (per_prefix.min() < 0 or per_prefix.max() > last):
        raise GridError(f"horizon {horizon!r} is not a length bin; expected 0..{last}")
    if per_prefix.ndim and per_prefix.shape != (n,):
        raise GridError(f"{per_prefix.size} horizons for {n} prefixes; expected one for all, or one each")
    label = tuple(int(h) for h in per_prefix) if per_prefix.ndim else int(per_prefix)
    if not n:
        return SamplingUtility(floor, floor, 0.0, 0.0, label)
    chosen_bins = np.broadcast_to(per_prefix, (n,)).astype(np.intp)
    cdfs = statistics.cdfs[np.arange(n), chosen_bins].prod(axis=0)
    lengths = statistics.lengths[np.arange(n), chosen_bins].sum()
    return _utility(evaluate(cdfs, lengths, grid, alpha, beta, floor), (), label)


def normalized_beta(beta: float, lengths: ArrayLike, expected_remaining: ArrayLike) -> float:
    """beta over the mean expected total length of the prefixes in a meta-action (eq. 28).

    Args:
        lengths: shape (n,), tokens of each prefix so far.
        expected_remaining: shape (n,), expected tokens still to come, uncapped.

    Raises:
        ConfigError: no prefixes, or a negative length.
    """
    totals = np.asarray(lengths, dtype=np.float64) + np.asarray(expected_remaining, dtype=np.float64)
    if not totals.size or not np.isfinite(totals).all() or totals.min() < 0:
        raise ConfigError(f"expected total lengths are {totals.tolist()}; expected one or more, none negative")
    return beta / max(float(totals.mean()), 1.0)  # a rollout has one token at the least


def per_prefix_horizons(
    joints: ArrayLike, grid: JointGrid, alpha: float, beta: float, finished_values: Sequence[float] = ()
) -> SamplingUtility:
    """The utility with a horizon for each prefix, by coordinate ascent from the best shared one.

    Never below the best shared horizon's utility; a local optimum, so brute force may find more.

    Args:
        joints: shape (n, B_V, B_T), n >= 1.

    Raises:
        GridError: joints of another shape.
        ConfigError: alpha, beta or a finished value out of range.
    """
    shared = sampling_utility(joints, grid, alpha, beta, finished_values)
    statistics = capped_statistics(joints, grid)
    if not statistics.lengths.size:
        return SamplingUtility(shared.value, shared.expected_reward, 0.0, 0.0, ())
    start = np.full((1, statistics.lengths.shape[0]), shared.horizon, dtype=np.intp)
    found = ascend_horizons(
        statistics.cdfs[None],
        statistics.lengths[None],
        start,
        grid,
        alpha,
        np.array([beta]),
        best_finished(finished_values, grid),
    )
    return sampling_utility(joints, grid, alpha, beta, finished_values, found[0].tolist())


def ascend_horizons(
    cdfs: Floats, lengths: Floats, start: NDArray[np.intp], grid: JointGrid, alpha: float, beta: Floats, floor: float
) -> NDArray[np.intp]:
    """Coordinate ascent on per-prefix horizons, for C sets of N prefixes at once.

    Args:
        cdfs: shape (C, N, H, F), rows of `CappedStatistics.cdfs`; a set of fewer prefixes is padded with ones.
        lengths: shape (C, N, H); padded with zeros.
        start: shape (C, N), the horizons to begin from.
        beta: shape (C,), normalised.
        floor: the best finished value, or the lowest reward.

    Returns:
        shape (C, N): no change of a single prefix's horizon improves on them.
    """
    sets, members = start.shape
    horizons = start.copy()
    every = np.arange(sets)
    for _ in range(_MAX_ROUNDS):
        before = horizons.copy()
        current = cdfs[every[:, None], np.arange(members), horizons]
        # Products of the rows after each prefix; those before it are multiplied up as the sweep goes.
        after = np.ones((members + 1, sets, cdfs.shape[-1]))
        np.multiply.accumulate(current.transpose(1, 0, 2)[::-1], axis=0, out=after[:-1][::-1])
        total = lengths[every[:, None], np.arange(members), horizons].sum(axis=1)
        ahead = np.ones((sets, cdfs.shape[-1]))
        for i in range(members):
            others = (ahead * after[i + 1])[:, None]
            rest = (total - lengths[every, i, horizons[:, i]])[:, None]
            value = evaluate(cdfs[:, i] * others, lengths[:, i] + rest, grid, alpha, beta[:, None], floor)[0]
            better = value.max(axis=1) > value[every, horizons[:, i]] + TOLERANCE
            horizons[better, i] = value.argmax(axis=1)[better]
            total = rest[:, 0] + lengths[every, i, horizons[:, i]]
            ahead *= cdfs[every, i, horizons[:, i]]
        if (horizons == before).all():
            break
    return horizons


def evaluate(
    cdfs: Floats, lengths: Floats, grid: JointGrid, alpha: float, beta: float | Floats, floor: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Value, reward, compute and latency of sets of prefixes (eq. 17), each of shape (...).

    Args:
        cdfs: shape (..., F), products of rows of `CappedStatistics.cdfs` over the members (eq. 23).
        lengths: shape (...), sums of `CappedStatistics.lengths` over the members.
        beta: normalised; broadcasts to (...).
        floor: the best finished value, or the lowest reward.
    """
    split = grid.num_reward_bins - 1
    rewards = np.maximum(grid.reward_values, floor)
    reward = expectation_from_cdf(cdfs[..., :split], rewards)
    latency = expectation_from_cdf(cdfs[..., split:], grid.length_values)
    value = reward - beta * (alpha * lengths + (1.0 - alpha) * latency)
    return value, reward, lengths, latency


def best_finished(finished_values: Sequence[float], grid: JointGrid) -> float:
    """What is kept if nothing more is run: the best finished value, or with none the lowest reward on the grid.

    Raises:
        ConfigError: a value that is NaN or infinite.
    """
    if not len(finished_values):
        return float(grid.reward_values[0])
    best = float(max(finished_values))
    if not math.isfinite(sum(finished_values)):
        raise ConfigError(f"finished values are {list(finished_values)}; expected finite numbers")
    return best


def check_weights(alpha: float, beta: float) -> None:
    """Refuse weights that make no utility.

    Raises:
        ConfigError: alpha outside [0, 1], or beta negative or not finite.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"alpha is {alpha}; expected 0 (only latency counts) to 1 (only compute counts)")
    if not (beta >= 0.0 and math.isfinite(beta)):
        raise ConfigError(f"beta is {beta}; expected a finite number, 0 (cost is free) or more")


def _utility(
    parts: tuple[Floats, Floats, Floats, Floats], index: int | tuple[()], horizon: int | tuple[int, ...]
) -> SamplingUtility:
    value, reward, compute, latency = (float(np.asarray(part)[index]) for part in parts)
    return SamplingUtility(value, reward, compute, latency, horizon)
