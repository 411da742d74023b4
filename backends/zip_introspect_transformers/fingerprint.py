"""What tells a model of transformers from others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zip_introspect.errors import HeadError
from zip_introspect.heads import fingerprint
from zip_introspect.heads.fingerprint import MLP_ROWS, Fingerprint

_ROUNDING = {torch.float32: 0.0, torch.float64: 0.0, torch.float16: 0.0005, torch.bfloat16: 0.002}
_NORMS = ("norm", "embedding_norm", "final_layernorm", "ln_f")
_DOWN = ("mlp.down_proj", "feed_forward.w2")
_NONE = np.zeros((0, 0), np.float32)


def taken(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int] | None = None
) -> Fingerprint:
    """The fingerprint of a model as it is now.

    Raises:
        HeadError: fewer tokens than the head's model has.
    """
    config = model.config.get_text_config(decoder=True)
    embedding: Any = model.get_input_embeddings().weight
    ids = fingerprint.token_ids(len(embedding)) if token_ids is None else tuple(token_ids)
    if ids and not 0 <= min(ids) <= max(ids) < len(embedding):
        raise HeadError(
            f"the head's model has an embedding of token {max(ids)}, and this one has {len(embedding)} tokens; "
            f"expected the model that the head was made for"
        )
    inner: Any = model.get_decoder()
    layers = getattr(inner, "layers", None)
    down = _first(layers[len(layers) // 2], _DOWN) if layers else None
    norm = _first(inner, _NORMS)
    template = tokenizer.chat_template
    text = template.get("default") if isinstance(template, dict) else template
    return Fingerprint(
        architecture=type(model).__name__,
        hidden_size=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        token_ids=ids,
        rows=_numbers(embedding[list(ids)]),
        mlp=_NONE if down is None else _numbers(down[:MLP_ROWS]),
        norm=_NONE[0:0].reshape(0) if norm is None else _numbers(norm),
        rounding=_ROUNDING.get(embedding.dtype, 0.4),
        template=hashlib.sha256(text.encode()).hexdigest() if text else "",
    )


def _first(module: nn.Module, names: Sequence[str]) -> Tensor | None:
    """The plain weight of the first of some parts that a module has; quantised ones are not read."""
    for name in names:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        weight = getattr(found, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return weight
    return None


def _numbers(weight: Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = weight.detach().float().cpu().numpy()
    return numbers
