"""Batched model states: copying, selecting, joining and measuring them, whatever the kind of cache.

Rows are right-aligned: row i of a state of width T fills columns T - lengths[i] to T - 1. Selecting is the cache's
own `reorder_cache`, which every kind of layer has; joining feeds the padded states to the `update*` methods of a
fresh cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import LongTensor, Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from zip_introspect_transformers.cache.growing import GrowingLayer, GrowingSlidingWindowLayer, with_spare_room

_PADDABLE = {DynamicLayer, DynamicSlidingWindowLayer, GrowingLayer, GrowingSlidingWindowLayer, DummyLayer}
_JOINABLE = _PADDABLE | {LinearAttentionLayer, LinearAttentionAndFullAttentionLayer}


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; from pinned memory to a GPU, so that the host does not wait for its queue."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class PaddedCache(DynamicCache):
    """A `DynamicCache` that never has transformers look at the padding mask's values.

    A decoding step with a compilable cache always materialises its mask; with any other, transformers first reads
    on the host whether the mask is all ones, which would cost one synchronisation a token on a GPU.
    """

    padded = False

    @property
    def is_compileable(self) -> bool:
        return self.padded


def new_cache(config: PreTrainedConfig) -> PaddedCache:
    """An empty cache of the kinds of layers that a model has, with spare room where that is possible."""
    cache = PaddedCache(config=config)
    cache.layers = [with_spare_room(layer) for layer in cache.layers]
    return cache


def tolerates_padding(config: PreTrainedConfig) -> bool:
    """Whether every layer can mask padding out; one that folds its past into a state cannot."""
    return all(type(layer) in _PADDABLE for layer in new_cache(config).layers)


def cuttable(config: PreTrainedConfig) -> int | None:
    """States of fewer tokens than this can be cut back to an earlier one; None is any state.

    One that folds its past into a state never can; a sliding window holds all that was before only until it moves.
    """
    layers = new_cache(config).layers
    if any(type(layer) not in _PADDABLE for layer in layers):
        return 0
    return min((layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)), default=None)


@dataclass(eq=False)
class State:
    """What the model remembers of some sequences, one a row, and what it says next of each."""

    cache: PaddedCache
    lengths: list[int]
    """Tokens of each row."""
    width: int
    """Columns, at least max(lengths)."""
    logits: Tensor
    """(rows, V) float32, after the last token."""
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    """(rows, hidden size) after the last token, of what was computed last and where hidden states are read."""

    def select(self, rows: Sequence[int]) -> State:
        """A new state of copies of some rows, in the order given, a row as often as it is named."""
        index = upload(np.array(rows), self.logits.device)
        cache = _copy_containers(self.cache)
        cache.reorder_cache(cast(LongTensor, index))
        lengths = [self.lengths[row] for row in rows]
        state = State(cache, lengths, self.width, self.logits.index_select(0, index))
        state.trim()
        return state

    def trim(self) -> None:
        """Drop leading columns that are padding in every row."""
        spare = self.width - max(self.lengths)
        if spare and all(type(layer) in _JOINABLE for layer in self.cache.layers):
            for layer in self.cache.layers:
                _trim(layer, self.width - spare)
            self.width -= spare

    def prefix(self, row: int, length: int) -> State:
        """A new state of the first `length` tokens of a row, to read on from; see `cuttable`. Nothing is copied yet."""
        if not all(type(layer) in _PADDABLE for layer in self.cache.layers):
            return self.select([row])  # whole
        cache = _copy_containers(self.cache)
        for layer in cache.layers:
            _cut(layer, row, self.lengths[row], length)
        return State(cache, [length], length, self.logits[row : row + 1])

    @property
    def padded(self) -> bool:
        """Whether a row is shorter than the widest."""
        return min(self.lengths) < self.width

    def padding_mask(self, further: int) -> Tensor:
        """(rows, width + further) bool, true at real columns; `further` real columns to come are counted in."""
        device = self.logits.device
        first = upload(self.width - np.array(self.lengths), device)
        return torch.arange(self.width + further, device=device)[None, :] >= first[:, None]

    @property
    def nbytes(self) -> int:
        """Bytes of device memory held, spare room included."""
        seen: dict[int, int] = {}
        for tensor in (self.logits, *(item for layer in self.cache.layers for item in _tensors(layer))):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return sum(seen.values())


def joinable(states: Iterable[State]) -> bool:
    """Whether `join` knows every kind of layer in these states."""
    return all(type(layer) in _JOINABLE for state in states for layer in state.cache.layers)


def join(states: Sequence[State], config: PreTrainedConfig) -> State:
    """One state of all rows, in order, padded on the left to the widest."""
    if len(states) == 1:
        return states[0]
    width = max(state.width for state in states)
    cache = new_cache(config)
    for target, *layers in zip(cache.layers, *(state.cache.layers for state in states), strict=True):
        if isinstance(target, DynamicLayer) and layers[0].is_initialized:
            _join_attention(target, layers, width)
        if isinstance(target, LinearAttentionCacheLayerMixin):
            _join_recurrence(target, layers)
    lengths = [length for state in states for length in state.lengths]
    return State(cache, lengths, width, torch.cat([state.logits for state in states]))


def _join_attention(target: DynamicLayer, layers: Sequence[Any], width: int) -> None:
    columns = width
    if isinstance(target, DynamicSlidingWindowLayer):
        columns = min(width, target.sliding_window - 1)
    keys, values = (
        torch.cat([pad(tensor, (0, 0, columns - tensor.shape[-2], 0)) for tensor in tensors])
        for tensors in ([layer.keys for layer in layers], [layer.values for layer in layers])
    )
    target.update(keys, values)
    if isinstance(target, DynamicSlidingWindowLayer):
        target.cumulative_length = width


def _join_recurrence(target: LinearAttentionCacheLayerMixin, layers: Sequence[Any]) -> None:
    for state in range(target.number_of_states):
        if layers[0].is_conv_states_initialized[state]:
            target.update_conv_state(torch.cat([layer.conv_states[state] for layer in layers]), state_idx=state)
        if layers[0].is_recurrent_states_initialized[state]:
            joined = torch.cat([layer.recurrent_states[state] for layer in layers])
            target.update_recurrent_state(joined, state_idx=state)
        target.has_previous_state[state] = layers[0].has_previous_state[state]


def _trim(layer: Any, width: int) -> None:
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        return
    columns = width
    if isinstance(layer, DynamicSlidingWindowLayer):
        columns = min(width, layer.sliding_window - 1)
        layer.cumulative_length = width
    layer.keys = layer.keys[..., layer.keys.shape[-2] - columns :, :].contiguous()
    layer.values = layer.values[..., layer.values.shape[-2] - columns :, :].contiguous()


def _cut(layer: Any, row: int, held: int, length: int) -> None:
    """Leave the first `length` of a row's `held` tokens in a layer: a view, which the next tokens move elsewhere."""
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        return
    if isinstance(layer, DynamicSlidingWindowLayer):
        held = min(held, layer.sliding_window - 1)
        layer.cumulative_length = length
    end = layer.keys.shape[-2] - held + min(length, held)
    layer.keys, layer.values = (
        item[row : row + 1, :, end - min(length, held) : end] for item in (layer.keys, layer.values)
    )
    if isinstance(layer, GrowingLayer | GrowingSlidingWindowLayer):
        layer.forget_rooms()


def _copy_containers(cache: PaddedCache) -> PaddedCache:
    """A cache that shares the tensors and nothing else, ready to be reordered."""
    twin = copy.copy(cache)
    twin.layers = []
    for layer in cache.layers:
        fresh = copy.copy(layer)
        for name, value in vars(layer).items():
            if isinstance(value, dict | list):
                setattr(fresh, name, copy.copy(value))
        twin.layers.append(fresh)
    return twin


def _tensors(layer: Any) -> Iterable[Tensor]:
    for value in vars(layer).values():
        for item in value.values() if isinstance(value, dict) else (value,):
            if isinstance(item, Tensor):
                yield item
