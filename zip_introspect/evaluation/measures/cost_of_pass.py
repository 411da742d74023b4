"""Cost of pass: what one right answer is expected to cost (Erol et al., 2025, arXiv 2504.13359).

Whoever asks until the answer is right pays the cost of an attempt, divided by the probability that it is right. It is
infinite where nothing ever is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zip_introspect.errors import ConfigError
from zip_introspect.evaluation.measures.cost import Interval, interval_of
from zip_introspect.evaluation.store.rollout_file import Rollouts


@dataclass(frozen=True)
class Tariff:
    """What tokens cost, in some unit.

    Raises:
        ConfigError: a price that is not above zero, or a prompt's below zero.
    """

    unit: str
    """Such as "money", "FLOPs" or "joules"."""
    per_token: float
    """Of a generated token."""
    per_prompt_token: float = 0.0
    """Of a token that is only read: the prompt's, and what a scorer reads."""

    def __post_init__(self) -> None:
        if not 0 < self.per_token < np.inf or not 0 <= self.per_prompt_token < np.inf:
            raise ConfigError(
                f"a token's price is {self.per_token:g} and that of a prompt's token {self.per_prompt_token:g}; "
                "expected a finite number above 0, and one of 0 or more"
            )

    def paid(self, compute: ArrayLike, tokens: ArrayLike) -> NDArray[np.float64]:
        """What questions cost.

        Args:
            compute: tokens processed, as in `Outcomes`.
            tokens: those of them that were generated.
        """
        generated = np.asarray(tokens, dtype=np.float64)
        read = np.asarray(compute, dtype=np.float64) - generated
        return np.asarray(self.per_token * generated + self.per_prompt_token * read)


def by_size(*models: Rollouts) -> list[Tariff]:
    """Of each model: 2 FLOPs a parameter for every token processed, the prompt's once (the 2N rule of section 6.1);
    a token each, where the size of one is not known."""
    if not all(model.parameters for model in models):
        return [Tariff("tokens", 1.0, 1.0)] * len(models)
    flops = (2.0 * float(model.parameters or 0) for model in models)
    return [Tariff("FLOPs", price, price) for price in flops]


def cost_of_pass(right: ArrayLike, paid: ArrayLike) -> Interval:
    """The expected cost of a right answer over questions that come as these do: mean cost over the share that is right.

    Args:
        right, paid: shape (questions,): how likely an attempt is right, and what it costs.

    Returns:
        with a 95% bootstrap interval over questions; infinite where none is right.
    """
    rights, costs = np.asarray(right, dtype=np.float64), np.asarray(paid, dtype=np.float64)
    unit = float(costs.mean())
    # Right answers for the price of one attempt: never infinite, and its interval is that of the inverse.
    found = interval_of(lambda share, cost: share / cost, rights, costs / unit)
    value, high, low = (unit / item if item > 0 else np.inf for item in (found.value, found.low, found.high))
    return Interval(value, low, high)


def cost_of_pass_each(right: ArrayLike, paid: ArrayLike) -> NDArray[np.float64]:
    """Of each question by itself, v(m, p) of the paper: shape (questions,); infinite where none of its samples is."""
    rights, costs = np.asarray(right, dtype=np.float64), np.asarray(paid, dtype=np.float64)
    return np.divide(costs, rights, out=np.full_like(costs, np.inf), where=rights > 0)


@dataclass(frozen=True)
class Attempts:
    """One attempt at each question, on average: shape (questions,) each."""

    right: NDArray[np.float64]
    paid: NDArray[np.float64]
    handed_on: NDArray[np.float64]
    """How often a stronger model was asked."""


def one_sample(rollouts: Rollouts, tariff: Tariff) -> Attempts:
    """A single sample of each question."""
    right = [[item.right for item in problem.rollouts] for problem in rollouts.problems]
    rights = np.array([np.mean(row) for row in right])
    return Attempts(rights, np.array([row.mean() for row in _paid(rollouts, tariff)]), np.zeros(len(rights)))


def ladder(first: Rollouts, stronger: Rollouts, tariff: Tariff, stronger_tariff: Tariff, threshold: float) -> Attempts:
    """A sample of the first model, and where its value is below a threshold, one of the stronger: both are paid for.

    The expectation over the stored samples of either, which are drawn on their own.

    Args:
        stronger: of the same questions in the same order.
    """
    above = one_sample(stronger, stronger_tariff)
    right, paid, handed_on = [], [], []
    for place, (problem, costs) in enumerate(zip(first.problems, _paid(first, tariff), strict=True)):
        leaves = np.array([first.final_value(item) < threshold for item in problem.rollouts])
        own = np.array([item.right for item in problem.rollouts])
        right.append(np.where(leaves, above.right[place], own).mean())
        paid.append((costs + leaves * above.paid[place]).mean())
        handed_on.append(leaves.mean())
    return Attempts(np.array(right), np.array(paid), np.array(handed_on))


def _paid(rollouts: Rollouts, tariff: Tariff) -> list[NDArray[np.float64]]:
    """What each rollout of each question costs by itself."""
    paid = []
    for problem in rollouts.problems:
        lengths = np.array([len(item.tokens) for item in problem.rollouts])
        paid.append(tariff.paid(lengths + len(problem.prompt_tokens), lengths))
    return paid
