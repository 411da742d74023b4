"""Opening a checkpoint for training, and finding rows of its output head that the joint can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from zip_introspect.backend.encoding import end_ids
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.errors import ConfigError, ModelLoadError, TrainingDataError
from zip_introspect.training.methods import Method

EMBEDDED = "abacus"
"""Names the embedded model in a recipe."""
Precision = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True)
class Opened:
    """A checkpoint in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    saved: torch.dtype
    """Of the checkpoint's files, and of those that are written."""

    @property
    def pad_token_id(self) -> int:
        """What rows are padded with; it is never attended to."""
        padding = self.tokenizer.pad_token_id
        return int(padding) if isinstance(padding, int) else 0


def computes_in_bfloat16() -> bool:
    """Whether the device has instructions for bfloat16; where it has none, float32 is several times faster."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(present for name, present in torch.cpu.get_capabilities().items() if "bf16" in name)


def in_bfloat16(precision: Precision) -> bool:
    """Whether arithmetic is done in bfloat16."""
    return computes_in_bfloat16() if precision == "auto" else precision == "bfloat16"


def kept_in_half(saved: torch.dtype, method: Method, precision: Precision) -> bool:
    """Whether weights are trained with in the number type in which they are stored."""
    return saved == torch.bfloat16 and in_bfloat16(precision) and method != "full"


def located(model: str | None) -> str:
    """The checkpoint that a recipe names.

    Raises:
        ConfigError: it names none.
    """
    if model is None:
        raise ConfigError("the recipe names no model; expected one: zip-introspect train MODEL, or model: in it")
    return str(DEMO_MODEL) if model == EMBEDDED else model


def config_of(name: str) -> Any:
    """A checkpoint's configuration.

    Raises:
        ConfigError: a GGUF file, which holds no weights that can be trained.
        ModelLoadError: no such checkpoint.
    """
    if name.endswith(".gguf"):
        raise ConfigError(
            f"{name} is a GGUF file, and only checkpoints can be trained; expected a directory as save_pretrained "
            f"writes it, or a hub id. For a file of this kind make a head: zip-introspect fit"
        )
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoadError(f"{name} cannot be opened as a checkpoint: {_short(error)}") from error


def opened(name: str, method: Method, precision: Precision, attention: str | None = None) -> Opened:
    """A checkpoint as it is trained: in float32 where all weights are, so that small steps are not lost to rounding.

    Frozen weights are kept as they are stored; in float32 where the device would be slow otherwise, or where they are
    in float16, which overflows.

    Raises:
        ConfigError, ModelLoadError: as `config_of`; or weights that are no causal language model's.
    """
    config_of(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", attn_implementation=attention)
        tokenizer = AutoTokenizer.from_pretrained(name)
        if model.generation_config is not None:
            model.generation_config.validate(strict=True)  # it would be refused when all is trained and to be saved
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelLoadError(f"{name} cannot be opened as a checkpoint: {_short(error)}") from error
    saved = model.dtype
    if not kept_in_half(saved, method, precision):
        model.float()
    return Opened(model, tokenizer, saved)


def reference_of(name: str, rows: int, precision: Precision, attention: str | None = None) -> PreTrainedModel:
    """The original, which is only read; with as many rows as the one that is trained."""
    dtype = torch.bfloat16 if in_bfloat16(precision) and torch.cuda.is_available() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation=attention)
    grow(model, rows)
    found: PreTrainedModel = model.eval().requires_grad_(False)
    return found


def rows_of(model: PreTrainedModel) -> int:
    """Rows of a model's output head: token ids are below it.

    Raises:
        TrainingDataError: it has none.
    """
    weight = getattr(model.get_output_embeddings(), "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise TrainingDataError(f"{type(model).__name__} has no output head whose rows could be trained")
    return len(weight)


def end_ids_of(found: Opened) -> tuple[int, ...]:
    """The ids that end a text, of all that name some; raises `ModelLoadError` where none does."""
    generation = found.model.generation_config
    named = {
        "generation_config.json": None if generation is None else generation.eos_token_id,
        "config.json": found.model.config.get_text_config().eos_token_id,
        "the tokenizer": found.tokenizer.eos_token_id,
    }
    return end_ids(named, rows_of(found.model))


def grow(model: PreTrainedModel, rows: int) -> None:
    """Append rows of zeros to both embeddings, up to `rows`: then every cell of the joint is equally likely."""
    before = rows_of(model)
    if rows <= before:
        return
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight = getattr(layer, "weight", None)
            if isinstance(layer, nn.Module) and isinstance(weight, torch.Tensor):
                weight[before:] = 0


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
