"""Rollouts of the simulated world: exact joints, and no model to load."""

from __future__ import annotations

from typing import Any

from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.evaluation.store.collecting import Collecting, collect_rollouts
from zip_introspect.evaluation.store.rollout_file import Question, Rollouts
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(max_new_tokens=64, interval=4, seed=3)


def simulated(
    questions: int = 12, samples: int = 4, *, confidences: bool = False, **options: Any
) -> tuple[IntrospectiveLLM, Rollouts]:
    """A model of the simulated world, and rollouts of it; a sample is right where its answer is 1."""
    llm = IntrospectiveLLM(SimulatedBackend(**options), CONFIG)
    asked = [Question(f"question {number}", "1", "even" if number % 2 == 0 else "odd") for number in range(questions)]
    how: Collecting = {"samples": samples, "confidences": confidences}
    return llm, collect_rollouts(llm, asked, lambda text, expected: text.endswith(f"ans {expected}"), **how)
