"""What a head says of stored rollouts, so that they can be replayed as if they had been sampled with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import TrainingDataError
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts
from zip_introspect.fitting.states import States
from zip_introspect.heads.head import Head
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid


def by_head(rollouts: Rollouts, head: Head) -> Rollouts:
    """The same rollouts with a head's joints.

    Raises:
        TrainingDataError: no hidden states were kept, or those of another model.
    """
    if rollouts.hidden_size != head.about.hidden_size:
        raise TrainingDataError(
            f"the rollouts of {rollouts.model} hold hidden states of {rollouts.hidden_size} numbers, and the head "
            f"reads {head.about.hidden_size}; expected those of the head's model"
        )
    states = States.of(rollouts)
    logits = head.logits(states.last.astype(np.float32), states.mean.astype(np.float32))
    return with_joints(rollouts, head.grid, joint.from_logits(logits, head.grid).reshape(len(logits), -1))


def with_joints(rollouts: Rollouts, grid: JointGrid, probabilities: NDArray[np.floating]) -> Rollouts:
    """The same rollouts with joints; between two prefixes whose states were kept, the earlier one's holds on.

    Args:
        probabilities: shape (rows, B_V*B_T), a row for each prefix, in the order of `States`.
    """
    everything = [item.hidden for problem in rollouts.problems for item in problem.rollouts]
    counts = [0 if states is None else len(states.positions) for states in everything]
    own = iter([probabilities[begin:end] for begin, end in pairwise(np.cumsum([0, *counts]))])
    problems = []
    for problem in rollouts.problems:
        laid = []
        for item in problem.rollouts:
            assert item.hidden is not None
            rows = np.arange(len(item.tokens) + (0 if item.finished else 1))
            at = np.searchsorted(item.hidden.positions, rows, side="right") - 1
            laid.append(replace(item, joints=next(own)[at].astype(np.float16), hidden=None))
        problems.append(QuestionRollouts(problem.question, problem.prompt_tokens, tuple(laid)))
    return replace(rollouts, grid=grid, problems=tuple(problems), hidden_size=None, answers=None)
