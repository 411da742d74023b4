"""The sampling utility against enumeration, sampling, and trying every horizon."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zip_introspect.errors import ConfigError, GridError
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.utility import (
    SamplingUtility,
    _statistics_matrix,
    capped_statistics,
    normalized_beta,
    per_prefix_horizons,
    sampling_utility,
)

GRID = JointGrid(reward_edges=[0, 0.3, 0.8, 1], length_edges=[0, 4, 8, 32], first_reserved=0)
WEIGHTS = {"alpha": st.floats(0, 1), "beta": st.sampled_from([0.0, 1e-3, 0.01, 0.05, 0.3])}
FINISHED = st.lists(st.floats(0, 1), max_size=3)
SEEDS = st.integers(0, 10**6)


def random_joints(seed: int, n: int, grid: JointGrid = GRID) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(grid.num_cells, 0.3), size=n).reshape(n, *grid.shape)


def by_enumeration(
    joints: np.ndarray, alpha: float, beta: float, finished: list[float], horizons: list[int]
) -> tuple[float, float, float, float]:
    """Every joint outcome of the prefixes, each dropped at its horizon: its reward then is the lowest bin's."""
    rewards, lengths = GRID.reward_values, GRID.length_values
    cells = list(itertools.product(range(3), range(3)))
    reward = compute = latency = 0.0
    for outcome in itertools.product(cells, repeat=len(joints)):
        probability = math.prod(p[cell] for p, cell in zip(joints, outcome, strict=True))
        got = [
            (rewards[b], lengths[t]) if t <= h else (rewards[0], lengths[h])
            for (b, t), h in zip(outcome, horizons, strict=True)
        ]
        reward += probability * max([*finished, *(value for value, _ in got)])
        compute += probability * sum(length for _, length in got)
        latency += probability * max(length for _, length in got)
    return reward - beta * (alpha * compute + (1 - alpha) * latency), reward, compute, latency


def parts(utility: SamplingUtility) -> tuple[float, float, float, float]:
    return utility.value, utility.expected_reward, utility.expected_compute, utility.expected_latency


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 2), WEIGHTS["alpha"], WEIGHTS["beta"], FINISHED, st.data())
def test_matches_every_outcome(
    seed: int, n: int, alpha: float, beta: float, finished: list[float], data: st.DataObject
) -> None:
    joints = random_joints(seed, n)
    horizons = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    expected = by_enumeration(joints, alpha, beta, finished, horizons)
    assert parts(sampling_utility(joints, GRID, alpha, beta, finished, horizons)) == pytest.approx(expected)
    shared = by_enumeration(joints, alpha, beta, finished, [horizons[0]] * n)
    assert parts(sampling_utility(joints, GRID, alpha, beta, finished, horizons[0])) == pytest.approx(shared)


def test_matches_sampling() -> None:
    rng = np.random.default_rng(5)
    grid = JointGrid.paper(0)
    joints = random_joints(7, 5, grid)
    cells = np.stack([rng.choice(64, size=40_000, p=p.ravel()) for p in joints])
    b, t = np.divmod(cells, 8)
    horizon = 5
    rewards = np.where(t <= horizon, grid.reward_values[b], grid.reward_values[0])
    lengths = grid.length_values[np.minimum(t, horizon)]
    best, compute, latency = np.maximum(rewards.max(axis=0), 0.4), lengths.sum(axis=0), lengths.max(axis=0)
    found = sampling_utility(joints, grid, 0.1, 1e-5, (0.1, 0.4), horizon)
    measured = best - 1e-5 * (0.1 * compute + 0.9 * latency)
    for value, draws in zip(parts(found), (measured, best, compute, latency), strict=True):
        assert abs(value - draws.mean()) < 5 * draws.std() / math.sqrt(draws.size)


@given(SEEDS, st.integers(1, 5), WEIGHTS["alpha"], WEIGHTS["beta"], FINISHED)
def test_best_horizon_is_the_best_of_all_and_no_worse_than_no_cap(
    seed: int, n: int, alpha: float, beta: float, finished: list[float]
) -> None:
    joints = random_joints(seed, n)
    best = sampling_utility(joints, GRID, alpha, beta, finished)
    tried = [sampling_utility(joints, GRID, alpha, beta, finished, h) for h in range(3)]
    assert isinstance(best.horizon, int)
    assert parts(best) == pytest.approx(parts(tried[best.horizon]), abs=1e-12)
    assert best.value == pytest.approx(max(utility.value for utility in tried), abs=1e-12)
    assert all(tried[h].value < best.value - 1e-13 for h in range(best.horizon))  # the shortest of equals
    assert best.value >= tried[-1].value - 1e-12  # eq. 18


@given(SEEDS, st.integers(1, 4), WEIGHTS["alpha"], WEIGHTS["beta"], st.integers(0, 2))
def test_agrees_with_the_capped_joint(seed: int, n: int, alpha: float, beta: float, horizon: int) -> None:
    joints = random_joints(seed, n)
    capped = sampling_utility(joint.cap(joints, horizon), GRID, alpha, beta, horizon=2)
    direct = sampling_utility(joints, GRID, alpha, beta, horizon=horizon)
    assert parts(direct) == pytest.approx(parts(capped))


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 4), WEIGHTS["alpha"], WEIGHTS["beta"], FINISHED)
def test_per_prefix_horizons_lie_between_shared_and_brute_force(
    seed: int, n: int, alpha: float, beta: float, finished: list[float]
) -> None:
    joints = random_joints(seed, n)
    shared = sampling_utility(joints, GRID, alpha, beta, finished)
    found = per_prefix_horizons(joints, GRID, alpha, beta, finished)
    every = [
        sampling_utility(joints, GRID, alpha, beta, finished, horizons).value
        for horizons in itertools.product(range(3), repeat=n)
    ]
    assert shared.value - 1e-12 <= found.value <= max(every) + 1e-12
    assert isinstance(found.horizon, tuple)
    assert found == sampling_utility(joints, GRID, alpha, beta, finished, found.horizon)
    for i, h in itertools.product(range(n), range(3)):  # no single horizon can be bettered
        other = [*found.horizon[:i], h, *found.horizon[i + 1 :]]
        assert sampling_utility(joints, GRID, alpha, beta, finished, other).value <= found.value + 1e-11


def test_per_prefix_horizons_beat_a_shared_one_where_they_should() -> None:
    sure = np.zeros((3, 3))
    sure[2, 1] = 1.0
    slow = np.zeros((3, 3))
    slow[2, 0], slow[0, 2] = 0.4, 0.6
    joints = np.stack([sure, slow])
    shared = sampling_utility(joints, GRID, 1.0, 0.01)
    assert per_prefix_horizons(joints, GRID, 1.0, 0.01).value > shared.value + 0.01


def test_grids_of_one_bin_on_an_axis() -> None:
    for edges in (
        {"reward_edges": [0, 1], "length_edges": [0, 4, 8]},
        {"reward_edges": [0, 0.5, 1], "length_edges": [0, 4]},
    ):
        grid = JointGrid(**edges, first_reserved=0)
        uniform = np.full((3, *grid.shape), 1 / grid.num_cells)
        utility = sampling_utility(uniform, grid, 0.1, 0.001)
        assert utility.value == pytest.approx(sampling_utility(uniform, grid, 0.1, 0.001, (), utility.horizon).value)
        assert np.isfinite(utility.value)


def test_grids_that_differ_in_their_rewards_alone_share_their_statistics() -> None:
    joints = random_joints(3, 2)
    before = capped_statistics(joints, GRID)
    made = _statistics_matrix.cache_info().misses
    for lowest in (0.01, 0.02, 0.03):
        other = JointGrid(**GRID.model_dump(exclude={"reward_values"}), reward_values=[lowest, 0.55, 0.9])
        np.testing.assert_array_equal(capped_statistics(joints, other).cdfs, before.cdfs)
    assert _statistics_matrix.cache_info().misses == made
    longer = JointGrid(**GRID.model_dump(exclude={"length_values"}), length_values=[2, 6, 30])
    assert capped_statistics(joints, longer).lengths[0, -1] > before.lengths[0, -1]


def test_finished_values_need_not_lie_on_a_bin() -> None:
    p = np.zeros((1, 3, 3))
    p[0, 2, 0] = p[0, 0, 0] = 0.5
    utility = sampling_utility(p, GRID, 0.1, 0.0, (0.2, 0.61))
    assert utility.expected_reward == pytest.approx(0.5 * 0.9 + 0.5 * 0.61)


def test_nothing_to_run_is_worth_the_best_finished_or_the_lowest_reward() -> None:
    none = np.zeros((0, 3, 3))
    assert sampling_utility(none, GRID, 0.1, 1.0, (0.2, 0.7)).value == 0.7
    assert sampling_utility(none, GRID, 0.1, 1.0).value == GRID.reward_values[0]
    assert per_prefix_horizons(none, GRID, 0.1, 1.0, (0.7,)).horizon == ()


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(1, 1e4)), min_size=1, max_size=6), st.floats(0, 5))
def test_normalized_beta_is_eq_28(rows: list[tuple[float, float]], beta: float) -> None:
    lengths, remaining = zip(*rows, strict=True)
    total = sum(length + rest for length, rest in rows)
    assert normalized_beta(beta, lengths, remaining) == pytest.approx(beta * len(rows) / total)


def test_normalized_beta_refuses_no_prefixes_and_bears_no_length() -> None:
    with pytest.raises(ConfigError, match="expected one or more"):
        normalized_beta(1.0, [], [])
    with pytest.raises(ConfigError, match="none negative"):
        normalized_beta(1.0, [-5], [1])
    assert normalized_beta(1.0, [0], [0]) == 1.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"alpha": 1.5}, ConfigError, "alpha is 1.5"),
        ({"alpha": math.nan}, ConfigError, "alpha is nan"),
        ({"beta": -1.0}, ConfigError, "beta is -1.0"),
        ({"beta": math.inf}, ConfigError, "beta is inf"),
        ({"finished_values": (0.4, math.nan)}, ConfigError, "expected finite numbers"),
        ({"horizon": 3}, GridError, r"expected 0\.\.2"),
        ({"horizon": -1}, GridError, r"expected 0\.\.2"),
        ({"horizon": 1.5}, GridError, "expected whole numbers"),
        ({"horizon": (1, 1, 1)}, GridError, "3 horizons for 2 prefixes"),
        ({"joints": np.zeros((2, 3, 4))}, GridError, r"expected \(\.\.\., 3, 3\)"),
        ({"joints": np.zeros((3, 3))}, GridError, r"expected \(n, 3, 3\)"),
    ],
)
def test_refuses_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given_ = {"joints": random_joints(0, 2), "grid": GRID, "alpha": 0.1, "beta": 0.1, **change}
    with pytest.raises(error, match=message):
        sampling_utility(**given_)
