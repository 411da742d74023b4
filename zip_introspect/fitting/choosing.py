"""Which settings a head is best used with, and what its confidence then means: by replays on questions held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zip_introspect import strategies
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import CalibrationError
from zip_introspect.evaluation.measures import calibrating
from zip_introspect.evaluation.measures.cost import generation_cost
from zip_introspect.evaluation.replay.backend import ReplayBackend
from zip_introspect.evaluation.replay.trials import replayed, single
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts
from zip_introspect.heads.head import Searched
from zip_introspect.introspection.posterior import AnswerModel
from zip_introspect.result import GenerationResult
from zip_introspect.strategies.selection import Candidate, Selection, select

PRICES: Mapping[str, float] = {"cheap": 0.1, "balanced": 0.03, "dear": 0.005}
"""Accuracy that the tokens of one sample have to be worth: where each is counted, usually, and where none is."""
_ALPHAS, _BETAS = (0.1, 1.0), (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
_PRICED = ("zip_rc", "answer_posterior")
"""Strategies that weigh what they gain against beta."""
_WINDOW, _CONFIDENCES = 4, (0.5, 0.9)
_ISOTONIC_FROM = 200
"""Results, below which one number is fitted."""


@dataclass(frozen=True)
class Tried:
    """A setting and what came of it on held-out questions."""

    config: GenerationConfig
    right: NDArray[np.float64]
    """Shape (questions, windows)."""
    confidence: NDArray[np.float64]
    cost: NDArray[np.float64]
    """In samples: the tokens of one sample of the question on average are 1."""
    likelihood: NDArray[np.float64] | None = None
    """The confidence by tokens, shape (questions, windows), where the rollouts hold any."""

    @property
    def name(self) -> str:
        """Of the strategy, with its samples or its beta."""
        config = self.config
        if config.strategy in _PRICED:
            how = f", by {config.selection}" if config.selection else ""
            return f"{config.strategy}, alpha {config.alpha:g}, beta {config.beta:g}{how}"
        chosen = "".join(f", {name} {value}" for name, value in config.strategy_options.items())
        return f"{config.strategy} of {config.max_samples}{chosen}"

    def worth(self, price: float) -> float:
        """Accuracy less what it cost."""
        return float(self.right.mean() - price * self.cost.mean())


def candidates(config: GenerationConfig, stored: int) -> Iterator[GenerationConfig]:
    """The searches that are tried, of at most `stored` samples each."""
    yield config.replace(strategy="single", max_samples=1)
    if stored == 1:
        return
    yield config.replace(strategy="adaptive_consistency", max_samples=stored)
    if stored > _WINDOW:
        options = {"window": _WINDOW}
        yield config.replace(strategy="early_stopping_consistency", max_samples=stored, strategy_options=options)
    for confidence in _CONFIDENCES:
        yield config.replace(strategy="opt_scale", max_samples=stored, strategy_options={"confidence": confidence})
    for name in ("majority_vote", "best_of_n", "weighted_best_of_n"):
        yield from (config.replace(strategy=name, max_samples=size) for size in range(2, stored + 1))
    for size in sorted({max(2, stored // 2), stored}):
        yield config.replace(strategy="best_of_majority", max_samples=size)
    for alpha in _ALPHAS:
        for beta in _BETAS:
            for name in _PRICED:
                yield config.replace(strategy=name, max_samples=stored, alpha=alpha, beta=beta)


def play(
    rollouts: Rollouts,
    config: GenerationConfig,
    beliefs: Sequence[AnswerModel],
    *,
    processes: int | None = None,
    say: Callable[[int, int], None] = lambda done, of: None,
) -> list[Tried]:
    """Every candidate on every question, beginning at each of its rollouts.

    Args:
        rollouts: with joints of questions that the head did not see.
        beliefs: what is believed of answers, in turn for one question after another.
        processes: how many candidates at once; None is one for each core.
        say: is told how many are done.
    """
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    settings = list(candidates(config.replace(max_new_tokens=rollouts.max_new_tokens), stored))
    found: list[Tried] = []
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_share, initargs=(rollouts, beliefs)
    ) as pool:
        for number, some in enumerate(pool.map(_play_shared, settings), 1):
            found += some
            say(number, len(settings))
    return found


_shared: tuple[Rollouts, Sequence[AnswerModel]]


def _share(rollouts: Rollouts, beliefs: Sequence[AnswerModel]) -> None:
    global _shared
    _shared = rollouts, beliefs


def _play_shared(config: GenerationConfig) -> list[Tried]:
    return _play(*_shared, config)


def _play(rollouts: Rollouts, beliefs: Sequence[AnswerModel], config: GenerationConfig) -> list[Tried]:
    """One search, and what each way of choosing among its samples makes of it."""
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    _, one, _ = single(rollouts)
    selections: tuple[Selection | None, ...] = _SELECTIONS if config.strategy == "zip_rc" else (None,)
    rows: dict[Selection | None, list[list[tuple[float, float, float, float]]]] = {name: [] for name in selections}
    for first in range(stored):
        results = _results(rollouts, beliefs, config, first)
        for selection, windows in rows.items():
            windows.append([])
            for problem, (backend, result) in zip(rollouts.problems, results, strict=True):
                right, confidence, likelihood = _chosen(backend, problem, result, selection)
                prompt, usage = result.usage.prompt_tokens, result.usage
                cost = generation_cost(prompt + usage.generated_tokens, usage.depth, 1.0, 1.0, 1.0)
                windows[-1].append((right, confidence, float(cost), likelihood))
    found = []
    for selection, windows in rows.items():
        right, confidence, cost, likelihood = np.array(windows, np.float64).transpose(2, 1, 0)
        settled = config if selection is None else config.replace(selection=selection)
        found.append(
            Tried(settled, right, confidence, cost / one[:, None], likelihood if rollouts.confidences else None)
        )
    return found


def _results(
    rollouts: Rollouts, beliefs: Sequence[AnswerModel], config: GenerationConfig, first: int
) -> list[tuple[ReplayBackend, GenerationResult]]:
    """One search of each question, in their order."""
    if config.strategy != "answer_posterior":
        backend, results = replayed(rollouts, config, first=first)
        return [(backend, result) for result in results]
    found: list[list[tuple[ReplayBackend, GenerationResult]]] = []
    for turn, answers in enumerate(beliefs):
        own = config.replace(strategy_options={"answers": answers.model_dump()})
        some = replace(rollouts, problems=rollouts.problems[turn :: len(beliefs)])
        backend, results = replayed(some, own, first=first)
        found.append([(backend, result) for result in results])
    return [found[place % len(beliefs)][place // len(beliefs)] for place in range(len(rollouts.problems))]


def _chosen(
    backend: ReplayBackend, problem: QuestionRollouts, result: GenerationResult, selection: Selection | None
) -> tuple[bool, float, float]:
    """Whether the chosen sample is right, and how sure it is: by the strategy or the head, and by its tokens."""
    number, confidence = result.chosen, result.confidence
    if selection is not None:
        samples = [
            Candidate(item.number, item.value, item.complete, item.answer) for item in result.samples if item.tokens
        ]
        chosen = select(samples, selection, result.seed)
        number = chosen.number if chosen else None
        confidence = (result.samples[number].value or 0.0) if number is not None else 0.0
    if number is None or not result.samples[number].complete:
        return False, 0.0, 0.0
    rollout = backend.rollout_of(problem, number)
    likelihood = 0.0 if rollout.confidences is None else float(np.exp(rollout.confidences[:, 0].mean(dtype=np.float64)))
    return rollout.right, confidence, likelihood


_SELECTIONS: tuple[Selection, ...] = ("value", "weighted_majority", "majority")


def recommended(found: list[Tried]) -> dict[str, Tried]:
    """The best setting at each price."""
    return {name: max(found, key=lambda item: item.worth(price)) for name, price in PRICES.items()}


def promised(found: list[Tried], price: float, folds: int = 10) -> tuple[float, float]:
    """Accuracy and cost of the best setting at a price, each question judged by the one that the others choose.

    The best of many on some questions does less well on others: by how much is seen so.
    """
    right, cost = (np.stack([getattr(item, name).mean(1) for item in found]) for name in ("right", "cost"))
    fold = np.arange(right.shape[1]) % folds
    got = np.zeros((2, right.shape[1]))
    for number in np.unique(fold):
        held_out = fold == number
        others = held_out if held_out.all() else ~held_out
        best = int((right[:, others].mean(1) - price * cost[:, others].mean(1)).argmax())
        got[:, held_out] = right[best, held_out], cost[best, held_out]
    return float(got[0].mean()), float(got[1].mean())


def searched(found: list[Tried]) -> tuple[Searched, ...]:
    """What confidence means after each kind of search: of every strategy, selection and number of samples that is told
    apart, the point nearest to the middle of its prices.

    One result of each question counts: several would not be independent, and the thresholds rest on that.
    """
    groups: dict[tuple[Any, ...], list[Tried]] = {}
    for item in found:
        make = strategies.chosen(item.config, joints=True)
        key = item.config.strategy, item.config.selection or make.selection, item.config.max_samples
        groups.setdefault(key, []).append(item)
    calibrated = []
    for (strategy, selection, samples), items in groups.items():
        item = max(items, key=lambda item: item.worth(PRICES["balanced"]))
        right = item.right[:, 0]
        method = "isotonic" if len(right) >= _ISOTONIC_FROM else "temperature"
        for source, confidence in ((None, item.confidence), ("tokens", item.likelihood)):
            if confidence is None:
                continue
            try:
                map_ = calibrating.fit(np.clip(confidence[:, 0], 0, 1), right, method).replace(source=source)
            except CalibrationError:
                continue  # all right, or all wrong: nothing to learn
            calibrated.append(Searched(strategy=strategy, selection=selection, max_samples=samples, calibration=map_))
    return tuple(calibrated)
