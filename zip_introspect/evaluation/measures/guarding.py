"""What a guard at the prompt spares, and what it loses: `Budget.max_expected_share` on stored rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.evaluation.measures.cost import Interval, interval_of, mean_interval
from zip_introspect.evaluation.measures.foretelling import at_prompt
from zip_introspect.evaluation.store.rollout_file import Rollouts

_REFUSED = (0.5, 0.25, 0.1, 0.05, 0.01)
_LONG = 0.9


@dataclass(frozen=True)
class Guarded:
    """A guard at one share of `max_new_tokens`, over questions. A share that there is nothing of is NaN."""

    share: float
    refused: Interval
    """Of the questions."""
    runaways: Interval
    """Of the samples that were cut at `max_new_tokens`, those of refused questions: spared."""
    longest: Interval
    """Of the longest tenth of all samples: spared."""
    tokens: Interval
    """Of all tokens: spared."""
    right: Interval
    """Of all right samples: lost."""


def guarded(rollouts: Rollouts, shares: Sequence[float] | None = None) -> list[Guarded]:
    """Every question that is expected to take more than a share of `max_new_tokens` is refused.

    Args:
        shares: None takes those that refuse about a half, a quarter, 10%, 5% and 1% of the questions.

    Raises:
        EvaluationDataError: the model had no head.
    """
    expected = at_prompt(rollouts)
    if shares is None:
        shares = _telling(expected / rollouts.max_new_tokens)
    lengths = [len(item.tokens) for problem in rollouts.problems for item in problem.rollouts]
    long = float(np.quantile(lengths, _LONG))
    rows = [
        [(not item.finished, len(item.tokens) >= long, len(item.tokens), item.right) for item in problem.rollouts]
        for problem in rollouts.problems
    ]
    columns = np.array([np.mean(row, axis=0) for row in rows], dtype=np.float64).T
    found = []
    for share in shares:
        refused = (expected > share * rollouts.max_new_tokens).astype(np.float64)
        spared = (_of_all(refused, column) for column in columns)
        found.append(Guarded(share, mean_interval(refused), *spared))
    return found


def _telling(shares: NDArray[np.float64]) -> list[float]:
    """Shares that part the questions: those that so many are expected to take more than."""
    found = np.round(np.quantile(shares, [1.0 - refused for refused in _REFUSED]), 3)
    return [float(item) for item in np.unique(found) if item > 0]


def _of_all(refused: NDArray[np.float64], column: NDArray[np.float64]) -> Interval:
    if not column.any():
        return Interval(np.nan, np.nan, np.nan)
    whole = float(column.mean())
    return interval_of(_ratio, refused * column / whole, column / whole)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    wholes = np.asarray(whole, dtype=np.float64)
    return np.divide(part, wholes, out=np.zeros_like(wholes), where=wholes > 0)
