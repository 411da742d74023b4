"""Rollouts: all that was asked for, each prompt with its own luck, whatever else runs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.scripted import FaultyBackend, FullBackend, SeedRecorder, nan_in_the_last
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, NonFiniteLogitsError, TrainingDataError
from zip_introspect.testing.simulator import SimulatedBackend
from zip_introspect.training.on_policy import Rollout, collect

PROMPTS = [list(text.encode()) for text in ("a", "bc", "d", "efg", "h")]


def rolled(backend: SimulatedBackend, prompts: Sequence[Sequence[int]] = PROMPTS, **settings: Any) -> list[Rollout]:
    given = {"samples": 3, "max_new_tokens": 30, "concurrency": 8, "interval": 4, **settings}
    found = collect(backend, prompts, given.pop("samples"), SamplingParams(seed=1), **given)
    return sorted(found, key=lambda rollout: (rollout.prompt, rollout.sample))


@pytest.mark.parametrize("concurrency", [1, 2, 8, 100])
@pytest.mark.parametrize("interval", [1, 7])
def test_neither_concurrency_nor_interval_changes_what_is_said(concurrency: int, interval: int) -> None:
    backend = SimulatedBackend()
    found, expected = rolled(backend, concurrency=concurrency, interval=interval), rolled(SimulatedBackend())
    assert [(item.prompt, item.sample) for item in found] == [(p, s) for p in range(5) for s in range(3)]
    assert [item.tokens.tolist() for item in found] == [item.tokens.tolist() for item in expected]
    for item in found:
        assert len(item.joint_logits) == len(item.tokens) + (not item.finished)
        assert item.finished or len(item.tokens) == 30
    assert backend.held == 0


def test_no_two_prompts_share_a_stream_and_a_prompt_keeps_its_own() -> None:
    backend = SeedRecorder()
    rolled(backend)
    assert len(set(backend.seeds)) == len(PROMPTS)
    alone = rolled(SimulatedBackend(), PROMPTS[3:4])
    together = [item for item in rolled(SimulatedBackend()) if item.prompt == 3]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def test_faults_and_empty_requests_are_errors() -> None:
    backend = FaultyBackend(nan_in_the_last)
    with pytest.raises(NonFiniteLogitsError, match="became NaN or infinite after"):
        rolled(backend)
    assert backend.held == 0
    with pytest.raises(TrainingDataError, match="got 0 prompts"):
        rolled(SimulatedBackend(), [])


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_fork_that_fails_leaves_no_sequence_behind(at: int) -> None:
    backend = FullBackend("fork", at)
    with pytest.raises(BackendError, match="no room for another fork"):
        rolled(backend)
    assert backend.held == 0
