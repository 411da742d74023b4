"""Hidden states, and what a head makes of them, on the model's device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zip_introspect.heads.head import Head


class TorchHead:
    """A head's weights on a device; `Head.logits` says what it computes."""

    def __init__(self, head: Head, device: torch.device) -> None:
        self._inputs = head.about.inputs
        self._layers = [
            (torch.from_numpy(weight).to(device), torch.from_numpy(bias).to(device)) for weight, bias in head.layers
        ]

    def __call__(self, last: Tensor, mean: Tensor) -> Tensor:
        """The joint's logits (..., cells) in float32, of hidden states and their running means in float32."""
        read = {"last": last, "mean": mean}
        x = torch.cat([read[name] for name in self._inputs], -1)
        for place, (weight, bias) in enumerate(self._layers):
            x = functional.linear(functional.silu(x) if place else x, weight, bias)
        return x


class Watched:
    """The input of a model's output head in the last forward pass: the hidden states behind the final norm."""

    def __init__(self, output: nn.Module) -> None:
        self._output = output
        self._seen: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look on within; the model has no hook before and after."""
        handle = self._output.register_forward_pre_hook(self._look)
        try:
            yield
        finally:
            handle.remove()

    def seen(self) -> Tensor:
        """(rows, columns, hidden size), at the columns that the output head was given."""
        assert self._seen is not None, "the model's forward did not call its output head"
        return self._seen if self._seen.ndim == 3 else self._seen[:, None]

    def last(self) -> Tensor:
        """(rows, hidden size), at the last column."""
        return self.seen()[:, -1]

    def _look(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._seen = inputs[0]
