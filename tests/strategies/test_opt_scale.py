"""OptScale against its definition: the fewest samples that probably reach the target."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies.test_strategies import GRID, HOPELESS, ONLY_LATE, SURE_AND_NEAR, decide, leaf, state
from zip_introspect import Budget, IntrospectiveLLM
from zip_introspect.errors import ConfigError
from zip_introspect.strategies import Finished, MetaState
from zip_introspect.testing.simulator import SimulatedBackend


def likely(chance: float) -> np.ndarray:
    """The joint of a sample that reaches the upper bin with this probability, within 4 tokens."""
    return np.array([[1.0 - chance, 0.0, 0.0], [chance, 0.0, 0.0]])


def state_of(*chances: float, root: float = 0.5, failed: int = 0, **changes: Any) -> MetaState:
    config = {name: changes.pop(name) for name in list(changes) if name in ("max_samples", "strategy_options")}
    finished = tuple(Finished(number, 9, 0.2, complete=True) for number in range(failed))
    leaves = tuple(leaf(failed + number, likely(chance)) for number, chance in enumerate(chances))
    return state(leaves, finished, likely(root), strategy="opt_scale", **{"max_samples": 12, **config}, **changes)


@pytest.mark.parametrize(("chance", "confidence"), [(0.5, 0.9), (0.3, 0.9), (0.9, 0.99), (0.05, 0.3), (1.0, 0.9)])
def test_of_independent_draws_it_is_the_bound_of_the_paper(chance: float, confidence: float) -> None:
    options = {"confidence": confidence, "weight": 1e12}
    expected = 1 if chance == 1.0 else int(np.ceil(np.log(1.0 - confidence) / np.log(1.0 - chance) - 1e-12))
    assert decide(state_of(root=chance, max_samples=100, strategy_options=options)).new == expected


CHANCES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])


@given(st.lists(CHANCES, max_size=4), CHANCES, st.integers(0, 3), st.integers(0, 4), st.sampled_from([0.3, 0.8, 0.95]))
def test_no_smaller_set_is_likely_enough(
    chances: list[float], root: float, failed: int, room: int, confidence: float
) -> None:
    options = {"confidence": confidence, "weight": 4.0}
    action = decide(state_of(*chances, root=root, failed=failed, room=room, strategy_options=options))
    if not chances and not room:
        assert action.stop == "finished"
        return
    assert action.stop is None
    fresh = [4.0 * root / (4.0 + failed + place) for place in range(room)]

    def reaches(leaves: tuple[int, ...], new: int) -> float:
        return 1.0 - float(np.prod([1.0 - chances[i] for i in leaves]) * np.prod([1.0 - p for p in fresh[:new]]))

    chosen = tuple(sample - failed for sample in action.run)
    every = {
        (some, new): reaches(some, new)
        for size in range(len(chances) + 1)
        for some in combinations(range(len(chances)), size)
        for new in range(room + 1)
    }
    enough = {sum((len(some), new)) for (some, new), chance in every.items() if chance >= confidence - 1e-12}
    size = len(chosen) + action.new
    assert size == (max(1, min(enough)) if enough else len(chances) + room)
    best = max(chance for (some, new), chance in every.items() if len(some) + new == size)
    assert reaches(chosen, action.new) == pytest.approx(best)


@given(st.integers(0, 12), st.floats(0.05, 1.0), st.floats(0.5, 20.0))
def test_what_falls_short_lowers_the_chance_of_the_next(failed: int, root: float, weight: float) -> None:
    """The chance is the mean of a Beta distribution of `weight` samples that saw so many failures."""
    options = {"confidence": 1e-9, "weight": weight}
    said = decide(state_of(root=root, failed=failed, max_samples=20, strategy_options=options)).reason
    assert float(said.rsplit(" ", 1)[1]) == pytest.approx(weight * root / (weight + failed), abs=6e-4)


def test_it_stops_where_a_sample_reaches_the_target() -> None:
    reached = dataclasses.replace(state_of(0.9), finished=(Finished(7, 9, 0.93, complete=True),))
    action = decide(reached)
    assert (action.stop, action.reason) == ("finished", "a sample of 0.930 reaches 0.9")
    cut = dataclasses.replace(reached, finished=(Finished(7, 9, 0.93, complete=False),))
    assert decide(cut).stop is None
    short = dataclasses.replace(reached, finished=(Finished(7, 9, 0.89, complete=True),))
    assert decide(short).stop is None


def test_one_without_prospects_waits_while_a_new_one_has_better() -> None:
    options = {"confidence": 0.4}
    action = decide(state_of(0.01, 0.2, root=0.5, strategy_options=options))
    assert (action.run, action.new) == ((), 1)
    full = decide(state_of(0.01, 0.2, root=0.5, room=0, strategy_options=options))
    assert full.run == (1, 0)


def test_an_end_out_of_reach_is_no_hope() -> None:
    kwargs: dict[str, Any] = {"strategy": "opt_scale", "strategy_options": {"confidence": 0.5}, "room": 1}
    leaves = (leaf(0, ONLY_LATE, limit=5), leaf(1, SURE_AND_NEAR, limit=5))
    assert decide(state(leaves, root=HOPELESS, **kwargs)).run == (1,)
    assert GRID.length_bin(5) < GRID.length_bin(9)


def test_easy_questions_cost_fewer_samples_and_confidence_more() -> None:
    questions = [f"question {number}" for number in range(32)]
    with IntrospectiveLLM(SimulatedBackend()) as llm:
        drawn = {}
        for confidence in (0.3, 0.9, 0.999):
            options = {"confidence": confidence}
            found = llm.batch(questions, strategy="opt_scale", strategy_options=options, interval=4)
            drawn[confidence] = [len(result.samples) for result in found]
            for result in found:
                reached = any((sample.value or 0.0) >= 0.9 for sample in result.samples if sample.complete)
                assert reached or len(result.samples) == 8
        budgeted = llm.generate("question 1", budget=Budget(max_tokens=20), strategy="opt_scale")
    assert budgeted.usage.generated_tokens <= 20
    means = [np.mean(counts) for counts in drawn.values()]
    assert means == sorted(means)
    assert {1, 8} <= set(drawn[0.3])


@pytest.mark.parametrize(
    "options", [{"confidence": 0.0}, {"confidence": 1.0}, {"weight": 0.0}, {"target": float("nan")}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        decide(state_of(strategy_options=options))
