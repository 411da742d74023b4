"""Cost of pass against asking until the answer is right, and ladders against every pair of stored samples."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.stored import simulated
from zip_introspect.errors import ConfigError
from zip_introspect.evaluation.measures.cost_of_pass import (
    Tariff,
    by_size,
    cost_of_pass,
    cost_of_pass_each,
    ladder,
    one_sample,
)

QUESTIONS = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.01, 1e9)), min_size=2, max_size=12)


@given(st.floats(0.05, 1.0), st.floats(0.01, 1e9))
def test_it_is_what_asking_until_the_answer_is_right_costs(share: float, price: float) -> None:
    attempts = np.arange(1, 2_000)
    expected = float((attempts * price * share * (1 - share) ** (attempts - 1)).sum())
    assert cost_of_pass([share] * 3, [price] * 3).value == pytest.approx(expected)
    assert cost_of_pass_each([share, 0.0], [price, price]).tolist() == [pytest.approx(expected), np.inf]


@given(QUESTIONS, st.floats(1e-9, 1e9))
def test_it_scales_with_prices_and_lies_in_its_interval(questions: list[tuple[float, float]], scale: float) -> None:
    right, paid = np.array(questions).T
    found, scaled = cost_of_pass(right, paid), cost_of_pass(right, paid * scale)
    assert found.low <= found.high
    if right.sum() > 1e-6:
        assert found.value == pytest.approx(paid.mean() / right.mean(), rel=1e-6)
        assert scaled.value == pytest.approx(found.value * scale, rel=1e-6)
    if not right.any():
        assert (found.value, found.low, found.high) == (np.inf, np.inf, np.inf)


def test_where_a_draw_may_hold_no_right_answer_there_is_no_upper_end() -> None:
    found = cost_of_pass([1.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert found.value == pytest.approx(3.0)
    assert found.high == np.inf


def test_tokens_that_are_read_have_a_price_of_their_own() -> None:
    assert Tariff("money", 3.0, 0.5).paid([10.0], [4.0]).tolist() == [4 * 3.0 + 6 * 0.5]
    _, rollouts = simulated(questions=2)
    sized = replace(rollouts, parameters=7)
    assert by_size(sized)[0].paid([10.0], [4.0]).tolist() == [2 * 7 * 10.0]
    assert [item.unit for item in by_size(sized, replace(rollouts, parameters=9))] == ["FLOPs", "FLOPs"]
    assert [item.unit for item in by_size(sized, replace(rollouts, parameters=None))] == ["tokens", "tokens"]


@pytest.mark.parametrize("prices", [(0.0, 0.0), (-1.0, 0.0), (1.0, -0.5), (float("nan"), 0.0), (1.0, float("inf"))])
def test_prices_that_are_none_are_refused(prices: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="a token's price is"):
        Tariff("money", *prices)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.6, 1.1])
def test_a_ladder_is_the_mean_over_all_pairs_of_samples(threshold: float) -> None:
    _, first = simulated(questions=6, samples=4, seed=1)
    _, stronger = simulated(questions=6, samples=3, seed=2)
    cheap, dear = Tariff("money", 1.0, 0.1), Tariff("money", 5.0, 0.2)
    found = ladder(first, stronger, cheap, dear, threshold)
    for place, (ours, theirs) in enumerate(zip(first.problems, stronger.problems, strict=True)):
        rows = []
        for low, high in itertools.product(ours.rollouts, theirs.rollouts):
            paid = len(low.tokens) * 1.0 + len(ours.prompt_tokens) * 0.1
            leaves = first.final_value(low) < threshold
            if leaves:
                paid += len(high.tokens) * 5.0 + len(theirs.prompt_tokens) * 0.2
            rows.append(((high if leaves else low).right, paid, leaves))
        expected = np.mean(np.array(rows, dtype=float), axis=0)
        assert [found.right[place], found.paid[place], found.handed_on[place]] == pytest.approx(expected.tolist())
    if threshold == 0.0:
        assert found.paid.tolist() == pytest.approx(one_sample(first, cheap).paid.tolist())
