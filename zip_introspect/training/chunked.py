"""The ZIP objective without an array of [positions, vocabulary]: logits are made, used and forgotten chunk by chunk.

With a vocabulary of 152,000 tokens, the float32 logits of 1,500 positions are 0.9 GB, and the KL of eq. 3 needs some
eight arrays of that size and their gradients. Here the model's forward ends in the loss, not in its output head: each
chunk of positions goes through the heads on its own, and once more in the backward pass (Chen et al., 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from zip_introspect.heads.checkpoint import SCALED

CHUNK = 256
"""Positions whose logits exist at once."""


def output_head(model: PreTrainedModel) -> nn.Linear | None:
    """The linear layer that gives a model's logits; None where something is done to them behind it."""
    config = model.config.get_text_config(decoder=True)
    output = model.get_output_embeddings()
    plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in SCALED)
    return output if plain and type(output) is nn.Linear else None


@contextmanager
def in_place_of(output: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a model's forward end in another function of the hidden states than its output head.

    What it gives comes back as the outputs' `logits`. Within the forward, so that whoever gathers weights or casts
    numbers around it (distributed training, autocast) does so for this too.
    """
    output.forward = function
    try:
        yield
    finally:
        del output.forward


def passed_over(output: nn.Module) -> AbstractContextManager[None]:
    """Let a model's forward give the hidden states that its output head would read, in place of logits."""
    return in_place_of(output, _unchanged)


def summed(losses: Callable[..., Tensor], *positions: Tensor | None, chunk: int = CHUNK) -> Tensor:
    """Losses summed over positions; of each chunk, only what `losses` was given is kept for the backward pass.

    Args:
        losses: of a chunk of each of `positions`: sums, shape (losses,). It may read weights from around it.
        positions: arrays of as many rows each, such as hidden states, shape (positions, hidden size), and targets,
            shape (positions,); None is handed on.

    Returns:
        shape (losses,), differentiable.
    """
    count = next(len(item) for item in positions if item is not None)
    total: Any = 0.0
    for start in range(0, max(count, 1), chunk):
        parts = [None if item is None else item[start : start + chunk] for item in positions]
        total = total + checkpoint(losses, *parts, use_reentrant=False)
    found: Tensor = total
    return found


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden
