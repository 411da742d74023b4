"""Quality of the predictions: discrimination, calibration, and distance from measured joints (section 6.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import brier_score_loss, f1_score, recall_score, roc_auc_score

from zip_introspect.introspection.grid import JointGrid


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
    found = reliability(right, values, bins)
    return float(np.average(np.abs(found.accuracy - found.value), weights=found.count))


def brier(right: ArrayLike, values: ArrayLike) -> float:
    """The mean squared gap between value and correctness (Brier, 1950)."""
    return float(brier_score_loss(np.asarray(right, dtype=int), np.asarray(values), pos_label=1))


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong samples among those of the highest values (El-Yaniv and Wiener, 2010)."""

    coverage: NDArray[np.float64]
    """Shape (n,): 1/n, 2/n, ..., 1."""
    risk: NDArray[np.float64]
    """Shape (n,): the error among that share; in expectation over the order of equal values."""

    @property
    def area(self) -> float:
        """The mean risk over all coverages (AURC; Geifman et al., 2019)."""
        return float(self.risk.mean())


def risk_coverage(right: ArrayLike, values: ArrayLike) -> RiskCoverage:
    """The risk of answering only where the value is high, for each share of samples that are answered."""
    wrong, values = 1.0 - np.asarray(right, dtype=np.float64), np.asarray(values, dtype=np.float64)
    _, tie, sizes = np.unique(-values, return_inverse=True, return_counts=True)
    expected = np.repeat(np.bincount(tie, wrong) / sizes, sizes)
    count = np.arange(1, len(wrong) + 1)
    return RiskCoverage(count / len(wrong), np.asarray(np.cumsum(expected) / count))


@dataclass(frozen=True)
class Reliability:
    """Equal-width bins of values that hold samples: shape (bins,) each."""

    value: NDArray[np.float64]
    """Mean value."""
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def reliability(right: ArrayLike, values: ArrayLike, bins: int = 10) -> Reliability:
    """What came true beside what was predicted; the calibration error is the mean gap."""
    right, values = np.asarray(right, dtype=np.float64), np.asarray(values, dtype=np.float64)
    index = np.minimum((values * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    held = count > 0
    means = [np.bincount(index, item, minlength=bins)[held] / count[held] for item in (values, right)]
    return Reliability(means[0], means[1], count[held])


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
