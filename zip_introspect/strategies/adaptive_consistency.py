"""Adaptive-Consistency (Aggarwal et al., 2023, arXiv 2305.11860): samples until the answer that leads is unlikely to be
overtaken.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from math import comb, inf, lgamma, sqrt
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zip_introspect.answers.extraction import key
from zip_introspect.config import Settings
from zip_introspect.strategies.base import MetaAction, MetaState, Strategy, all_finished, register
from zip_introspect.strategies.selection import Selection

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


class AdaptiveConsistencyOptions(Settings):
    """When votes are settled."""

    overtaken: float = Field(
        0.05,
        gt=0.0,
        lt=0.5,
        description="Stop where the answer that leads is overtaken with at most this probability.",
    )
    criterion: Literal["beta", "dirichlet"] = Field(
        "beta", description="By whom: by the next answer (beta), or by any other that was given (dirichlet)."
    )


@register
class AdaptiveConsistency(Strategy):
    """Adaptive-Consistency: votes until they are settled, or `max_samples` have been cast. The Beta criterion holds the
    answer that leads against the next one, the Dirichlet criterion against all others.

    It needs no joints. As many samples run at once as it takes at least, should all of them vote for the answer that
    leads: so none is drawn that the same rule, one sample at a time, would have spared. Where none of these ends in an
    answer, the question is none that votes can settle, and no more are drawn.
    """

    name: ClassVar[str] = "adaptive_consistency"
    selection: ClassVar[Selection] = "majority"
    needs_joints: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = AdaptiveConsistencyOptions
    options: AdaptiveConsistencyOptions

    def decide(self, state: MetaState) -> MetaAction:
        """All unfinished samples, and new ones while the votes are open."""
        answers = [sample.answer for sample in state.finished if sample.complete and sample.answer is not None]
        votes = tuple(count for _, count in Counter(map(key, answers)).most_common())
        said = f"{_first(votes)} votes to {_first(votes[1:])}"
        risk = self._risk(votes)
        if votes and risk <= self.options.overtaken:
            return MetaAction(stop="finished", reason=f"{said}: overtaken with a probability of {risk:.3f}")
        silent = sum(sample.complete and sample.answer is None for sample in state.finished)
        if not votes and silent >= self._needed(()):
            return MetaAction(stop="finished", reason=f"none of {silent} samples has an answer to vote for")
        run = tuple(leaf.sample for leaf in state.leaves)
        left = min(self.samples_at_most() - state.started, state.room)
        new = max(0, min(left, self._needed(votes, len(run) + left) - len(run)))
        if not run and not new:
            return all_finished(state.started)
        return MetaAction(run=run, new=new, reason=f"{said} of {state.started} samples: open")

    def _risk(self, votes: tuple[int, ...]) -> float:
        """The probability that the first of these is overtaken; from the most votes to the least."""
        if self.options.criterion == "dirichlet":
            return overtaking_any(votes)
        return overtaking(_first(votes), _first(votes[1:]))

    def _needed(self, votes: tuple[int, ...], most: float = inf) -> int:
        """Further votes for the leading answer that settle it; `most` where it takes more, or more than that."""
        settled, low, high = self.options.overtaken, 0, 1
        while high < most and self._risk((_first(votes) + high, *votes[1:])) > settled:
            low, high = high, 2 * high
        high = int(max(1, min(high, most)))
        while high - low > 1:
            middle = (low + high) // 2
            if self._risk((_first(votes) + middle, *votes[1:])) > settled:
                low = middle
            else:
                high = middle
        return high


def overtaking(first: int, second: int) -> float:
    """The probability that the answer with fewer votes of two is the likelier one, from a uniform prior.

    The lower half of Beta(first + 1, second + 1): for whole numbers a tail of the binomial distribution, and exact.
    """
    draws = first + second + 1
    return float(sum(comb(draws, count) for count in range(first + 1, draws + 1)) / 2**draws)


@lru_cache(maxsize=4096)
def overtaking_any(votes: tuple[int, ...]) -> float:
    """The probability that the first answer is not the likeliest of all that were given, from a uniform prior.

    Shares of a Dirichlet distribution are independent gamma variables over their sum, so the first is the largest with
    the probability that its variable is: one integral over it of the others' distribution functions, which are Poisson
    tails for whole numbers (Gauss-Legendre, to some 1e-9). With two answers or fewer it is `overtaking`.

    Args:
        votes: of each answer, the leading one's first.
    """
    if len(votes) < 3:
        return overtaking(_first(votes), _first(votes[1:]))
    shape, deviation = votes[0] + 1, sqrt(votes[0] + 1)
    low, high = max(0.0, shape - 9.0 * deviation), shape + 11.0 * deviation + 20.0
    points = low + (high - low) * (_NODES + 1.0) / 2.0
    logs = np.log(points)
    counts = np.arange(max(votes[1:]) + 1)
    fewer = np.cumsum(np.exp(np.outer(logs, counts) - _log_factorials(len(counts)) - points[:, None]), axis=1)
    below = np.prod(1.0 - fewer[:, votes[1:]], axis=1)
    density = np.exp(votes[0] * logs - points - lgamma(shape))
    return float(1.0 - (high - low) / 2.0 * (_WEIGHTS * density) @ below)


def _first(votes: tuple[int, ...]) -> int:
    return votes[0] if votes else 0


def _log_factorials(count: int) -> NDArray[np.float64]:
    return np.array([lgamma(number + 1) for number in range(count)])
