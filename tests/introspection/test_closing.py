"""What thinking on is worth, against enumeration of every end and every horizon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zip_introspect.errors import GridError
from zip_introspect.introspection.closing import gain_of_thinking_on
from zip_introspect.introspection.grid import JointGrid

GRID = JointGrid(
    reward_edges=[0.0, 0.25, 0.75, 1.0],
    reward_values=[0.0, 0.5, 1.0],
    length_edges=[0.0, 2.0, 5.0, 9.0, 20.0],
    length_values=[1.0, 3.0, 7.0, 12.0],
    first_reserved=0,
)
CELLS = GRID.num_cells


def joints(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    going, closed = rng.dirichlet(np.full(CELLS, 0.3), 2).reshape(2, *GRID.shape)
    return going, closed


def enumerated(
    going: np.ndarray, closed: np.ndarray, alpha: float, price: float, closing: int, best: float, limit: int
) -> float:
    """Sum over every end of the sample, and of the closed one, at every horizon."""
    cells = [
        (b, length, float(GRID.reward_values[b]), float(GRID.length_values[length]))
        for b in range(GRID.num_reward_bins)
        for length in range(GRID.num_length_bins)
    ]
    cost = alpha * closing + (1 - alpha) * 1.0
    now = sum(closed[b, i] * (max(reward, best) - price * (cost + tokens)) for b, i, reward, tokens in cells)
    gains = []
    for horizon in GRID.length_values.tolist():
        if horizon > limit:
            continue
        on = 0.0
        for b, i, reward, tokens in cells:
            ended = tokens <= horizon
            on += going[b, i] * (max(reward, best) - price * tokens if ended else now - price * horizon)
        gains.append(on - now)
    return max(gains, default=-math.inf)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.floats(0, 1),
    price=st.floats(0, 0.2),
    closing=st.integers(1, 20),
    best=st.sampled_from([0.0, 0.5, 1.0]),
    limit=st.integers(0, 30),
)
def test_it_is_the_best_horizon_of_all(
    seed: int, alpha: float, price: float, closing: int, best: float, limit: int
) -> None:
    going, closed = joints(seed)
    found = gain_of_thinking_on(
        going, closed, GRID, alpha=alpha, price=price, closing=closing, best=best or None, limit=limit
    )
    assert found == pytest.approx(enumerated(going, closed, alpha, price, closing, best, limit), abs=1e-9)


def test_where_an_answer_now_is_as_good_nothing_is_gained() -> None:
    """The same rewards either way, sooner and at a price: closing is right; at no price it is all one."""
    going, closed = np.zeros((2, *GRID.shape))
    going[:, 3], closed[:, 0] = [0.5, 0.0, 0.5], [0.5, 0.0, 0.5]
    assert gain_of_thinking_on(going, closed, GRID, alpha=1.0, price=0.01, closing=1) < 0.0
    assert gain_of_thinking_on(going, closed, GRID, alpha=1.0, price=0.0, closing=1) == pytest.approx(0.0, abs=1e-12)


def test_joints_of_another_grid_are_refused() -> None:
    going, _ = joints(0)
    with pytest.raises(GridError):
        gain_of_thinking_on(going, going[:, :2], GRID, alpha=1.0, price=0.0, closing=1)
