"""What a reward-cost head is to predict: the denoised value of a rollout and the tokens that remain (A.1, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zip_introspect.fitting.states import States
from zip_introspect.fitting.training import folds_of
from zip_introspect.heads.targets import RewardCost
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.values import fit_representatives

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


def made(states: States, *, seed: int = 0, folds: int = 5) -> Labels:
    """Labels of rollouts: their values by an intermediate head that has not seen their questions."""
    values = denoised(states, seed=seed, folds=folds)
    grid = _grid(states)
    grid = fit_representatives(grid, values, states.right.astype(np.float64), states.length)
    outcomes = np.stack([values[states.rollout], states.remaining], axis=-1)
    return Labels(grid, RewardCost(grid=grid).labels(outcomes), values)


def denoised(states: States, *, seed: int = 0, folds: int = 5) -> NDArray[np.float64]:
    """What is to be expected of each rollout once it has ended, shape (rollouts,): realised rewards without their luck.

    A logistic regression on the last states, cross-fitted over questions at the strength that predicts best, then made
    calibrated (isotonic). Rollouts that were cut are worth 0.
    """
    ends = np.concatenate([states.last[states.ends], states.mean[states.ends]], axis=1).astype(np.float32)
    fold = folds_of(states.question, folds, seed)
    whole = states.finished
    best: tuple[float, NDArray[np.float64]] | None = None
    for strength in _STRENGTHS:
        values = np.zeros(len(ends))
        for number in range(folds):
            learning, held_out = whole & (fold != number), whole & (fold == number)
            if not held_out.any():
                continue
            if len(np.unique(states.right[learning])) < 2:
                values[held_out] = states.right[learning].mean()
                continue
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
            values[held_out] = model.fit(ends[learning], states.right[learning]).predict_proba(ends[held_out])[:, 1]
        likely = np.clip(np.where(states.right, values, 1 - values)[whole], 1e-6, 1)
        loss = float(-np.log(likely).mean())
        if best is None or loss < best[0]:
            best = loss, values
    assert best is not None
    values = best[1]
    values[whole] = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(values[whole], states.right[whole])
    return values


def _grid(states: States) -> JointGrid:
    """Equal reward bins, and length bins that double from a start-up bin and reach the longest rollout (A.1)."""
    longest = int(states.length.max())
    startup = 1
    while startup * 2 ** (LENGTH_BINS - 1) < longest:
        startup *= 2
    edges = [0, *(startup * 2**place for place in range(LENGTH_BINS))]
    while len(edges) > 3 and edges[-2] >= longest:
        edges.pop()
    return JointGrid(reward_edges=np.linspace(0.0, 1.0, REWARD_BINS + 1), length_edges=edges)
