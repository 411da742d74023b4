"""E[max] against enumeration of every outcome, and against sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.errors import GridError
from zip_introspect.introspection.order_statistics import expected_max


def enumerate_max(pmfs: np.ndarray, values: np.ndarray, floor: float = -math.inf) -> float:
    total = 0.0
    for outcome in itertools.product(range(pmfs.shape[1]), repeat=pmfs.shape[0]):
        probability = math.prod(pmfs[i, b] for i, b in enumerate(outcome))
        total += probability * max([floor, *(values[b] for b in outcome)])
    return total


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.none() | st.floats(-2, 2))
def test_matches_every_outcome(seed: int, n: int, bins: int, floor: float | None) -> None:
    rng = np.random.default_rng(seed)
    pmfs, values = rng.dirichlet(np.full(bins, 0.4), size=n), np.sort(rng.normal(size=bins))
    expected = enumerate_max(pmfs, values, -math.inf if floor is None else floor)
    assert expected_max(pmfs, values, floor) == pytest.approx(expected, abs=1e-12)


def test_matches_sampling() -> None:
    rng = np.random.default_rng(3)
    pmfs, values = rng.dirichlet(np.full(8, 0.5), size=6), np.linspace(0, 1, 8)
    draws = np.stack([rng.choice(values, size=40_000, p=pmf) for pmf in pmfs]).max(axis=0)
    error = draws.std() / math.sqrt(draws.size)
    assert abs(expected_max(pmfs, values) - draws.mean()) < 5 * error


def test_one_variable_gives_its_mean_and_certainty_its_value() -> None:
    pmf = np.array([[0.2, 0.3, 0.5]])
    assert expected_max(pmf, [1, 2, 4]) == pytest.approx(0.2 + 0.6 + 2.0)
    assert expected_max([[0, 1, 0], [1, 0, 0]], [1, 2, 4]) == 2


@pytest.mark.parametrize(
    ("pmfs", "values", "message"),
    [
        ([0.5, 0.5], [0, 1], r"expected \(n, B\) and \(B,\)"),
        ([[0.5, 0.5]], [0, 1, 2], r"expected \(n, B\) and \(B,\)"),
        (np.zeros((0, 2)), [0, 1], "n >= 1"),
        ([[0.5, 0.5]], [1, 0], "expected rising values"),
    ],
)
def test_refuses_other_shapes(pmfs: np.ndarray, values: list[float], message: str) -> None:
    with pytest.raises(GridError, match=message):
        expected_max(pmfs, values)
