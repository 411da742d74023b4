"""Fixed-size strategies scored on stored samples: every size from one set of rollouts, ties in expectation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.answers.extraction import key

VotingRule = Callable[[Sequence["Scored"]], float]


@dataclass(frozen=True)
class Scored:
    """One finished sample of a problem."""

    answer: str | None
    right: bool
    value: float
    tokens: int


def majority_vote(samples: Sequence[Scored]) -> float:
    """The probability that the most frequent answer is right, ties broken uniformly at random."""
    answers = [(key(sample.answer), sample.right) for sample in samples if sample.answer is not None]
    votes = Counter(answer for answer, _ in answers)
    if not votes:
        return 0.0
    best = max(votes.values())
    right: defaultdict[str, bool] = defaultdict(bool)
    for answer, correct in answers:
        right[answer] |= correct
    winners = [answer for answer, count in votes.items() if count == best]
    return sum(right[answer] for answer in winners) / len(winners)


def best_of_n(samples: Sequence[Scored]) -> float:
    """Whether the sample of the highest value is right; the first of equals is taken."""
    return float(max(samples, key=lambda sample: sample.value).right)


def windows(samples: Sequence[Scored], size: int) -> list[list[Scored]]:
    """Every run of `size` consecutive samples, cyclically: each sample is used equally often."""
    return [[samples[(start + i) % len(samples)] for i in range(size)] for start in range(len(samples))]


def expenses(samples: Sequence[Scored], prompt_tokens: int) -> tuple[float, float]:
    """Compute (the prompt once, all generated tokens) and latency (the longest sample) of running these together."""
    lengths = [sample.tokens for sample in samples]
    return float(prompt_tokens + sum(lengths)), float(max(lengths))


def mean_over_windows(
    samples: Sequence[Scored], size: int, prompt_tokens: int, rule: VotingRule
) -> NDArray[np.float64]:
    """(accuracy, compute, latency) of a rule at a size, averaged over the windows."""
    return np.asarray(np.mean([(rule(w), *expenses(w, prompt_tokens)) for w in windows(samples, size)], axis=0))
