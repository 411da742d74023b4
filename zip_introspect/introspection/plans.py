"""The search for the best meta-action: which unfinished leaves to continue, and how many new samples to start (A.2).

Candidates are sets of leaves, plus m copies of the root. `nested` ranks the leaves and takes the best k of them;
`exact` takes every subset. Either way the distribution functions of all sets are multiplied up once, those of the
root's copies once more, and one batched matrix product values every (set, m, horizon) together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zip_introspect.errors import ConfigError, GridError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.joint import Floats
from zip_introspect.introspection.utility import (
    TOLERANCE,
    CappedStatistics,
    SamplingUtility,
    ascend_horizons,
    best_finished,
    capped_statistics,
    check_weights,
    evaluate,
)

Integers = NDArray[np.intp]

HorizonMode = Literal["shared", "per_prefix", "none"]
SearchMode = Literal["nested", "exact"]

EXACT_LIMIT = 12
"""Leaves whose every subset `exact` weighs; where there are more, those best ranked, and the `nested` sets of all."""

_SHORTLIST = 32  # candidates whose horizons are refined one by one in per_prefix mode


@dataclass(frozen=True, slots=True)
class Plan:
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


def best_plan(
    leaf_joints: ArrayLike,
    root_joint: ArrayLike,
    grid: JointGrid,
    *,
    alpha: float,
    beta: float,
    leaf_lengths: ArrayLike,
    root_length: float = 0.0,
    finished_values: Sequence[float] = (),
    typical_length: float | None = None,
    max_new: int,
    max_active: int | None = None,
    horizon: HorizonMode = "shared",
    search: SearchMode = "nested",
) -> Plan:
    """The meta-action with the highest sampling utility; of equals, the one that runs the fewest samples.

    Args:
        leaf_joints: shape (n, B_V, B_T), the (smoothed) joints of the unfinished leaves; n may be 0.
        root_joint: shape (B_V, B_T), the joint at the prompt.
        alpha: compute (1) against latency (0).
        beta: cost against reward before normalisation; each candidate divides it by the mean expected total
            length of its own members (eq. 28).
        leaf_lengths: shape (n,), tokens of each leaf so far.
        root_length: tokens counted for the root: 0, or the prompt's where that is counted.
        finished_values: what the finished samples count for: `JointGrid.representative` of each final value.
        typical_length: tokens by which beta is divided for every candidate alike, in place of their own means.
            Own means favour sets with long members, whose cost they understate beside that of others.
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
    if not (lengths >= 0).all() or not root_length >= 0:
        raise ConfigError(f"lengths are {lengths.tolist()} and {root_length} at the root; a length is 0 or more")
    if typical_length is not None and not 0 < typical_length < math.inf:
        raise ConfigError(f"typical_length is {typical_length}; expected a number of tokens above 0, or None")
    if max_new < 0 or (max_active is not None and max_active < 0):
        raise ConfigError(f"max_new is {max_new} and max_active {max_active}; expected 0 or more")
    if horizon not in ("shared", "per_prefix", "none") or search not in ("nested", "exact"):
        raise ConfigError(
            f"horizon {horizon!r} and search {search!r}; expected shared, per_prefix or none; nested or exact"
        )
    limit = n + max_new if max_active is None else min(max_active, n + max_new)
    max_new = min(max_new, limit)
    if not limit:
        return Plan((), 0, SamplingUtility(floor, floor, 0.0, 0.0, grid.num_length_bins - 1), floor, beta)

    statistics = capped_statistics(np.concatenate([joints, root[None]]), grid)
    if not math.isfinite(statistics.lengths[:, -1].sum()):
        raise GridError("a joint holds NaN or infinite values; check the logits that it was read from")
    totals = np.concatenate([lengths, [root_length]]) + statistics.lengths[:, -1]  # |s| + E[L], uncapped (eq. 28)
    if typical_length is not None:
        totals = np.full(n + 1, float(typical_length))
    if horizon == "none":
        statistics = CappedStatistics(statistics.cdfs[:, -1:], statistics.lengths[:, -1:])
    problem = _Problem(grid, alpha, beta, floor, statistics, totals, max_new, limit)
    families = [problem.subsets()] if search == "exact" else [problem.chains()]
    if search == "exact" and n > EXACT_LIMIT:
        families.append(problem.chains())
    found = [problem.refined(sets) if horizon == "per_prefix" else problem.best(sets) for sets in families]
    return max(found, key=lambda action: action.utility.value)


