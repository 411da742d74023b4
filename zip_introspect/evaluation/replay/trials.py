"""What strategies make of stored rollouts: accuracy, compute and latency of each question, for any setting.

Every setting runs through the same search as live calls do, on `ReplayBackend`. Costs are the paper's (section 6.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zip_introspect import strategies
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError
from zip_introspect.evaluation.replay.backend import ReplayBackend
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts, StoredRollout
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.result import GenerationResult
from zip_introspect.strategies.selection import Candidate, select

Scorer = Literal["value", "external", "self"]
"""Whose scores weigh the votes of `weighted_best_of_n`: the joint's own, an external reward model's, or the model's own
judgement."""


@dataclass(frozen=True)
class Setting:
    """A strategy to evaluate."""

    name: str
    """Of the curve that it is a point of."""
    config: GenerationConfig
    scorer: Scorer = "value"


@dataclass(frozen=True)
class Outcomes:
    """A setting's results, for each question: shape (questions,)."""

    setting: Setting
    right: NDArray[np.float64]
    """0 or 1; averaged over the windows of rollouts."""
    compute: NDArray[np.float64]
    """Tokens processed: the prompt's once, and all generated ones; scoring included."""
    latency: NDArray[np.float64]
    """Serial steps of the longest path, best case."""
    samples: NDArray[np.float64]
    """Samples started."""
    tokens: NDArray[np.float64]
    """Generated tokens."""


@dataclass(frozen=True)
class Played:
    """What a setting came to on one question; figures as in `Outcomes`."""

    right: bool
    compute: float
    latency: float
    samples: int
    tokens: int
    confidence: float


def evaluate(rollouts: Rollouts, setting: Setting, *, windows: int = 1) -> Outcomes:
    """Run a setting over every question.

    Args:
        windows: run it so many times, each beginning at another stored rollout, and average: a smaller variance.

    Raises:
        ConfigError: more samples or tokens than are stored, an unknown strategy, or scores that are not stored.
    """
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    rows = [
        [
            (item.right, item.compute, item.latency, item.samples, item.tokens)
            for item in played(rollouts, setting, first=window * stored // windows)
        ]
        for window in range(windows)
    ]
    right, compute, latency, samples, tokens = np.mean(np.array(rows, dtype=np.float64), axis=0).T
    return Outcomes(setting, right, compute, latency, samples, tokens)


def played(rollouts: Rollouts, setting: Setting, *, first: int = 0) -> list[Played]:
    """Run a setting over every question, beginning at its rollout `first`; in the order of the questions.

    Raises:
        ConfigError: as `evaluate`.
    """
    _check(rollouts, setting)
    backend, results = replayed(rollouts, setting.config, first=first)
    return [
        _row(rollouts, backend, problem, setting, item)
        for problem, item in zip(rollouts.problems, results, strict=True)
    ]


def replayed(
    rollouts: Rollouts, config: GenerationConfig, *, first: int = 0
) -> tuple[ReplayBackend, list[GenerationResult]]:
    """The results of all questions, beginning at their rollout `first`, and the backend that knows which they took."""
    backend = ReplayBackend(rollouts, first=first)
    with IntrospectiveLLM(backend, config, extractor=backend.answer) as llm:
        return backend, llm.batch([problem.question.text for problem in rollouts.problems])


def sweep(
    rollouts: Rollouts, settings: Sequence[Setting], *, windows: int = 1, processes: int | None = None
) -> Iterator[Outcomes]:
    """Run many settings side by side, in their order.

    Args:
        processes: how many at once; None is one for each core.

    Raises:
        ConfigError: as `evaluate`, before any runs.
    """
    for setting in settings:
        _check(rollouts, setting)
    if processes == 1:
        yield from (evaluate(rollouts, setting, windows=windows) for setting in settings)
        return
    with ProcessPoolExecutor(processes, initializer=_share, initargs=(rollouts, windows)) as pool:
        yield from pool.map(_evaluate_shared, settings)


def single(rollouts: Rollouts) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of one sample of each question, on average: accuracy, compute, latency."""
    right = [np.mean([item.right for item in problem.rollouts]) for problem in rollouts.problems]
    latency = np.array([np.mean([len(item.tokens) for item in problem.rollouts]) for problem in rollouts.problems])
    prompts = np.array([len(problem.prompt_tokens) for problem in rollouts.problems])
    return np.array(right, dtype=np.float64), prompts + latency, latency


_shared: tuple[Rollouts, int]


def _share(rollouts: Rollouts, windows: int) -> None:
    global _shared
    _shared = rollouts, windows


def _evaluate_shared(setting: Setting) -> Outcomes:
    rollouts, windows = _shared
    return evaluate(rollouts, setting, windows=windows)


def _check(rollouts: Rollouts, setting: Setting) -> None:
    config = setting.config
    strategy = strategies.chosen(config, joints=True)(config)
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    if strategy.needs_forks:
        raise ConfigError(
            f"{setting.name} branches within a sample, and stored rollouts branch at the prompt only; evaluate "
            f"{strategy.name} with the model"
        )
    if strategy.samples_at_most() > stored:
        raise ConfigError(
            f"{setting.name} may start {strategy.samples_at_most()} samples, and {stored} are stored for a question. "
            f"Store more, or lower max_samples."
        )
    if config.max_new_tokens != rollouts.max_new_tokens:
        raise ConfigError(
            f"{setting.name} has max_new_tokens={config.max_new_tokens}, and the rollouts were cut at "
            f"{rollouts.max_new_tokens}; expected the same"
        )
    if setting.scorer != "value" and any(
        _score(item, setting.scorer) is None for problem in rollouts.problems for item in problem.rollouts
    ):
        raise ConfigError(f"{setting.name} needs the {setting.scorer} scores of all rollouts, and some have none")


def _row(
    rollouts: Rollouts, backend: ReplayBackend, problem: QuestionRollouts, setting: Setting, result: GenerationResult
) -> Played:
    started = {sample.number: backend.rollout_of(problem, sample.number) for sample in result.samples}
    usage = result.usage
    compute, latency = float(usage.prompt_tokens + usage.generated_tokens), usage.depth
    chosen = result.chosen
    if setting.scorer != "value":
        finished = [sample for sample in result.samples if sample.status == "finished" and sample.finish != "length"]
        candidates = [
            Candidate(sample.number, float(_score(started[sample.number], setting.scorer) or 0.0), True, sample.answer)
            for sample in finished
        ]
        found = select(candidates, result.selection)  # type: ignore[arg-type]
        chosen = found.number if found else chosen
        if setting.scorer == "external":  # it reads the prompt and the sample anew, all tokens at once
            compute += rollouts.external_cost * sum(len(problem.prompt_tokens) + sample.tokens for sample in finished)
        else:
            compute += len(finished) * rollouts.judgement_tokens
            latency += 1  # of one pass over the question
    oracle = getattr(strategies.chosen(setting.config, joints=True), "oracle", False)
    if oracle:
        right = any(item.right for item in started.values())
    else:
        given = result.submitted if chosen == result.chosen else (chosen,)
        right = any(
            number is not None and result.samples[number].status == "finished" and started[number].right
            for number in given
        )
    return Played(right, compute, float(latency), len(result.samples), usage.generated_tokens, result.confidence)


def _score(rollout: StoredRollout, scorer: Scorer) -> float | None:
    return rollout.external_score if scorer == "external" else rollout.self_score
