"""Targets: each outcome's class against loops, what logits mean, and what cannot be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.config import Settings
from zip_introspect.errors import GridError, HeadError, NonFiniteLogitsError, TrainingDataError
from zip_introspect.heads.targets import IGNORED, AnyTarget, Bernoulli, Binned, Categorical, RewardCost
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.dataset import targets

NUMBERS = st.floats(-1e6, 1e6)
GRIDS = st.builds(
    lambda rewards, lengths, startup: JointGrid.paper(
        0, num_reward_bins=rewards, num_length_bins=lengths, startup=startup
    ),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(1, 64),
)
NAMES = Categorical(names=("answers", "refuses", "asks back"))


class Holds(Settings):
    """As files hold a target."""

    target: AnyTarget


@given(st.lists(st.sampled_from([*NAMES.names, None])))
def test_names_are_their_places(outcomes: list[str | None]) -> None:
    expected = [IGNORED if name is None else NAMES.names.index(name) for name in outcomes]
    assert NAMES.labels(outcomes).tolist() == expected


@given(st.lists(st.sampled_from([True, False, 0, 1, 0.0, 1.0, None, math.nan])))
def test_yes_is_one(outcomes: list[Any]) -> None:
    unknown = [item is None or item != item for item in outcomes]
    expected = [IGNORED if no else int(item) for item, no in zip(outcomes, unknown, strict=True)]
    assert Bernoulli().labels(outcomes).tolist() == expected


@given(st.lists(NUMBERS, min_size=2, max_size=8, unique=True), st.lists(st.one_of(NUMBERS, st.none())), st.data())
def test_numbers_fall_into_bins(edges: list[float], outcomes: list[float | None], data: st.DataObject) -> None:
    target = Binned(edges=tuple(sorted(edges)))
    outcomes += data.draw(st.lists(st.sampled_from(edges)))
    expected = []
    for number in outcomes:
        place = IGNORED
        if number is not None:
            place = sum(number >= edge for edge in target.edges[1:-1])
        expected.append(place)
    assert target.labels(outcomes).tolist() == expected


@given(GRIDS, st.integers(1, 30), st.integers(1, 200), st.floats(0, 1))
def test_reward_and_cost_are_what_training_learns(grid: JointGrid, prompt: int, new: int, reward: float) -> None:
    length = prompt + new
    remaining = [length - 1 - place for place in range(prompt - 1, length - 1)]
    outcomes = [[reward, left] for left in remaining]
    found = RewardCost(grid=grid).labels(outcomes)
    assert targets(grid, prompt, length, reward).tolist() == [*[IGNORED] * (prompt - 1), *found.tolist(), IGNORED]
    for cell, left in zip(found.tolist(), remaining, strict=True):
        row = sum(reward >= edge for edge in grid.reward_edges[1:-1])
        assert cell == row * grid.num_length_bins + sum(left >= edge for edge in grid.length_edges[1:-1])
    assert RewardCost(grid=grid).labels([[None, 3], [reward, math.nan]]).tolist() == [IGNORED, IGNORED]


@given(GRIDS, st.integers(0, 100))
def test_what_a_joint_says_is_what_equation_8_says(grid: JointGrid, seed: int) -> None:
    target, logits = RewardCost(grid=grid), np.random.default_rng(seed).normal(size=(3, grid.num_cells))
    probabilities, expected = target.probabilities(logits), joint.from_logits(logits, grid)
    np.testing.assert_allclose(probabilities, expected.reshape(3, -1))
    moments = np.stack([joint.expected_value(expected, grid), joint.expected_length(expected, grid)], axis=-1)
    np.testing.assert_allclose(target.expectation(probabilities), moments)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (NAMES, [0.2, 0.3, 0.5]),
        (Binned(edges=(0, 2, 4, 8)), 0.2 * 1 + 0.3 * 3 + 0.5 * 6),
        (Binned(edges=(0, 2, 4, 8), values=(0, 2, 4)), 0.3 * 2 + 0.5 * 4),
    ],
)
def test_expectations_are_means_of_what_classes_stand_for(target: AnyTarget, expected: Any) -> None:
    probabilities = target.probabilities(np.log([0.2, 0.3, 0.5]))
    np.testing.assert_allclose(probabilities, [0.2, 0.3, 0.5])
    np.testing.assert_allclose(target.expectation(probabilities), expected)
    assert Bernoulli().expectation([[0.2, 0.8]]).tolist() == [0.8]
    assert target.probabilities(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    "target", [NAMES, Bernoulli(), Binned(edges=(0, 1, 2)), RewardCost(grid=JointGrid.paper(0, num_length_bins=2))]
)
def test_a_target_is_data(target: AnyTarget) -> None:
    assert Holds(**Holds(target=target).model_dump(mode="json")).target == target


@pytest.mark.parametrize(
    ("target", "outcomes", "message"),
    [
        (NAMES, ["declines"], "an outcome is 'declines'; expected one of answers, refuses, asks back, or None"),
        (Bernoulli(), [0.5], "an outcome is 0.5; expected true or false"),
        (Bernoulli(), ["yes"], "outcomes are not numbers"),
        (Binned(edges=(0, 1)), [[0.5], [1, 2]], "outcomes are not numbers"),
        (RewardCost(grid=JointGrid.paper(0)), [1.0, 2.0, 3.0], r"shape \(3,\); expected \(..., 2\)"),
    ],
)
def test_outcomes_that_cannot_be_are_refused(target: AnyTarget, outcomes: Any, message: str) -> None:
    with pytest.raises(TrainingDataError, match=message):
        target.labels(outcomes)


def test_malformed_targets_are_refused() -> None:
    for make, message in (
        (lambda: Categorical(names=("a",)), "names"),
        (lambda: Categorical(names=("a", "a")), "a name is given twice"),
        (lambda: Binned(edges=(1.0, 1.0)), "edges do not rise"),
        (lambda: Binned(edges=(0.0, math.inf)), "edges"),
        (lambda: Binned(edges=(0.0, 1.0), values=(1.0, 2.0)), "there are 2 values; expected one a bin, 1"),
        (lambda: Binned(edges=(1.6e308, 1.7e308)), "overflows"),
    ):
        with pytest.raises(HeadError, match=message):
            make()
    with pytest.raises(GridError):
        RewardCost(grid={"reward_edges": [1, 0], "length_edges": [0, 1]})
    with pytest.raises(HeadError, match=r"logits of shape \(3,\); expected a last axis of the 2 classes"):
        Bernoulli().probabilities(np.zeros(3))
    with pytest.raises(NonFiniteLogitsError, match="a logit is NaN"):
        Bernoulli().probabilities([0.0, np.nan])