@dataclass(frozen=True, slots=True)
class _LeafSets:
    """K sets of leaves for each of H horizons, and their sums and products."""

    cdfs: Floats  # (K, H, F): products over the members
    lengths: Floats  # (K, H): sums over the members
    totals: Floats  # (K, H)
    sizes: Integers  # (K,)
    order: Integers  # (n, H): leaves by rank
    masks: Integers | None  # (K,): members as bits over the ranks; None where set k is the first sizes[k]

    def members(self, index: int, horizon: int) -> list[int]:
        """The leaves of a set, ascending."""
        order = self.order[:, horizon].tolist()
        if self.masks is None:
            return sorted(order[: self.sizes[index]])
        mask = int(self.masks[index])
        return sorted(leaf for rank, leaf in enumerate(order) if mask >> rank & 1)


@dataclass(frozen=True, slots=True)
class _Values:
    """Every candidate's utility and its parts, each of shape (H, K, M); -inf where a candidate may not run."""

    value: Floats
    reward: Floats
    compute: Floats
    latency: Floats
    beta: Floats


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
        """Leaves by their own utility, best first, for each horizon: shape (n, H).

        To the first order, a leaf's cost falls as it lengthens the mean total that normalises the cost of all
        (eq. 28): beta * (length - mean length * (total - mean total) / mean total) / mean total.
        """
        cdfs, lengths = self.statistics.cdfs[:-1], self.statistics.lengths[:-1]
        rewards = np.maximum(self.grid.reward_values, self.floor)
        steps = rewards[1:] - rewards[:-1]
        mean = max(float(self.totals.sum()) / self.totals.size, 1.0)
        discount = (self.totals[:-1, None] / mean - 1.0) * (lengths.sum(axis=0) / max(lengths.shape[0], 1))
        loss = cdfs[..., : steps.size] @ steps + self.beta / mean * (lengths - discount)
        return np.asarray(loss.argsort(axis=0, kind="stable"), dtype=np.intp)

    def chains(self) -> _LeafSets:
        """The best k leaves, for every k that may run."""
        order = self.rank()[: self.limit]
        n, horizons = order.shape
        columns = np.arange(horizons)
        cdfs = np.empty((n + 1, horizons, self.statistics.cdfs.shape[-1]))
        sums = np.empty((2, n + 1, horizons))
        cdfs[0], sums[:, 0] = 1.0, 0.0
        cdfs[1:], sums[0, 1:], sums[1, 1:] = (
            self.statistics.cdfs[order, columns],
            self.statistics.lengths[order, columns],
            self.totals[order],
        )
        np.multiply.accumulate(cdfs, axis=0, out=cdfs)
        np.add.accumulate(sums, axis=1, out=sums)
        return _LeafSets(cdfs, sums[0], sums[1], np.arange(n + 1), order, None)

    def subsets(self) -> _LeafSets:
        """Every subset of the leaves; of the EXACT_LIMIT best ranked where there are more."""
        order = self.rank()[:EXACT_LIMIT]
        n, horizons = order.shape
        cdfs = np.ones((1 << n, horizons, self.statistics.cdfs.shape[-1]))
        lengths, totals = np.zeros((1 << n, horizons)), np.zeros((1 << n, horizons))
        sizes = np.zeros(1 << n, dtype=np.intp)
        columns = np.arange(horizons)
        for rank, leaf in enumerate(order):  # the sets that hold this leaf are those before, with it
            old, new = slice(0, 1 << rank), slice(1 << rank, 2 << rank)
            np.multiply(cdfs[old], self.statistics.cdfs[leaf, columns], out=cdfs[new])
            lengths[new] = lengths[old] + self.statistics.lengths[leaf, columns]
            totals[new] = totals[old] + self.totals[leaf]
            sizes[new] = sizes[old] + 1
        return _LeafSets(cdfs, lengths, totals, sizes, order, np.arange(1 << n))

    def values(self, sets: _LeafSets) -> _Values:
        """The utility of every (horizon, set, number of new samples)."""
        news = np.arange(self.max_new + 1)
        root = np.empty((news.size, *sets.cdfs.shape[1:]))
        root[0], root[1:] = 1.0, self.statistics.cdfs[-1]
        np.multiply.accumulate(root, axis=0, out=root)
        rewards, tokens = np.maximum(self.grid.reward_values, self.floor), self.grid.length_values
        reward_steps, token_steps = (rewards[1:] - rewards[:-1])[:, None], (tokens[1:] - tokens[:-1])[:, None]
        split = rewards.size - 1
        # E[max] = last value - sum of steps * cdf (eq. 20, 22), for all pairs (set, m) of one horizon at a time.
        sets_by_horizon, root_by_horizon = sets.cdfs.transpose(1, 0, 2), root.transpose(1, 2, 0)
        reward = rewards[-1] - sets_by_horizon[..., :split] @ (root_by_horizon[:, :split] * reward_steps)
        latency = tokens[-1] - sets_by_horizon[..., split:] @ (root_by_horizon[:, split:] * token_steps)
        compute = sets.lengths.T[..., None] + (self.statistics.lengths[-1][:, None] * news)[:, None]
        size = sets.sizes[:, None] + news
        barred = size > self.limit
        barred[0, 0] = True  # the empty action is the caller's to keep
        mean_total = (sets.totals.T[..., None] + self.totals[-1] * news) / np.maximum(size, 1)
        beta = self.beta / np.maximum(mean_total, 1.0)
        value = reward - beta * (self.alpha * compute + (1.0 - self.alpha) * latency)
        value[:, barred] = -np.inf
        return _Values(value, reward, compute, latency, beta)

    def best(self, sets: _LeafSets) -> Plan:
        """The best candidate; of those within rounding of it, the fewest samples, fewest new, shortest horizon."""
        values = self.values(sets)
        value = values.value
        h, k, m = (value >= value.max() - TOLERANCE).nonzero()
        pick = 0 if h.size == 1 else int(np.lexsort((k, h, m, sets.sizes[k] + m))[0])
        at = int(h[pick]), int(k[pick]), int(m[pick])
        horizon = at[0] if value.shape[0] > 1 else self.grid.num_length_bins - 1
        utility = SamplingUtility(
            float(value[at]), float(values.reward[at]), float(values.compute[at]), float(values.latency[at]), horizon
        )
        return Plan(tuple(sets.members(at[1], at[0])), at[2], utility, self.floor, float(values.beta[at]))

    def refined(self, sets: _LeafSets) -> Plan:
        """The best of the most promising candidates once each has its own horizons."""
        values = self.values(sets)
        top = np.argsort(-values.value.max(axis=0), axis=None, kind="stable")[:_SHORTLIST]
        candidates = []
        for k, m in zip(*np.unravel_index(top, values.value.shape[1:]), strict=True):
            h = int(values.value[:, k, m].argmax())
            if np.isfinite(values.value[h, k, m]):
                candidates.append((h, sets.members(int(k), h), int(m)))
        root = self.totals.size - 1
        members = [[*leaves, *[root] * m] for _, leaves, m in candidates]
        widest = max(map(len, members))
        # Padding is a prefix that is sure to be over at once: it changes no maximum and no sum.
        cdfs = np.ones((len(members), widest, *self.statistics.cdfs.shape[1:]))
        lengths = np.zeros((len(members), widest, self.grid.num_length_bins))
        for row, rows in enumerate(members):
            cdfs[row, : len(rows)] = self.statistics.cdfs[rows]
            lengths[row, : len(rows)] = self.statistics.lengths[rows]
        betas = self.beta / np.maximum([self.totals[rows].mean() for rows in members], 1.0)
        start = np.repeat(np.array([[h] for h, *_ in candidates], dtype=np.intp), widest, axis=1)
        found = ascend_horizons(cdfs, lengths, start, self.grid, self.alpha, betas, self.floor)
        at = np.arange(len(members))[:, None], np.arange(widest), found
        parts = evaluate(cdfs[at].prod(axis=1), lengths[at].sum(axis=1), self.grid, self.alpha, betas, self.floor)
        tied = np.flatnonzero(parts[0] >= parts[0].max() - TOLERANCE).tolist()
        row = min(tied, key=lambda i: (len(members[i]), candidates[i][2]))
        value, reward, compute, latency = (float(part[row]) for part in parts)
        horizons = tuple(found[row, : len(members[row])].tolist())
        utility = SamplingUtility(value, reward, compute, latency, horizons)
        return Plan(tuple(candidates[row][1]), candidates[row][2], utility, self.floor, float(betas[row]))
