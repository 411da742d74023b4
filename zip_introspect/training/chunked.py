"""The ZIP objective without an array of [positions, vocabulary]: logits are made, used and forgotten chunk by chunk.

With a vocabulary of 152,000 tokens, the float32 logits of 1,500 positions are 0.9 GB, and the KL of eq. 3 needs some
eight arrays of that size and their gradients. Here the model's forward ends before its output head, and each chunk of
positions goes through the heads on its own; in the backward pass its logits are computed once more (Chen et al., 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

CHUNK = 256
"""Positions whose logits exist at once."""
_SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""What some architectures do to logits behind the output head."""


def output_head(model: PreTrainedModel) -> nn.Linear | None:
    """The linear layer that gives a model's logits; None where something is done to them behind it."""
    config = model.config.get_text_config(decoder=True)
    output = model.get_output_embeddings()
    plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in _SCALED)
    return output if plain and type(output) is nn.Linear else None


@contextmanager
def passed_over(output: nn.Module) -> Iterator[None]:
    """Let a model's forward give the hidden states that its output head would read, in place of logits."""
    output.forward = _unchanged
    try:
        yield
    finally:
        del output.forward


def summed(
    losses: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    hidden: Tensor,
    output: nn.Linear,
    targets: Tensor,
    original: Tensor | None = None,
    original_output: nn.Linear | None = None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """Losses of logits, summed over positions.

    Args:
        losses: of logits (n, V), those of the reference (n, V) or None, and targets (n,): sums, shape (losses,).
        hidden: shape (positions, hidden size), before the output head; `original` is the reference's.
        targets: shape (positions,).

    Returns:
        shape (losses,), differentiable in the hidden states and in the output head.
    """

    def of_chunk(
        states: Tensor, weight: Tensor, bias: Tensor | None, reference: Tensor | None, labels: Tensor
    ) -> Tensor:
        logits = functional.linear(states, weight, bias)
        if reference is None or original_output is None:
            return losses(logits, None, labels)
        with torch.no_grad():
            held = functional.linear(reference, original_output.weight, original_output.bias)
        return losses(logits, held, labels)

    total: Any = 0.0
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        held = None if original is None else original[part]
        total = total + checkpoint(
            of_chunk, hidden[part], output.weight, output.bias, held, targets[part], use_reentrant=False
        )
    found: Tensor = total
    return found


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden
