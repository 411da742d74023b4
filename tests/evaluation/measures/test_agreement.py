"""A backend agrees with itself, and not with another model."""

from __future__ import annotations

import pytest

from tests.scripted import FullBackend
from zip_introspect.errors import BackendError
from zip_introspect.evaluation.measures.agreement import agreement
from zip_introspect.testing.simulator import SimulatedBackend


def test_a_backend_agrees_with_itself_and_not_with_another_model() -> None:
    one, other = SimulatedBackend(0), SimulatedBackend(1)
    prompts = [one.encode(text) for text in ("a", "b", "c")]
    same = agreement(one, SimulatedBackend(0), prompts, steps=16, every=4)
    assert (same.logits, same.joints, same.total_variation) == (0, 0, 0)
    assert same.same_texts == len(prompts)
    assert same.prefixes >= len(prompts)
    apart = agreement(one, other, prompts, steps=16, every=4)
    assert apart.logits > apart.joints > 0
    assert 0 < apart.total_variation <= 1
    assert one.held == other.held == 0


def test_a_fork_that_fails_leaves_no_sequence_behind() -> None:
    one, other = FullBackend("fork", at=1), SimulatedBackend()
    with pytest.raises(BackendError, match="no room for another fork"):
        agreement(one, other, [one.encode(text) for text in "abc"], steps=4)
    assert one.held == 0
