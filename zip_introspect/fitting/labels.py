"""What a reward-cost head is to predict: the denoised value of a rollout and the tokens that remain (A.1, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from zip_introspect.fitting.states import States
from zip_introspect.fitting.training import FOLDS, folds_of
from zip_introspect.heads.targets import RewardCost
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.values import fit_representatives, startup_for

_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Inverse regularisation of the value head, tried from strong to weak."""
REWARD_BINS = LENGTH_BINS = 8


@dataclass(frozen=True)
class Labels:
    """Of each prefix, and the grid that they are cells of."""

    grid: JointGrid
    cells: NDArray[np.int64]
    """Shape (rows,): flat indices of the grid."""
    values: NDArray[np.float64]
    """Shape (rollouts,): denoised rewards; 0 where a rollout was cut."""
    by_fold: NDArray[np.int64]
    """Shape (folds, rows): the same cells by values that were learnt without a fold's questions. What is taught by the
    others would tell of their rewards."""


def made(states: States, *, seed: int = 0, folds: int = FOLDS) -> Labels:
    """Labels of rollouts: their values by an intermediate head that has not seen their questions."""
    intermediate = _Intermediate(states, folds_of(states.question, folds, seed), folds)
    values = intermediate.values()
    grid = fit_representatives(_grid(states), values, states.right.astype(np.float64), states.length)

    def cells(values: NDArray[np.float64]) -> NDArray[np.int64]:
        outcomes = np.stack([values[states.rollout], states.remaining], axis=-1)
        return RewardCost(grid=grid).labels(outcomes)

    by_fold = np.stack([cells(intermediate.values(number)) for number in range(folds)])
    return Labels(grid, cells(values), values, by_fold)


class _Intermediate:
    """What is to be expected of each rollout once it has ended: realised rewards without their luck.

    Logistic regressions on the last states, cross-fitted over questions at the strength that predicts best, then made
    calibrated (isotonic). Rollouts that were cut are worth 0.
    """

    def __init__(self, states: States, fold: NDArray[np.int64], folds: int) -> None:
        ends = np.concatenate([states.last[states.ends], states.mean[states.ends]], axis=1).astype(np.float32)
        self._ends = _rotated(StandardScaler().fit_transform(ends))
        self._right, self._whole = states.right, states.finished
        self._fold, self._folds = fold, folds

    def values(self, without: int | None = None) -> NDArray[np.float64]:
        """Shape (rollouts,).

        Args:
            without: a fold whose rewards nothing of this rests on.
        """
        whole = self._whole
        learning = whole & (self._fold != (-1 if without is None else without))
        tried = [self._raw(strength, without) for strength in _STRENGTHS]
        raw = min(tried, key=lambda values: self._loss(values, learning))
        found = np.zeros(len(raw))
        if learning.any():
            map_ = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
            found[whole] = map_.fit(raw[learning], self._right[learning]).predict(raw[whole])
        return found

    def _raw(self, strength: float, without: int | None) -> NDArray[np.float64]:
        """Each rollout's by a model that has seen neither its fold nor the one left out."""
        found = np.zeros(len(self._ends))
        for number in range(self._folds):
            held_out = self._whole & (self._fold == number)
            learning = self._whole & ~np.isin(self._fold, (number, -1 if without is None else without))
            if not held_out.any():
                continue
            if len(np.unique(self._right[learning])) < 2:
                found[held_out] = self._right[learning].mean() if learning.any() else 0.5
                continue
            model = LogisticRegression(C=strength, max_iter=500).fit(self._ends[learning], self._right[learning])
            found[held_out] = model.predict_proba(self._ends[held_out])[:, 1]
        return found

    def _loss(self, values: NDArray[np.float64], rollouts: NDArray[np.bool_]) -> float:
        likely = np.clip(np.where(self._right, values, 1 - values)[rollouts], 1e-6, 1)
        return float(-np.log(likely).mean()) if likely.size else 0.0


def _rotated(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features that are as far from each other, and no more of them than rows: a ridge penalty cannot tell."""
    if features.shape[1] <= len(features):
        return features
    left, sizes, _ = np.linalg.svd(features, full_matrices=False)
    return np.asarray(left * sizes, np.float32)


def _grid(states: States) -> JointGrid:
    """Equal reward bins, and length bins that double from a start-up bin and reach the longest rollout (A.1)."""
    longest = int(states.length.max())
    startup = startup_for(longest, LENGTH_BINS)
    edges = [0, *(startup * 2**place for place in range(LENGTH_BINS))]
    while len(edges) > 3 and edges[-2] >= longest:
        edges.pop()
    return JointGrid(reward_edges=np.linspace(0.0, 1.0, REWARD_BINS + 1), length_edges=edges)
