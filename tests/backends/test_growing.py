"""Layers with spare room behave as those of transformers that they stand in for, whatever is done to them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from zip_introspect_transformers.cache.growing import GrowingLayer, GrowingSlidingWindowLayer, with_spare_room

actions = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.integers(1, 5)),
        st.tuples(st.just("run"), st.integers(60, 140)),
        st.tuples(st.just("reorder"), st.lists(st.integers(0, 1), min_size=2, max_size=2)),
        st.tuples(st.just("fork"), st.lists(st.integers(0, 1), min_size=2, max_size=2)),
    ),
    min_size=1,
    max_size=8,
)


@given(st.sampled_from([None, 4, 80]), actions, st.integers(0, 99))
def test_growing_layers_are_transparent(window: int | None, steps: list[tuple[str, Any]], seed: int) -> None:
    plain: Any = DynamicLayer() if window is None else DynamicSlidingWindowLayer(window)
    growing: Any = GrowingLayer() if window is None else GrowingSlidingWindowLayer(window)  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(seed)
    forks: list[tuple[torch.Tensor, torch.Tensor]] = []
    for action, argument in [("update", 3), *steps]:
        if action in ("update", "run"):
            times, columns = (1, argument) if action == "update" else (argument, 1)
            for _ in range(times):
                keys = torch.randn(2, 3, columns, 4, generator=generator)
                values = torch.randn(2, 3, columns, 5, generator=generator)
                for mine, theirs in zip(growing.update(keys, values), plain.update(keys, values), strict=True):
                    assert torch.equal(mine, theirs)
        else:
            index = torch.tensor(argument)
            if action == "fork":
                twin = copy.copy(growing)
                twin.reorder_cache(index)
                twin.update(torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 1, 5))
                forks.append((twin.keys, twin.keys.clone()))
            else:
                growing.reorder_cache(index)
                plain.reorder_cache(index)
        assert torch.equal(growing.keys, plain.keys)
        assert torch.equal(growing.values, plain.values)
        assert growing.get_seq_length() == plain.get_seq_length()
        assert growing.get_mask_sizes(1) == plain.get_mask_sizes(1)
    for kept, expected in forks:
        assert torch.equal(kept, expected)


def test_a_step_copies_nothing_while_there_is_room() -> None:
    layer: Any = GrowingLayer()  # type: ignore[no-untyped-call]
    layer.update(torch.randn(2, 3, 10, 4), torch.randn(2, 3, 10, 4))
    layer.update(torch.randn(2, 3, 1, 4), torch.randn(2, 3, 1, 4))
    before = layer.keys.data_ptr()
    for _ in range(20):
        layer.update(torch.randn(2, 3, 1, 4), torch.randn(2, 3, 1, 4))
    assert layer.keys.data_ptr() == before


@pytest.mark.parametrize("layer", [DynamicLayer(), DynamicSlidingWindowLayer(7)])
def test_twins_take_over_the_window(layer: DynamicLayer) -> None:
    twin = with_spare_room(layer)
    assert isinstance(twin, type(layer))
    assert twin.get_max_length() == layer.get_max_length()
