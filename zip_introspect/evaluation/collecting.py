"""Rollouts for replay: questions sampled by a model, graded, and kept with their joints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from zip_introspect import joint
from zip_introspect.config import SamplingParams
from zip_introspect.evaluation.rollouts import Problem, Question, Rollouts, StoredRollout
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.training.rollouts import Rollout, collect

Grader = Callable[[str, str], bool]
"""Whether a text gives the expected answer."""


def collect_rollouts(
    llm: IntrospectiveLLM,
    questions: Sequence[Question],
    grader: Grader,
    *,
    samples: int,
    sampling: SamplingParams | None = None,
    max_new_tokens: int | None = None,
    concurrency: int = 256,
) -> Rollouts:
    """Sample every question, and keep what the model expected at every token.

    Args:
        grader: is given the text of a sample and the expected answer; samples that were cut are wrong.
        sampling, max_new_tokens: in place of the model's own config.

    Raises:
        PromptError: a question that the model cannot read.
        TrainingDataError, BackendError: as `zip_introspect.training.rollouts.collect`.
    """
    limit = max_new_tokens or llm.config.max_new_tokens
    prompts = [llm.backend.encode(question.text) for question in questions]
    found: list[dict[int, StoredRollout]] = [{} for _ in questions]
    stream = collect(
        llm.backend,
        prompts,
        samples,
        sampling or llm.config.sampling,
        max_new_tokens=limit,
        concurrency=concurrency,
    )
    for rollout in tqdm(stream, total=len(questions) * samples, desc="rollouts", mininterval=1):
        found[rollout.prompt][rollout.sample] = _stored(llm, rollout, questions[rollout.prompt], grader)
    problems = [
        Problem(question, tuple(prompt), tuple(group[sample] for sample in sorted(group)))
        for question, prompt, group in zip(questions, prompts, found, strict=True)
    ]
    local = Path(llm.info.model)  # others need not know where it lies
    return Rollouts(llm.grid, local.name if local.exists() else llm.info.model, limit, tuple(problems))


def _stored(llm: IntrospectiveLLM, rollout: Rollout, question: Question, grader: Grader) -> StoredRollout:
    text = llm.backend.decode(rollout.tokens.tolist())
    joints = joint.from_logits(rollout.reserved_logits, llm.grid)
    return StoredRollout(
        tokens=rollout.tokens,
        text=text,
        answer=llm.extractor(text) if rollout.finished else None,
        right=rollout.finished and grader(text, question.expected),
        finished=rollout.finished,
        joints=joints.reshape(len(joints), -1).astype(np.float16),
    )
