"""What a question will take at a price, against optimal stopping worked out by induction."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.introspection.demand import PRICES, clearing_price, demand
from zip_introspect.introspection.grid import JointGrid

GRID = JointGrid(reward_edges=[0.0, 0.25, 0.5, 0.75, 1.0], length_edges=[0, 8, 32, 128])
ONE_LENGTH = JointGrid(reward_edges=[0.0, 0.25, 0.5, 0.75, 1.0], length_edges=[0, 20])
joints = st.lists(st.floats(0.01, 1.0), min_size=12, max_size=12).map(lambda w: np.array(w).reshape(4, 3) / sum(w))


def drawn(chances: np.ndarray, values: np.ndarray, price: float, draws: int, best: float) -> float:
    """Draws that optimal stopping takes on average, by induction from the last one."""

    @cache
    def worth(left: int, held: float) -> tuple[float, float]:
        if not left:
            return held, 0.0
        nexts = [worth(left - 1, max(held, value)) for value in values.tolist()]
        goes_on = sum(p * w for p, (w, _) in zip(chances.tolist(), nexts, strict=True)) - price
        if goes_on <= held + 1e-12:
            return held, 0.0
        return goes_on, 1.0 + sum(p * n for p, (_, n) in zip(chances.tolist(), nexts, strict=True))

    return worth(draws, best)[1]


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    draws=st.integers(1, 6),
    finished=st.lists(st.floats(0.0, 1.0), max_size=1),
    own=st.sampled_from([0.0, 1e-3]),
)
def test_draws_are_those_of_optimal_stopping(
    weights: list[float], draws: int, finished: list[float], own: float
) -> None:
    chances = np.array(weights) / sum(weights)
    found = demand(chances[:, None], ONE_LENGTH, draws, finished_values=finished, own_price=own)
    values, length = np.asarray(ONE_LENGTH.reward_values), float(ONE_LENGTH.length_values[0])
    for place in range(0, len(PRICES), 7):
        price = float(PRICES[place] + (own if finished else 0.0)) * length
        best = max([*finished, float(values[0])])
        gains = np.maximum(values[:, None] - np.append(values, best)[None], 0.0).T @ chances
        if np.abs(gains - price).min() < 1e-9:  # a draw that is worth just its price may be taken or not
            continue
        expected = drawn(chances, values, price, draws, best) * length
        assert found[place] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(root=joints, running=st.lists(joints, max_size=3), draws=st.integers(0, 8), finished=st.lists(st.floats(0, 1)))
def test_demand_falls_with_the_price_to_nothing(
    root: np.ndarray, running: list[np.ndarray], draws: int, finished: list[float]
) -> None:
    found = demand(root, GRID, draws, running=running, finished_values=finished)
    assert found.shape == PRICES.shape
    assert (np.diff(found) <= 0.0).all()
    assert found[-1] == 0.0
    assert found[0] <= (draws + len(running)) * GRID.length_values[-1] + 1e-9


@given(curves=st.lists(joints, min_size=1, max_size=5), left=st.floats(0.0, 3000.0), more=st.floats(0.0, 500.0))
def test_the_price_is_where_demand_meets_what_is_left_and_falls_with_it(
    curves: list[np.ndarray], left: float, more: float
) -> None:
    wanted = np.sum([demand(root, GRID, 4) for root in curves], axis=0)
    price = clearing_price(wanted, left)
    assert clearing_price(wanted, left + more) <= price
    if wanted[0] <= left:
        assert price == 0.0
    else:
        above = price + 1e-12 <= PRICES
        assert (wanted[above] <= left + 1e-9).all()
        assert price == pytest.approx(PRICES[-1]) or (wanted[price * 0.8 > PRICES] > left).all()


def test_an_easy_question_is_drawn_from_and_a_hopeless_one_left() -> None:
    easy, hopeless = np.zeros((4, 3)), np.zeros((4, 3))
    easy[3, 0], hopeless[0, 2] = 1.0, 1.0
    wanted = demand(easy, GRID, 8)
    assert wanted[0] == pytest.approx(GRID.length_values[0])  # the first is as good as it gets
    assert demand(hopeless, GRID, 8)[1:].max() == 0.0
