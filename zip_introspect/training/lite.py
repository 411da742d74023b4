"""ZIP-RC-Lite (A.3): training that moves the reserved rows of the output head and nothing else, tied or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from zip_introspect.errors import TrainingDataError
from zip_introspect.introspection.grid import JointGrid


@contextmanager
def reserved_rows_only(model: PreTrainedModel, grid: JointGrid) -> Iterator[None]:
    """Let training within move the reserved rows alone; every other bit of the model stays.

    Where input and output embeddings are one tensor, gradients of the input's rows arrive there too: they are left
    out, as those of all other rows are. The optimiser must not decay weights, which would move what has no gradient.

    Raises:
        TrainingDataError: a model without an output head of its own.
        ReservedTokensError: one that has not these rows.
    """
    output = model.get_output_embeddings()
    if output is None or not isinstance(output.weight, Tensor):
        raise TrainingDataError(f"{type(model).__name__} has no output head whose rows could be trained")
    weight = output.weight
    grid.check_fits(len(weight))
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    kept = torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)
    kept[grid.reserved.start : grid.reserved.stop] = 1
    model.requires_grad_(False)
    weight.requires_grad_(True)
    handle = weight.register_hook(lambda gradient: gradient * kept.to(gradient.device))
    try:
        yield
    finally:
        handle.remove()
        for parameter, needed in before:
            parameter.requires_grad_(needed)
