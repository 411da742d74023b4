"""The joint against its definitions, written out as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zip_introspect.errors import ConfigError, GridError, NonFiniteLogitsError
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid

GRID = JointGrid(reward_edges=[0, 0.2, 0.7, 1], length_edges=[0, 4, 8, 16, 32], first_reserved=5)
LOGITS = arrays(np.float64, (12,), elements=st.floats(-40, 40))


def random_joints(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(12, 0.5), size=shape).reshape(*shape, 3, 4)


@given(LOGITS)
def test_from_logits_is_the_softmax_in_token_order(logits: np.ndarray) -> None:
    found = joint.from_logits(logits, GRID)
    total = sum(np.exp(value) for value in logits)
    for b in range(3):
        for length in range(4):
            assert found[b, length] == pytest.approx(np.exp(logits[b * 4 + length]) / total, rel=1e-9)


@given(LOGITS, st.floats(-1e30, 1e30))
def test_from_logits_reads_reserved_ids_of_a_whole_vocabulary(logits: np.ndarray, other: float) -> None:
    vocabulary = np.full((2, 40), other)
    vocabulary[:, 5:17] = logits
    assert (joint.from_logits(vocabulary, GRID) == joint.from_logits(logits, GRID)).all()


@pytest.mark.parametrize("scale", [1e4, 1e38, 1e300])
def test_from_logits_survives_extremes(scale: float) -> None:
    logits = np.linspace(-scale, scale, 12)
    found = joint.from_logits(logits, GRID)
    assert found.sum() == pytest.approx(1)
    assert found[2, 3] == pytest.approx(1)


def test_from_logits_takes_float16_and_float32() -> None:
    for dtype in (np.float16, np.float32):
        found = joint.from_logits(np.full((2, 12), 1e4, dtype=dtype), GRID)
        assert found.dtype == np.float64
        assert found == pytest.approx(np.full((2, 3, 4), 1 / 12))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_from_logits_refuses_non_finite(bad: float) -> None:
    logits = np.zeros((3, 12))
    logits[1, 4] = bad
    with pytest.raises(NonFiniteLogitsError, match="1 of 36 joint logits are NaN or infinite"):
        joint.from_logits(logits, GRID)


@pytest.mark.parametrize("shape", [(), (11,), (16,), (2, 3)])
def test_from_logits_refuses_other_widths(shape: tuple[int, ...]) -> None:
    with pytest.raises(GridError, match=r"expected a last axis of the grid's 12 cells, or of a vocabulary"):
        joint.from_logits(np.zeros(shape), GRID)


@given(st.integers(0, 10**6))
def test_marginals_and_expectations_match_loops(seed: int) -> None:
    joints = random_joints(seed, 2)
    for p, q_value, q_length, value, length in zip(
        joints,
        joint.value_marginal(joints),
        joint.length_marginal(joints),
        joint.expected_value(joints, GRID),
        joint.expected_length(joints, GRID),
        strict=True,
    ):
        cells = [(b, t, p[b, t]) for b in range(3) for t in range(4)]
        for b in range(3):
            assert q_value[b] == pytest.approx(sum(mass for i, _, mass in cells if i == b))
        for t in range(4):
            assert q_length[t] == pytest.approx(sum(mass for _, i, mass in cells if i == t))
        assert value == pytest.approx(sum(GRID.reward_values[b] * mass for b, _, mass in cells))
        assert length == pytest.approx(sum(GRID.length_values[t] * mass for _, t, mass in cells))


def cap_by_loops(p: np.ndarray, horizon: int) -> np.ndarray:
    capped = np.zeros_like(p)
    for b in range(p.shape[0]):
        for t in range(p.shape[1]):
            if t <= horizon:
                capped[b, t] += p[b, t]
            else:
                capped[0, horizon] += p[b, t]
    return capped


@given(st.integers(0, 10**6), st.integers(0, 3))
def test_cap_matches_its_definition(seed: int, horizon: int) -> None:
    p = random_joints(seed)
    capped = joint.cap(p, horizon)
    assert capped == pytest.approx(cap_by_loops(p, horizon), abs=1e-15)
    assert capped.sum() == pytest.approx(1)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_cap_takes_a_horizon_for_each(seed: int, horizons: list[int]) -> None:
    joints = random_joints(seed, 3)
    for p, h, capped in zip(joints, horizons, joint.cap(joints, horizons), strict=True):
        assert capped == pytest.approx(cap_by_loops(p, h), abs=1e-15)


def test_cap_at_the_last_bin_changes_nothing_and_leaves_its_input_alone() -> None:
    p = random_joints(1)
    before = p.copy()
    assert (joint.cap(p, 3) == p).all()
    joint.cap(p, 0)
    assert (p == before).all()


@pytest.mark.parametrize("horizon", [-1, 4, 1.5])
def test_cap_refuses_other_bins(horizon: int) -> None:
    with pytest.raises(GridError, match=r"is not a length bin; expected whole numbers 0\.\.3"):
        joint.cap(random_joints(0), horizon)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 8))
def test_smooth_is_the_mean_of_the_end_of_one_path(seed: int, count: int, window: int) -> None:
    joints = random_joints(seed, count)
    used = [joints[i] for i in range(count) if i >= count - window]
    assert joint.smooth(joints, window) == pytest.approx(sum(used) / len(used))


def test_smooth_of_one_path_ignores_its_sibling() -> None:
    shared, left, right = random_joints(0, 3), random_joints(1, 2), random_joints(2, 2)
    path = np.concatenate([shared, left])
    expected = (shared[-1] + left[0] + left[1]) / 3
    assert joint.smooth(path, 3) == pytest.approx(expected)
    assert not np.allclose(joint.smooth(np.concatenate([shared, right]), 3), expected)


def test_smooth_refuses_no_joints_and_no_window() -> None:
    with pytest.raises(ConfigError, match="window is 0"):
        joint.smooth(random_joints(0, 2), 0)
    with pytest.raises(GridError, match="one joint or more"):
        joint.smooth(np.zeros((0, 3, 4)), 1)


def test_a_joint_of_another_grid_is_refused() -> None:
    with pytest.raises(GridError, match=r"shape \(4, 3\); expected \(\.\.\., 3, 4\)"):
        joint.expected_value(np.zeros((4, 3)), GRID)
