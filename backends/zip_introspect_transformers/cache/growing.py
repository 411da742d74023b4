"""Cache layers that write into spare room instead of concatenating: a step then costs one column, not the whole."""

from __future__ import annotations

from typing import Any

from torch import LongTensor, Tensor
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

Layer = CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer

_SPARE_COLUMNS = 64


class _Room:
    """A tensor (B, H, capacity, D) of which `held`, ending at column `end`, is a window."""

    def __init__(self) -> None:
        self.storage: Tensor | None = None
        self.held: Tensor | None = None
        self.end = 0

    def append(self, past: Tensor | None, new: Tensor) -> Tensor:
        """`past` and `new` joined along the columns: in place where `past` is what this room holds, else moved in."""
        if past is None or past.numel() == 0:
            return new
        columns, added = past.shape[-2], new.shape[-2]
        if self.storage is None or past is not self.held or self.end + added > self.storage.shape[-2]:
            spare = max(_SPARE_COLUMNS, columns // 8)
            self.storage = new.new_empty((*new.shape[:-2], columns + added + spare, new.shape[-1]))
            self.storage[..., :columns, :] = past
            self.end = columns
        self.storage[..., self.end : self.end + added, :] = new
        self.end += added
        return self.storage[..., self.end - columns - added : self.end, :]

    def hold(self, view: Tensor) -> Tensor:
        self.held = view
        return view


class _Roomy(DynamicLayer):
    """What both growing layers share: fresh rooms when the cache begins, and when its rows change."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.forget_rooms()

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.forget_rooms()

    def forget_rooms(self) -> None:
        """Begin fresh rooms, for keys and values that are others now."""
        self._rooms = _Room(), _Room()


class GrowingLayer(_Roomy):
    """A `DynamicLayer` with spare room behind its keys and values."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._rooms
        self.keys = keys.hold(keys.append(self.keys, key_states))
        self.values = values.hold(values.append(self.values, value_states))
        return self.keys, self.values


class GrowingSlidingWindowLayer(_Roomy, DynamicSlidingWindowLayer):
    """A `DynamicSlidingWindowLayer` with spare room behind its keys and values."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        keys, values = self._rooms
        full_keys, full_values = keys.append(self.keys, key_states), values.append(self.values, value_states)
        kept = self.sliding_window - 1
        self.keys = keys.hold(full_keys[..., max(full_keys.shape[-2] - kept, 0) :, :])
        self.values = values.hold(full_values[..., max(full_values.shape[-2] - kept, 0) :, :])
        return full_keys, full_values


def with_spare_room(layer: Layer) -> Layer:
    """The growing twin of a plain or sliding-window layer; every other kind as it is."""
    if type(layer) is DynamicLayer:
        return GrowingLayer()  # type: ignore[no-untyped-call]
    if type(layer) is DynamicSlidingWindowLayer:
        return GrowingSlidingWindowLayer(layer.sliding_window)
    return layer
