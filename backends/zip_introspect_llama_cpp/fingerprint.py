"""What tells a GGUF file's model from others, read from its tensors in whatever type they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from zip_introspect.errors import HeadError
from zip_introspect.heads import fingerprint
from zip_introspect.heads.fingerprint import MLP_ROWS, Fingerprint

_ROUNDING = {"F32": 0.0, "F16": 0.0005, "BF16": 0.002, "Q8_0": 0.01, "Q6": 0.03, "Q5": 0.05, "Q4": 0.1, "Q3": 0.2}
"""Relative, by what a type's name begins with; of the others, more."""
_COARSEST = 0.4
_NORMS = ("output_norm.weight", "token_embd_norm.weight")


def taken(
    reader: GGUFReader, architecture: str, layers: int, template: str | None, token_ids: Sequence[int] | None
) -> Fingerprint:
    """The fingerprint of a file.

    Raises:
        HeadError: it has no embedding, or one of a type that cannot be read.
    """
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    embedding, down = tensors.get("token_embd.weight"), tensors.get(f"blk.{layers // 2}.ffn_down.weight")
    if embedding is None:
        raise HeadError("the file has no token_embd.weight, so it cannot be told whether a head is its own")
    ids = fingerprint.token_ids(len(embedding.data)) if token_ids is None else tuple(token_ids)
    if ids and not 0 <= min(ids) <= max(ids) < len(embedding.data):
        raise HeadError(
            f"the head's model has an embedding of token {max(ids)}, and this one has {len(embedding.data)} tokens; "
            f"expected the model that the head was made for"
        )
    norm = next((numbers(tensors[name]) for name in _NORMS if name in tensors), np.zeros(0, np.float32))
    rows = numbers(embedding, ids)
    return Fingerprint(
        architecture=architecture,
        hidden_size=rows.shape[1],
        layers=layers,
        token_ids=ids,
        rows=rows,
        mlp=np.zeros((0, 0), np.float32) if down is None else numbers(down, range(MLP_ROWS)),
        norm=norm,
        rounding=max(_rounding(tensor) for tensor in (embedding, down) if tensor is not None),
        template=hashlib.sha256(template.encode()).hexdigest() if template else "",
    )


def numbers(tensor: ReaderTensor, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
    """A tensor, or rows of it, as float32.

    Raises:
        HeadError: of a type that cannot be read.
    """
    data: NDArray[Any] = tensor.data if rows is None else tensor.data[np.array(rows, np.intp)]
    try:
        return np.asarray(dequantize(data, tensor.tensor_type), np.float32)
    except NotImplementedError as error:
        raise HeadError(f"{tensor.name} is of the type {tensor.tensor_type.name}, which cannot be read here") from error


def _rounding(tensor: ReaderTensor) -> float:
    name = tensor.tensor_type.name
    return next((found for begins, found in _ROUNDING.items() if name.startswith(begins)), _COARSEST)
