"""What of a model is trained: all of it, adapters and the reserved rows, or the reserved rows alone.

The reserved rows are trained apart from the output head, as a small matrix of their own in float32: no gradient and no
optimiser state of [vocabulary, hidden size] exists for them, and where input and output embeddings are one tensor, no
other row of it can move. At the end they are written into the output head.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zip_introspect.errors import BackendNotInstalledError, ConfigError, TrainingDataError
from zip_introspect.introspection.grid import JointGrid

Method = Literal["full", "lora", "lite"]
"""full: every weight (the paper's ZIP-RC). lora: low-rank adapters (Hu et al., 2022) and the reserved rows. lite: the
reserved rows alone (ZIP-RC-Lite, A.3)."""

ROWS = "zip_reserved_rows"


class Adapters(Protocol):
    """Of LoRA."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> int: ...
    @property
    def dropout(self) -> float: ...


@dataclass(frozen=True)
class Prepared:
    """A model of which only what is to be trained has gradients, until it is finished."""

    model: PreTrainedModel
    grid: JointGrid
    rows: nn.Parameter | None
    """Shape (cells, hidden size), float32; None where the output head itself is trained."""
    _adapted: Any
    _before: tuple[tuple[nn.Parameter, bool], ...]

    @property
    def unadapted(self) -> Callable[[], AbstractContextManager[Any]]:
        """A context in which adapters are off: but for the reserved rows, the model says what it said before."""
        return nullcontext if self._adapted is None else cast(Any, self._adapted.disable_adapter)

    def finish(self) -> PreTrainedModel:
        """The model as a plain one: adapters merged into its weights, rows written into its output head."""
        if self._adapted is not None:
            self._adapted.merge_and_unload()
        if self.rows is not None:
            output, weight = _output_weight(self.model)
            with torch.no_grad():
                weight[self.grid.reserved.start : self.grid.reserved.stop] = self.rows.to(weight.dtype)
            delattr(output, ROWS)
        for parameter, needed in self._before:
            parameter.requires_grad_(needed)
        return self.model


def prepare(model: PreTrainedModel, grid: JointGrid, method: Method, adapters: Adapters | None = None) -> Prepared:
    """Choose what of a model is trained.

    Args:
        adapters: of `lora`.

    Raises:
        ConfigError: a method that does not exist.
        BackendNotInstalledError: `lora` without peft.
        TrainingDataError: a model without an output head of its own.
        ReservedTokensError: one that has not these rows.
    """
    if method not in get_args(Method):
        raise ConfigError(f"the method is {method!r}; expected one of {', '.join(get_args(Method))}")
    output, weight = _output_weight(model)
    grid.check_fits(len(weight))
    before = tuple((parameter, parameter.requires_grad) for parameter in model.parameters())
    if method == "full":
        return Prepared(model, grid, None, None, before)
    adapted = _adapted(model, adapters) if method == "lora" else None
    for parameter, _ in before:
        parameter.requires_grad_(False)
    rows = nn.Parameter(weight[grid.reserved.start : grid.reserved.stop].detach().float().clone())
    output.register_parameter(ROWS, rows)
    return Prepared(model, grid, rows, adapted, before)


def _adapted(model: PreTrainedModel, adapters: Adapters | None) -> Any:
    if adapters is None:
        raise ConfigError("the method lora needs its adapters' settings: rank, alpha and dropout")
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            'the method lora needs peft, which is not installed. Install it with: pip install "zip-introspect[train]"'
        ) from error
    config = LoraConfig(
        r=adapters.rank, lora_alpha=adapters.alpha, lora_dropout=adapters.dropout, target_modules="all-linear"
    )
    return get_peft_model(model, config)


def _output_weight(model: PreTrainedModel) -> tuple[nn.Module, Tensor]:
    output = model.get_output_embeddings()
    weight = getattr(output, "weight", None)
    if output is None or not isinstance(weight, Tensor):
        raise TrainingDataError(f"{type(model).__name__} has no output head whose rows could be trained")
    return output, weight
