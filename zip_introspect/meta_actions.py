"""The search for the best meta-action: which unfinished leaves to continue, and how many new samples to start (A.2).

Candidates are sets of leaves, plus m copies of the root. `nested` ranks the leaves and takes the best k of them;
`exact` takes every subset. Either way the distribution functions of all sets are multiplied up once, those of the
root's copies once more, and one batched matrix product values every (set, m, horizon) together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zip_introspect.errors import ConfigError, GridError
from zip_introspect.grid import JointGrid
from zip_introspect.utility import (
    TOLERANCE,
    CappedStatistics,
    SamplingUtility,
    ascend_horizons,
    best_finished,
    capped_statistics,
    check_weights,
    evaluate,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

HorizonMode = Literal["shared", "per_prefix", "none"]
SearchMode = Literal["nested", "exact"]

EXACT_LIMIT = 12
"""Leaves whose every subset `exact` weighs: the best ranked, where there are more."""

_SHORTLIST = 32  # candidates whose horizons are refined one by one in per_prefix mode


@dataclass(frozen=True, slots=True)
class MetaAction:
    """The best thing to run next, beside what keeping the best finished sample is worth."""

    leaves: tuple[int, ...]
    """Indices of the leaves to continue, ascending; the others pause."""
    new_samples: int
    """How many samples to start at the root."""
    utility: SamplingUtility
    """Of running these; horizons in per_prefix mode follow `leaves`, then the new samples."""
    keep_value: float
    """The utility of running nothing: the best finished value, or the lowest reward where nothing is finished."""
    normalized_beta: float
    """The beta of eq. 28 for this meta-action."""

    @property
    def size(self) -> int:
        """How many samples would run."""
        return len(self.leaves) + self.new_samples

    @property
    def worth_running(self) -> bool:
        """Whether running it beats keeping the best finished sample; where it does not, searching stops."""
        return self.size > 0 and self.utility.value > self.keep_value + TOLERANCE


def best_meta_action(
    leaf_joints: ArrayLike,
    root_joint: ArrayLike,
    grid: JointGrid,
    *,
    alpha: float,
    beta: float,
    leaf_lengths: ArrayLike,
    root_length: float = 0.0,
    finished_values: Sequence[float] = (),
    max_new: int,
    max_active: int | None = None,
    horizon: HorizonMode = "shared",
    search: SearchMode = "nested",
) -> MetaAction:
    """The meta-action with the highest sampling utility; of equals, the one that runs the fewest samples.

    Args:
        leaf_joints: shape (n, B_V, B_T), the (smoothed) joints of the unfinished leaves; n may be 0.
        root_joint: shape (B_V, B_T), the joint at the prompt.
        alpha: compute (1) against latency (0).
        beta: cost against reward before normalisation; each candidate divides it by the mean expected total
            length of its own members (eq. 28).
        leaf_lengths: shape (n,), tokens of each leaf so far.
        root_length: tokens counted for the root: 0, or the prompt's where that is counted.
        finished_values: values of the finished samples.
        max_new: how many new samples may still be started.
        max_active: how many samples may run at once; None is no limit.
        horizon: one shared cap, one for each prefix, or none.
        search: how sets of leaves are enumerated.

    Returns:
        the best non-empty meta-action, worth running or not; the empty one where nothing may run.

    Raises:
        GridError: joints or lengths of another shape.
        ConfigError: a weight, limit or mode out of range.
    """
    check_weights(alpha, beta)
    floor = best_finished(finished_values, grid)
    joints, root = np.asarray(leaf_joints, dtype=np.float64), np.asarray(root_joint, dtype=np.float64)
    if joints.size == 0:
        joints = joints.reshape(0, *grid.shape)
    lengths = np.asarray(leaf_lengths, dtype=np.float64).reshape(-1)
    n = joints.shape[0]
    if joints.ndim != 3 or lengths.shape != (n,) or root.shape != joints.shape[1:]:
        raise GridError(
            f"leaf joints of shape {joints.shape}, {lengths.size} lengths, a root joint of shape {root.shape}; "
            f"expected (n, B_V, B_T), n lengths, and (B_V, B_T)"
        )
    if max_new < 0 or (max_active is not None and max_active < 0):
        raise ConfigError(f"max_new is {max_new} and max_active {max_active}; expected 0 or more")
    if horizon not in ("shared", "per_prefix", "none") or search not in ("nested", "exact"):
        raise ConfigError(
            f"horizon {horizon!r} and search {search!r}; expected shared, per_prefix or none; nested or exact"
        )
    limit = n + max_new if max_active is None else min(max_active, n + max_new)
    max_new = min(max_new, limit)
    if not limit:
        return MetaAction((), 0, SamplingUtility(floor, floor, 0.0, 0.0, grid.num_length_bins - 1), floor, beta)

    statistics = capped_statistics(np.concatenate([joints, root[None]]), grid)
    totals = np.append(lengths, root_length) + statistics.lengths[:, -1]  # |s| + E[L], uncapped (eq. 28)
    if horizon == "none":
        statistics = CappedStatistics(statistics.cdfs[:, -1:], statistics.lengths[:, -1:])
    problem = _Problem(grid, alpha, beta, floor, statistics, totals, max_new, limit)
    sets = problem.subsets() if search == "exact" else problem.chains()
    return problem.refined(sets) if horizon == "per_prefix" else problem.best(sets)


@dataclass(frozen=True, slots=True)
class _LeafSets:
    """K sets of leaves for each of H horizons, and their sums and products."""

    cdfs: Floats  # (H, K, F): products over the members
    lengths: Floats  # (H, K): sums over the members
    totals: Floats  # (H, K)
    sizes: Integers  # (K,)
    order: Integers  # (H, n): leaves by rank
    masks: Integers | None  # (K,): members as bits over the ranks; None where set k is the first sizes[k]

    def members(self, horizon: int, index: int) -> list[int]:
        """The leaves of a set, ascending."""
        if self.masks is None:
            return sorted(self.order[horizon, : self.sizes[index]].tolist())
        mask = int(self.masks[index])
        return sorted(leaf for rank, leaf in enumerate(self.order[horizon].tolist()) if mask >> rank & 1)


@dataclass(frozen=True, slots=True)
class _Problem:
    """One decision. Row n of the statistics is the root's, after those of the n leaves."""

    grid: JointGrid
    alpha: float
    beta: float
    floor: float
    statistics: CappedStatistics
    totals: Floats
    max_new: int
    limit: int

    def rank(self) -> Integers:
        """Leaves by their own utility, best first, for each horizon: shape (H, n)."""
        cdfs, lengths = self.statistics.cdfs[:-1], self.statistics.lengths[:-1]
        rewards = np.maximum(self.grid.reward_values, self.floor)
        beta = self.beta / max(float(self.totals.mean()), 1.0)
        loss = cdfs[..., : rewards.size - 1] @ np.diff(rewards) + beta * lengths
        return np.argsort(loss, axis=0, kind="stable").T

    def chains(self) -> _LeafSets:
        """The best k leaves, for every k that may run."""
        order = self.rank()[:, : self.limit]
        rows = np.arange(order.shape[0])[:, None]
        count = order.shape[1] + 1
        cdfs = np.ones((order.shape[0], count, self.statistics.cdfs.shape[-1]))
        np.multiply.accumulate(self.statistics.cdfs[order, rows], axis=1, out=cdfs[:, 1:])
        lengths, totals = np.zeros((order.shape[0], count)), np.zeros((order.shape[0], count))
        np.cumsum(self.statistics.lengths[order, rows], axis=1, out=lengths[:, 1:])
        np.cumsum(self.totals[order], axis=1, out=totals[:, 1:])
        return _LeafSets(cdfs, lengths, totals, np.arange(count), order, None)

    def subsets(self) -> _LeafSets:
        """Every subset of the leaves; of the EXACT_LIMIT best ranked where there are more."""
        order = self.rank()[:, :EXACT_LIMIT]
        horizons, n = order.shape
        cdfs = np.ones((horizons, 1 << n, self.statistics.cdfs.shape[-1]))
        lengths, totals = np.zeros((horizons, 1 << n)), np.zeros((horizons, 1 << n))
        sizes = np.zeros(1 << n, dtype=np.intp)
        rows = np.arange(horizons)
        for rank in range(n):  # the sets that hold this leaf are those before, with it
            old, new = slice(0, 1 << rank), slice(1 << rank, 2 << rank)
            leaf = order[:, rank]
            np.multiply(cdfs[:, old], self.statistics.cdfs[leaf, rows][:, None], out=cdfs[:, new])
            lengths[:, new] = lengths[:, old] + self.statistics.lengths[leaf, rows][:, None]
            totals[:, new] = totals[:, old] + self.totals[leaf][:, None]
            sizes[new] = sizes[old] + 1
        return _LeafSets(cdfs, lengths, totals, sizes, order, np.arange(1 << n))

    def best(self, sets: _LeafSets) -> MetaAction:
        """The best of all (horizon, set, number of new samples)."""
        value, reward, compute, latency, beta = self.values(sets)
        h, k, m = self.choose(value, sets.sizes)
        horizon = h if value.shape[0] > 1 else self.grid.num_length_bins - 1
        utility = SamplingUtility(
            float(value[h, k, m]), float(reward[h, k, m]), float(compute[h, k, m]), float(latency[h, k, m]), horizon
        )
        return MetaAction(tuple(sets.members(h, k)), m, utility, self.floor, float(beta[h, k, m]))

    def values(self, sets: _LeafSets) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Value, reward, compute, latency and normalised beta, each of shape (H, K, M)."""
        news = np.arange(self.max_new + 1)
        root = np.ones((sets.cdfs.shape[0], news.size, sets.cdfs.shape[-1]))
        np.multiply.accumulate(
            np.broadcast_to(self.statistics.cdfs[-1][:, None], root[:, 1:].shape), axis=1, out=root[:, 1:]
        )
        rewards = np.maximum(self.grid.reward_values, self.floor)
        split = rewards.size - 1
        # E[max] = last value - sum of steps * cdf (eq. 20, 22), for all pairs (set, m) of one horizon at a time.
        steps = np.concatenate([np.diff(rewards), np.diff(self.grid.length_values)])
        weighted = (root * steps).transpose(0, 2, 1)
        reward = rewards[-1] - sets.cdfs[..., :split] @ weighted[:, :split]
        latency = self.grid.length_values[-1] - sets.cdfs[..., split:] @ weighted[:, split:]
        compute = sets.lengths[..., None] + (news * self.statistics.lengths[-1][:, None])[:, None]
        size = sets.sizes[:, None] + news
        size[0, 0] = 1
        beta = self.beta / np.maximum((sets.totals[..., None] + news * self.totals[-1]) / size, 1.0)
        value = reward - beta * (self.alpha * compute + (1.0 - self.alpha) * latency)
        value[:, sets.sizes[:, None] + news > self.limit] = -np.inf
        value[:, 0, 0] = -np.inf
        return value, reward, compute, latency, beta

    def choose(self, value: Floats, sizes: Integers) -> tuple[int, int, int]:
        """Of the candidates within rounding of the best: the fewest samples, then fewest new, then shortest."""
        ties = np.flatnonzero(value.ravel() >= value.max() - TOLERANCE)
        h, k, m = np.unravel_index(ties, value.shape)
        pick = 0 if ties.size == 1 else np.lexsort((k, h, m, sizes[k] + m))[0]
        return int(h[pick]), int(k[pick]), int(m[pick])

    def refined(self, sets: _LeafSets) -> MetaAction:
        """The best of the most promising candidates once each has its own horizons."""
        value, *_, beta = self.values(sets)
        ranked = np.argsort(-value.max(axis=0), axis=None, kind="stable")[:_SHORTLIST]
        candidates = []
        for k, m in zip(*np.unravel_index(ranked, value.shape[1:]), strict=True):
            h = int(value[:, k, m].argmax())
            if np.isfinite(value[h, k, m]):
                candidates.append((h, sets.members(h, int(k)), int(m), float(beta[h, k, m])))
        n, bins = self.totals.size - 1, self.grid.num_length_bins
        widest = max(len(leaves) + m for _, leaves, m, _ in candidates)
        cdfs = np.ones((len(candidates), widest, *self.statistics.cdfs.shape[1:]))
        lengths = np.zeros((len(candidates), widest, bins))
        for row, (_, leaves, m, _) in enumerate(candidates):
            members = [*leaves, *[n] * m]
            cdfs[row, : len(members)] = self.statistics.cdfs[members]
            lengths[row, : len(members)] = self.statistics.lengths[members]
        start = np.repeat(np.array([[h] for h, *_ in candidates], dtype=np.intp), widest, axis=1)
        betas = np.array([b for *_, b in candidates])
        found = ascend_horizons(cdfs, lengths, start, self.grid, self.alpha, betas, self.floor)
        pick = np.arange(len(candidates))[:, None], np.arange(widest), found
        parts = evaluate(cdfs[pick].prod(axis=1), lengths[pick].sum(axis=1), self.grid, self.alpha, betas, self.floor)
        tied = np.flatnonzero(parts[0] >= parts[0].max() - TOLERANCE).tolist()
        row = min(tied, key=lambda i: (len(candidates[i][1]) + candidates[i][2], candidates[i][2]))
        _, leaves, m, _ = candidates[row]
        horizons = tuple(found[row, : len(leaves) + m].tolist())
        value_, reward, compute, latency = (float(part[row]) for part in parts)
        utility = SamplingUtility(value_, reward, compute, latency, horizons)
        return MetaAction(tuple(leaves), m, utility, self.floor, float(betas[row]))
