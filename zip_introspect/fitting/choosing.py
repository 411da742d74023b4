"""Which settings a head is best used with, and what its confidence then means: by replays on questions held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zip_introspect import strategies
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import CalibrationError
from zip_introspect.evaluation.measures import calibrating
from zip_introspect.evaluation.measures.cost import generation_cost
from zip_introspect.evaluation.replay.trials import Setting, played, single
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.heads.head import Searched

PRICES: Mapping[str, float] = {"cheap": 0.1, "balanced": 0.03, "dear": 0.005}
"""Accuracy that the tokens of one sample have to be worth: where each is counted, usually, and where none is."""
_ALPHAS, _BETAS = (0.1, 1.0), (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
_ISOTONIC_FROM = 200
"""Results, below which one number is fitted."""


@dataclass(frozen=True)
class Played:
    """A setting and what came of it on held-out questions."""

    config: GenerationConfig
    right: NDArray[np.float64]
    """Shape (questions, windows)."""
    confidence: NDArray[np.float64]
    cost: NDArray[np.float64]
    """In samples: the tokens of one sample of the question on average are 1."""

    @property
    def name(self) -> str:
        """Of the strategy, with its samples or its beta."""
        config = self.config
        if config.strategy == "zip_rc":
            return f"zip_rc, alpha {config.alpha:g}, beta {config.beta:g}, by {config.selection}"
        return f"{config.strategy} of {config.max_samples}"

    def worth(self, price: float) -> float:
        """Accuracy less what it cost."""
        return float(self.right.mean() - price * self.cost.mean())


def candidates(config: GenerationConfig, stored: int) -> Iterator[GenerationConfig]:
    """The settings that are tried, at most `stored` samples each."""
    yield config.replace(strategy="single", max_samples=1)
    if stored == 1:
        return
    yield config.replace(strategy="adaptive_consistency", max_samples=stored)
    for name in ("majority_vote", "best_of_n", "weighted_best_of_n"):
        yield from (config.replace(strategy=name, max_samples=size) for size in range(2, stored + 1))
    for alpha in _ALPHAS:
        for beta in _BETAS:
            for selection in ("value", "weighted_majority", "majority"):
                yield config.replace(strategy="zip_rc", max_samples=stored, alpha=alpha, beta=beta, selection=selection)


def play(
    rollouts: Rollouts, config: GenerationConfig, *, say: Callable[[int, int], None] = lambda done, of: None
) -> list[Played]:
    """Every candidate on every question, beginning at each of its rollouts.

    Args:
        rollouts: with joints of questions that the head did not see.
        say: is told how many are done.
    """
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    _, one, serial = single(rollouts)
    found = []
    settings = list(candidates(config.replace(max_new_tokens=rollouts.max_new_tokens), stored))
    for number, settled in enumerate(settings, 1):
        rows = [played(rollouts, Setting("", settled), first=first) for first in range(stored)]
        right, confidence, compute, latency = (
            np.array([[getattr(row, name) for row in window] for window in rows], np.float64).T for name in _READ
        )
        cost = generation_cost(compute, latency, one[:, None], serial[:, None], 1.0)
        found.append(Played(settled, right, confidence, cost))
        say(number, len(settings))
    return found


_READ = ("right", "confidence", "compute", "latency")


def recommended(found: list[Played]) -> dict[str, Played]:
    """The best setting at each price."""
    return {name: max(found, key=lambda item: item.worth(price)) for name, price in PRICES.items()}


def searched(found: list[Played]) -> tuple[Searched, ...]:
    """What confidence means after each kind of search: of every strategy, selection and number of samples that is told
    apart, the point nearest to the middle of its prices.

    One result of each question counts: several would not be independent, and the thresholds rest on that.
    """
    groups: dict[tuple[Any, ...], list[Played]] = {}
    for item in found:
        make = strategies.chosen(item.config, joints=True)
        key = item.config.strategy, item.config.selection or make.selection, item.config.max_samples
        groups.setdefault(key, []).append(item)
    calibrated = []
    for (strategy, selection, samples), items in groups.items():
        item = max(items, key=lambda item: item.worth(PRICES["balanced"]))
        confidence, right = np.clip(item.confidence[:, 0], 0, 1), item.right[:, 0]
        method = "isotonic" if len(right) >= _ISOTONIC_FROM else "temperature"
        try:
            map_ = calibrating.fit(confidence, right, method)
        except CalibrationError:
            continue  # all right, or all wrong: nothing to learn
        calibrated.append(Searched(strategy=strategy, selection=selection, max_samples=samples, calibration=map_))
    return tuple(calibrated)
