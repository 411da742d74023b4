"""Asking again until a verifier accepts: how false accepts grow where it is not perfect.

Stroebl, Kapoor and Narayanan (2024, "Inference Scaling fLaws", arXiv 2411.17501): more attempts reach questions that
the model hardly solves, and what a verifier accepts there is mostly its own mistake. Everything here is an expectation
over the order of a question's stored samples, drawn without replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from zip_introspect.evaluation.measures.cost import Interval, interval_of, mean_interval
from zip_introspect.evaluation.store.rollout_file import Rollouts


@dataclass(frozen=True)
class Verified:
    """What resampling comes to, for 1, 2, ... attempts: shape (questions, attempts) each."""

    name: str
    answered: NDArray[np.float64]
    """The probability that one of so many attempts is accepted; else the question is left without an answer."""
    right: NDArray[np.float64]
    """That one is, and is right."""
    samples: NDArray[np.float64]
    """Attempts that are paid for."""

    @property
    def attempts(self) -> int:
        """At most."""
        return int(self.answered.shape[1])

    def coverage(self, attempts: int) -> Interval:
        """The share of questions that get an answer, of at most so many attempts."""
        return mean_interval(self.answered[:, attempts - 1])

    def false_accepts(self, attempts: int) -> Interval:
        """The share of questions that get a wrong answer."""
        return mean_interval((self.answered - self.right)[:, attempts - 1])

    def precision(self, attempts: int) -> Interval:
        """The share of answers that is right; NaN where there are none."""
        columns = self.right[:, attempts - 1], self.answered[:, attempts - 1]
        if not columns[1].any():
            return Interval(np.nan, np.nan, np.nan)
        return interval_of(_share, *columns)

    def net(self, attempts: int, penalty: float) -> float:
        """Right answers less the price of wrong ones, a question: what the best number of attempts is judged by."""
        right, answered = self.right[:, attempts - 1], self.answered[:, attempts - 1]
        return float((right - penalty * (answered - right)).mean())


def resampled(name: str, accepted: ArrayLike, right: ArrayLike) -> Verified:
    """Draw a question's samples until one is accepted, for every number of attempts.

    Args:
        accepted, right: shape (questions, samples), bool.
    """
    accepts, rights = np.asarray(accepted, dtype=bool), np.asarray(right, dtype=bool)
    total = accepts.shape[1]
    count = accepts.sum(1)
    attempts = np.arange(total + 1)
    none = _none_of(total, count[:, None], attempts[None])
    share = np.divide((accepts & rights).sum(1), count, out=np.zeros(len(count)), where=count > 0)
    answered = 1.0 - none[:, 1:]
    return Verified(name, answered, answered * share[:, None], np.cumsum(none[:, :-1], axis=1))


def verifiers(rollouts: Rollouts, thresholds: tuple[float, ...] = (0.5, 0.9)) -> list[Verified]:
    """Those that stored rollouts have: the final value at each threshold, and at 0.5 what the model judged of itself.

    Raises:
        EvaluationDataError: the model had no head.
    """
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    rows = [problem.rollouts[:stored] for problem in rollouts.problems]
    rollouts.joint_grid  # noqa: B018 - without one there are no values
    right = np.array([[item.right for item in row] for row in rows])
    finished = np.array([[item.finished for item in row] for row in rows])  # what was cut has no answer to accept
    values = np.array([[rollouts.final_value(item) for item in row] for row in rows])
    found = [resampled(f"value of {t:g} or more", finished & (values >= t), right) for t in thresholds]
    if all(item.self_score is not None for row in rows for item in row):
        judged = np.array([[item.self_score for item in row] for row in rows], dtype=np.float64)
        found.append(resampled("self-evaluation of 0.5 or more", finished & (judged >= 0.5), right))
    return found


def _none_of(total: int, accepted: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability that none of `drawn` out of `total` is among the accepted: C(total - a, d) / C(total, d)."""
    left = total - accepted
    possible = drawn <= left
    rest = np.where(possible, left - drawn, 0)
    logs = gammaln(left + 1) - gammaln(rest + 1) + gammaln(total - drawn + 1) - gammaln(total + 1)
    return np.where(possible, np.exp(logs), 0.0)


def _share(right: NDArray[np.float64], answered: NDArray[np.float64]) -> NDArray[np.float64]:
    answers = np.asarray(answered, dtype=np.float64)
    return np.divide(right, answers, out=np.zeros_like(answers), where=answers > 0)
