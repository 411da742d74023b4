"""What a head computes, against loops, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.errors import HeadError
from zip_introspect.heads.head import Head
from zip_introspect.heads.network import Input
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.heads import random_head

GRID = JointGrid.paper(0, num_reward_bins=2, num_length_bins=2)


@given(
    st.integers(1, 5),
    st.sampled_from([("last",), ("mean",), ("last", "mean"), ("mean", "last")]),
    st.integers(0, 3),
    st.integers(0, 1_000),
)
def test_logits_are_those_of_loops(size: int, inputs: tuple[Input, ...], hidden: int, seed: int) -> None:
    head = random_head(size, inputs, hidden)
    last, mean = np.random.default_rng(seed).normal(size=(2, 3, size)).astype(np.float32)
    found = head.logits(last, mean)
    assert found.shape == (3, 12)
    assert found.dtype == np.float32
    for row in range(3):
        x = [number for name in inputs for number in (last if name == "last" else mean)[row].tolist()]
        for place, (weight, bias) in enumerate(head.layers):
            x = [number / (1 + math.exp(-number)) for number in x] if place else x
            x = [
                float(bias[out]) + sum(a * float(b) for a, b in zip(x, weight[out], strict=True))
                for out in range(len(bias))
            ]
        np.testing.assert_allclose(found[row], x, rtol=1e-4, atol=1e-5)


def test_far_states_neither_overflow_nor_warn() -> None:
    head = random_head(4, ("last",), 3)
    with np.errstate(all="raise"):
        assert np.isfinite(head.logits(np.full((1, 4), -1e4, np.float32), np.zeros((1, 4)))).all()


def test_a_head_knows_its_kind_and_its_weights() -> None:
    assert (random_head(4).kind, random_head(4, hidden=3).kind) == ("linear", "mlp")
    head = random_head(4, hidden=3)
    again = Head(head.about, head.weights)
    np.testing.assert_array_equal(again.logits(np.ones(4), np.ones(4)), head.logits(np.ones(4), np.ones(4)))
    assert again.grid == head.grid
    assert again.grid.reserved_token_ids == ()
    with pytest.raises(HeadError, match=r"reads hidden states of 4 numbers, and the model's have 5"):
        head.check_fits(5)


def weights(**changed: Any) -> dict[str, Any]:
    return {"0.weight": np.zeros((4, 3)), "0.bias": np.zeros(4), **changed}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"0.bias": np.full(4, np.nan)}, "layer 0 of the head holds NaN"),
        ({"0.weight": np.zeros((4, 2))}, r"weights of shape \(4, 2\).*expected \(out, 3\)"),
        ({"0.weight": np.zeros((5, 3)), "0.bias": np.zeros(5)}, "gives 5 logits, and its grid has 4 cells"),
        ({"0.bias": np.zeros(3)}, r"biases of shape \(3,\)"),
        ({"1.weight": np.zeros((4, 4))}, "expected 0.weight and 0.bias"),
        ({f"{place}.{name}": np.zeros(4) for place in (1, 2) for name in ("weight", "bias")}, "expected 0.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        Head.of(GRID, weights(**changed), hidden_size=3, inputs=("last",))


def test_inputs_are_named_once() -> None:
    with pytest.raises(HeadError, match="expected each once"):
        Head.of(GRID, weights(), hidden_size=3, inputs=("last", "last"))
    with pytest.raises(HeadError, match="inputs"):
        Head.of(GRID, weights(), hidden_size=3, inputs=())
