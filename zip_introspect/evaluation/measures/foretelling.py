"""Predicted against paid: what the joint at the prompt says that a question will cost, and what it came to.

List prices mislead the same way (Chen et al., 2026, arXiv 2603.23971): the model with the lower price a token may pay
more for a question, for it needs more tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from zip_introspect.config import GenerationConfig
from zip_introspect.evaluation.measures.cost import Interval, interval_of, mean_interval
from zip_introspect.evaluation.replay.trials import replayed
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.introspection import joint

_RESAMPLES = 500
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Forecast:
    """Tokens that were expected, and those that were paid for: shape (questions,) each."""

    name: str
    expected: NDArray[np.float64]
    paid: NDArray[np.float64]

    @property
    def rank_correlation(self) -> Interval:
        """Spearman's, with a 95% bootstrap interval over questions: 1 where dear questions are known beforehand.

        NaN where all questions are alike.
        """
        drawn = np.random.default_rng(0).integers(0, len(self.paid), (_RESAMPLES, len(self.paid)))
        rows = np.vstack([np.arange(len(self.paid)), drawn])
        ranks = [stats.rankdata(column[rows], axis=1) for column in (self.expected, self.paid)]
        first, second = (rank - rank.mean(1, keepdims=True) for rank in ranks)
        spread = np.sqrt((first**2).sum(1) * (second**2).sum(1))
        found = np.divide((first * second).sum(1), spread, out=np.full(len(rows), np.nan), where=spread > 0)
        value, others = found[0], found[1:][~np.isnan(found[1:])]
        low, high = np.percentile(others, (2.5, 97.5)) if len(others) else (np.nan, np.nan)
        return Interval(*(round(float(item), 12) for item in (value, low, high)))

    @property
    def ratio(self) -> Interval:
        """All that was paid, over all that was expected."""
        unit = float(self.expected.mean())
        return interval_of(lambda paid, expected: paid / expected, self.paid / unit, self.expected / unit)

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Of paid over expected, of each question: at `QUANTILES`."""
        return tuple(np.quantile(self.paid / self.expected, QUANTILES).tolist())


def at_prompt(rollouts: Rollouts) -> NDArray[np.float64]:
    """Tokens that one sample of each question is expected to take (eq. 8): shape (questions,).

    Raises:
        EvaluationDataError: the model had no head.
    """
    grid = rollouts.joint_grid
    roots = np.array([problem.rollouts[0].joints[0] for problem in rollouts.problems], dtype=np.float64)
    roots = roots.reshape(-1, *grid.shape)
    return joint.expected_length(roots / roots.sum((-2, -1), keepdims=True), grid)


def of_samples(rollouts: Rollouts) -> list[Forecast]:
    """Of one sample: the mean of those stored, the first one, and the first one from its fellows.

    The last is what a prediction could hardly better: how long a question's other samples are.

    Raises:
        EvaluationDataError: the model had no head.
    """
    expected = at_prompt(rollouts)
    lengths = [np.array([len(item.tokens) for item in problem.rollouts]) for problem in rollouts.problems]
    mean, first = np.array([(row.mean(), row[0]) for row in lengths], dtype=np.float64).T
    found = [Forecast("the mean of its samples", expected, mean), Forecast("one sample", expected, first)]
    if min(map(len, lengths)) > 1:
        fellows = np.array([row[1:].mean() for row in lengths])
        found.append(Forecast("one sample, from the mean of its fellows", fellows, first))
    return found


def of_searches(name: str, rollouts: Rollouts, config: GenerationConfig) -> Forecast:
    """Of whole searches, replayed: what their first decision expects to take, and what they took to their end.

    That is the compute of its plan (eq. 17), or of a strategy that states none, a sample's for each that it starts.
    """
    results = replayed(rollouts, config)[1]
    expected = []
    for result in results:
        first = result.decisions[0]
        one = result.expected.remaining if result.expected else np.nan
        expected.append(first.utility.expected_compute if first.utility else one * len(first.started))
    return Forecast(name, np.array(expected), np.array([item.usage.generated_tokens for item in results], np.float64))


def reversals(quoted: ArrayLike, paid: ArrayLike, rival_quoted: ArrayLike, rival_paid: ArrayLike) -> Interval:
    """How often the one that was quoted less was paid more, among questions that one was quoted less for.

    Args:
        quoted, rival_quoted: known beforehand, a number or shape (questions,): a list price, or what was expected.
        paid, rival_paid: shape (questions,); infinity is dearer than any number.

    Returns:
        with a 95% bootstrap interval; NaN where both are quoted alike for every question.
    """
    ours, theirs, cost, rival = np.broadcast_arrays(*map(np.asarray, (quoted, rival_quoted, paid, rival_paid)))
    apart = ours != theirs
    if not apart.any():
        return Interval(np.nan, np.nan, np.nan)
    less = ours < theirs
    turned = np.where(less, cost > rival, rival > cost)
    return mean_interval(turned[apart].astype(np.float64))
