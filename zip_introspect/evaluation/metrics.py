"""Quality of the predictions: discrimination, calibration, and distance from measured joints (section 6.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from zip_introspect.grid import JointGrid


def auroc(right: ArrayLike, values: ArrayLike) -> float:
    """The probability that a right sample has a higher value than a wrong one; ties count half."""
    return float(roc_auc_score(np.asarray(right, dtype=bool), np.asarray(values)))


def auroc_within(problems: ArrayLike, right: ArrayLike, values: ArrayLike) -> tuple[float, int]:
    """AUROC over the pairs of one right and one wrong sample of the *same* problem.

    Args:
        problems: shape (n,), which problem each sample answers.

    Returns:
        the mean over problems that have both, and how many these are.
    """
    problems, right, values = np.asarray(problems), np.asarray(right, dtype=bool), np.asarray(values)
    scores = [
        roc_auc_score(right[inside], values[inside])
        for inside in (problems == problem for problem in np.unique(problems))
        if 0 < right[inside].sum() < inside.sum()
    ]
    return (float(np.mean(scores)) if scores else float("nan")), len(scores)


def expected_calibration_error(right: ArrayLike, values: ArrayLike, bins: int = 10) -> float:
    """The mean gap between value and accuracy over equal-width bins, weighted by their counts (Naeini et al., 2015)."""
    right, values = np.asarray(right, dtype=np.float64), np.asarray(values, dtype=np.float64)
    index = np.minimum((values * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    gaps = np.abs(np.bincount(index, right, minlength=bins) - np.bincount(index, values, minlength=bins))
    return float(gaps[counts > 0].sum() / counts.sum())


def total_variation(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Half the summed absolute difference of two joints, over the last two axes."""
    difference = np.abs(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))
    return np.asarray(difference.sum((-2, -1)) / 2)


def measured_joint(grid: JointGrid, values: ArrayLike, lengths: ArrayLike) -> NDArray[np.float64]:
    """The empirical joint of the final values and total lengths of one problem's rollouts.

    Returns:
        shape (B_V, B_T), summing to 1.
    """
    counts: NDArray[np.float64] = np.zeros(grid.shape)
    np.add.at(counts, (grid.reward_bin(np.asarray(values)), grid.length_bin(np.asarray(lengths))), 1.0)
    return np.asarray(counts / counts.sum())


def classification(right: ArrayLike, values: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """F1, accuracy and recall of incorrect answers at a threshold on the value (table 1)."""
    right, predicted = np.asarray(right, dtype=bool), np.asarray(values) >= threshold
    return {
        "f1": float(f1_score(right, predicted)),
        "accuracy": float((right == predicted).mean()),
        "recall_incorrect": float(recall_score(~right, ~predicted)),
    }
