"""STEP pruning: memory is kept to, and those of the lowest mean value go first."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies.states import made
from tests.strategies.test_pruning import results
from tests.strategies.test_strategies import leaf, state
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError

VALUES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
RUNNING = st.lists(st.tuples(st.integers(1, 60), st.lists(VALUES, min_size=3, max_size=3)), min_size=1, max_size=6)


def of_value(value: float) -> np.ndarray:
    return np.array([[1.0 - value, 0.0, 0.0], [value, 0.0, 0.0]])


@given(RUNNING, st.integers(1, 200), st.integers(0, 3), st.integers(1, 30))
def test_what_is_kept_fits_and_is_the_best(
    running: list[tuple[int, list[float]]], most: int, room: int, interval: int
) -> None:
    config = GenerationConfig(
        strategy="step_prune",
        strategy_options={"max_tokens_held": most},
        interval=interval,
        max_new_tokens=64,
        max_samples=len(running) + room,
    )
    strategy = made(config)
    for step in range(3):
        leaves = tuple(leaf(number, of_value(values[step]), length) for number, (length, values) in enumerate(running))
        fits = sum(min(length + interval, 64) for length, _ in running) <= most
        action = strategy.decide(state(leaves, room=room, **config.model_dump(exclude_unset=True)))
        if step < 2:
            continue  # the last decision is looked at; those before it only show it values
        held = sum(min(running[number][0] + interval, 64) for number in action.run)
        held += action.new * min(interval, 64)
        assert held <= most or (len(action.run) == 1 and not action.new)
        assert set(action.run) | set(action.drop) == set(range(len(running)))
        assert bool(action.drop) == (not fits and len(running) > 1)
        means = [float(np.mean(values)) for _, values in running]
        assert all(means[kept] >= means[weak] for kept in action.run for weak in action.drop)
        if action.drop:  # one less would not have fitted
            back = max(action.drop, key=lambda number: (means[number], -number))
            kept = [*action.run, back]
            assert sum(min(running[number][0] + interval, 64) for number in kept) > most


@pytest.mark.parametrize("most", [1, 20, 60, 120])
def test_a_search_keeps_to_its_memory(most: int) -> None:
    dropped = 0
    for result in results("step_prune", {"max_tokens_held": most}, max_samples=6):
        lengths: defaultdict[int, int] = defaultdict(int)
        for decision in result.decisions:
            for number in decision.finished:
                lengths.pop(number, None)
            for number in decision.dropped:
                lengths.pop(number)
            for number in decision.started:
                lengths[number] = 0
            for number in lengths:
                lengths[number] = min(lengths[number] + 4, result.samples[number].tokens)
            assert sum(lengths.values()) <= most or len(lengths) == 1
            dropped += decision.stop is None and len(decision.dropped)
        assert result.finish_reason == "stop"
        assert sum(sample.complete for sample in result.samples) >= 1
    assert (dropped > 0) == (most > 1), "where one has memory at a time, none is dropped for another"


def test_with_memory_for_all_it_is_a_weighted_vote() -> None:
    plain = results("weighted_best_of_n")
    for options in ({}, {"max_tokens_held": 10_000}):
        pruned = results("step_prune", options)
        assert [(item.samples, item.chosen) for item in pruned] == [(item.samples, item.chosen) for item in plain]


def test_the_mean_is_over_all_decisions() -> None:
    config: dict[str, Any] = {
        "strategy": "step_prune",
        "strategy_options": {"max_tokens_held": 100},
        "interval": 10,
        "max_samples": 2,
    }
    strategy = made(GenerationConfig(**config))
    early = state((leaf(0, of_value(1.0), 10), leaf(1, of_value(0.25), 10)), **config)
    assert strategy.decide(early).drop == ()
    # The first is worth less now, but has been worth more all along.
    late = state((leaf(0, of_value(0.25), 50), leaf(1, of_value(0.5), 50)), **config)
    action = strategy.decide(late)
    assert (action.run, action.drop) == ((0,), (1,))
    assert "100 tokens cannot hold all" in action.reason


def test_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens_held"):
        made(GenerationConfig(strategy="step_prune", strategy_options={"max_tokens_held": 0}))
