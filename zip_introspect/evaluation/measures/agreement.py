"""How far two backends agree on one model: the same tokens, the same reserved logits, the same joints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.contract import Backend, SequenceId, joint_grid
from zip_introspect.config import SamplingParams
from zip_introspect.evaluation.measures.metrics import total_variation
from zip_introspect.introspection import joint

_GREEDY = SamplingParams(temperature=0.0)
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Agreement:
    """Differences over all prefixes that were compared, and greedy texts."""

    logits: float
    """Largest difference of a reserved logit."""
    joints: float
    """Largest difference of a joint's cell."""
    total_variation: float
    """Mean over the prefixes."""
    prefixes: int
    same_texts: int
    """Prompts whose greedy tokens are the same."""


def agreement(
    one: Backend, other: Backend, prompts: Sequence[Sequence[int]], *, steps: int = 64, every: int = 8
) -> Agreement:
    """Compare two backends that hold the same model, on prompts and on `one`'s greedy answers to them.

    Args:
        steps: tokens of each answer, at most.
        every: reserved logits are compared at every so many tokens, computed by both from the same prefix.
    """
    answers = _greedy(one, prompts, steps)
    prefixes = [
        [*prompt, *answer[:length]]
        for prompt, answer in zip(prompts, answers, strict=True)
        for length in range(0, len(answer), every)
    ]
    reserved = [_reserved(backend, prefixes) for backend in (one, other)]
    grids = joint_grid(one), joint_grid(other)
    joints = [joint.from_logits(logits, grid) for logits, grid in zip(reserved, grids, strict=True)]
    others = _greedy(other, prompts, steps)
    return Agreement(
        logits=float(np.abs(reserved[0] - reserved[1]).max()),
        joints=float(np.abs(joints[0] - joints[1]).max()),
        total_variation=float(total_variation(*joints).mean()),
        prefixes=len(prefixes),
        same_texts=sum(first == second for first, second in zip(answers, others, strict=True)),
    )


def _greedy(backend: Backend, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
    prefilled = backend.prefill(prompts)
    sequences: list[SequenceId] = []
    try:
        for prompt in prefilled:
            sequences += backend.fork(prompt.sequence, [0], _GREEDY)
        return [run.tokens.tolist() for run in backend.advance(sequences, [steps] * len(sequences))]
    finally:
        backend.release([*sequences, *(prompt.sequence for prompt in prefilled)])


def _reserved(backend: Backend, prefixes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Shape (prefixes, B_V*B_T)."""
    found = []
    for start in range(0, len(prefixes), _AT_ONCE):
        prefilled = backend.prefill(prefixes[start : start + _AT_ONCE])
        found += [prompt.joint_logits for prompt in prefilled]
        backend.release([prompt.sequence for prompt in prefilled])
    return np.stack(found)
