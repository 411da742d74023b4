"""One total for many questions, on stored rollouts: by the price of a token, or the same share for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError
from zip_introspect.evaluation.replay.backend import ReplayBackend
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.llm import IntrospectiveLLM


@dataclass(frozen=True)
class AtTotal:
    """What came of a batch under one total, for each question: shape (questions,), averaged over windows."""

    right: NDArray[np.float64]
    """0 or 1 in each window; a question without a complete answer is wrong."""
    answered: NDArray[np.float64]
    tokens: NDArray[np.float64]
    """Generated."""


def at_total(rollouts: Rollouts, config: GenerationConfig, total: int, *, shared: bool, windows: int = 1) -> AtTotal:
    """Answer every question within a total of generated tokens.

    Args:
        shared: whether the questions share it (`total_budget`); if not, each has as many tokens as the next one.
        windows: run it so many times, each beginning at another stored rollout, and average.

    Raises:
        ConfigError: a total that leaves a question less than one token.
    """
    questions = [problem.question.text for problem in rollouts.problems]
    if total < len(questions):
        raise ConfigError(f"a total of {total} tokens for {len(questions)} questions; expected one each at least")
    limits = {"total_budget": Budget(max_tokens=total)} if shared else {"budget": total // len(questions)}
    stored = min(len(problem.rollouts) for problem in rollouts.problems)
    rows = []
    for window in range(windows):
        backend = ReplayBackend(rollouts, first=window * stored // windows)
        with IntrospectiveLLM(backend, config, extractor=backend.answer) as llm:
            results = llm.batch(questions, **limits)
        rows.append(
            [
                (
                    result.complete and backend.rollout_of(problem, result.chosen or 0).right,
                    result.complete,
                    result.usage.generated_tokens,
                )
                for problem, result in zip(rollouts.problems, results, strict=True)
            ]
        )
    right, answered, tokens = np.mean(np.array(rows, dtype=np.float64), axis=0).T
    return AtTotal(right, answered, tokens)
