"""A checkpoint as it lies on the disk: where the rows of its output head are, read without a framework."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import HeadError, ModelLoadError
from zip_introspect.heads.fingerprint import MLP_ROWS, Fingerprint, token_ids

SCALED = (
    "final_logit_softcapping", "lm_head_multiplier", "logit_scale", "logits_scaling", "logits_soft_cap",
    "output_logit_soft_cap",
)  # fmt: skip
"""What some architectures do to logits behind the output head, by the names of their configurations."""
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_ROUNDED = {"F32": 0.0, "F16": 0.0005, "BF16": 0.002}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_LONGEST_HEADER = 100_000_000  # that of safetensors itself
EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|embed_in|word_embeddings)\.weight")
OUTPUT = re.compile(r"(?:.*\.)?(?:lm_head|embed_out|output)\.weight")
_BIAS = re.compile(OUTPUT.pattern.replace("weight", "bias"))
_DOWN = r"(?:.*\.)?layers\.{layer}\.(?:mlp\.down_proj|feed_forward\.w2)\.weight"
_NORM = re.compile(r"(?:.*\.)?(?:norm|embedding_norm|final_layernorm|ln_f)\.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.\d+\.")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    """Of its bytes in the file."""
    stop: int

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return (self.stop - self.start) // self.shape[0]

    def read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Some rows, shape (rows, width).

        Raises:
            HeadError: of a number type that is not read here.
        """
        if self.kind not in _BYTES:
            raise HeadError(f"{self.name} is stored as {self.kind}; expected one of {', '.join(_BYTES)}")
        with self.file.open("rb") as stream:
            parts = []
            for row in rows:
                stream.seek(self.start + row * self.row)
                parts.append(stream.read(self.row))
        return from_type(b"".join(parts), self.kind, self.row // _BYTES[self.kind])


class Checkpoint:
    """A directory as `save_pretrained` writes it, read by its files' headers.

    Raises:
        ModelLoadError: no configuration, no safetensors, or files that are not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = json_of(folder / "config.json")
        text = config.get("text_config")
        self.config: dict[str, Any] = text if isinstance(text, dict) else config
        self.tensors = {item.name: item for file in weight_files(folder) for item in _tensors(file)}
        embedding, self.output = self._one(EMBEDDING), self._one(OUTPUT)
        if embedding is None or any(len(item.shape) != 2 for item in (embedding, self.output) if item is not None):
            raise ModelLoadError(f"{folder} has no table of embeddings; expected a causal language model's checkpoint")
        self.embedding = embedding

    @property
    def heads(self) -> tuple[StoredTensor, ...]:
        """The tensors that give the logits: of tied embeddings the one table, in both places if it is stored twice."""
        if self.output is None:
            return (self.embedding,)
        return (self.output, self.embedding) if self.config.get("tie_word_embeddings") else (self.output,)

    def check_plain(self) -> None:
        """Refuse an output head that does more than multiply.

        Raises:
            HeadError: it has a bias, or something is done to its logits.
        """
        done = [name for name in SCALED if self.config.get(name) not in (None, 1, 1.0)]
        biased = any(_BIAS.fullmatch(name) for name in self.tensors)
        if done or biased:
            what = "a bias" if biased else f"{done[0]}={self.config[done[0]]}"
            raise HeadError(f"the output head has {what}, so that rows of it do not give a head's logits as they are")

    def fingerprint(self, ids: Sequence[int] | None = None) -> Fingerprint:
        """As `Backend.fingerprint`, from the files."""
        table, layers = self.embedding, int(self.config.get("num_hidden_layers") or 0)
        chosen = token_ids(table.shape[0]) if ids is None else tuple(ids)
        if chosen and not 0 <= min(chosen) <= max(chosen) < table.shape[0]:
            raise HeadError(
                f"the head's model has an embedding of token {max(chosen)}, and this one has {table.shape[0]} tokens; "
                f"expected the model that the head was made for"
            )
        down = self._one(re.compile(_DOWN.replace("{layer}", str(layers // 2))))
        norm = next(
            (item for name, item in self.tensors.items() if _NORM.fullmatch(name) and not _LAYER.search(name)), None
        )
        return Fingerprint(
            architecture=str(self.config.get("model_type", "model")),
            hidden_size=table.shape[1],
            layers=layers,
            token_ids=chosen,
            rows=table.read(chosen),
            mlp=down.read(range(MLP_ROWS))
            if down is not None and down.kind in _BYTES
            else np.zeros((0, 0), np.float32),
            norm=norm.read(range(norm.shape[0])).reshape(-1) if norm is not None else np.zeros(0, np.float32),
            rounding=_ROUNDED[table.kind],
        )

    def _one(self, pattern: re.Pattern[str]) -> StoredTensor | None:
        return next((item for name, item in self.tensors.items() if pattern.fullmatch(name)), None)


def as_type(rows: NDArray[np.float32], kind: str) -> bytes:
    """Rows in a number type of safetensors, rounded to the nearest.

    Raises:
        HeadError: one that they cannot be written in, or too large a number for it.
    """
    if kind not in _BYTES:
        raise HeadError(
            f"the output head is stored as {kind}; expected one of {', '.join(_BYTES)}, to write rows in it"
        )
    if kind == "BF16":
        bits = rows.view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
        return rounded.astype("<u2").tobytes()
    found = rows.astype("<f4" if kind == "F32" else "<f2")
    if not np.isfinite(found).all():
        raise HeadError(f"the head's weights reach {np.abs(rows).max():.3g}, which {kind} cannot hold")
    return found.tobytes()


def from_type(data: bytes, kind: str, width: int) -> NDArray[np.float32]:
    """Numbers of a type of safetensors, shape (rows, width)."""
    if kind == "BF16":
        found = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        found = np.frombuffer(data, "<f4" if kind == "F32" else "<f2").astype(np.float32)
    return found.reshape(-1, width)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: those of the index, or the one; others may lie beside them in another form.

    Raises:
        ModelLoadError: there are none, or an index that is none.
    """
    if (folder / INDEX).exists():
        listed = json_of(folder / INDEX).get("weight_map")
        names = set(map(str, listed.values())) if isinstance(listed, dict) else set()
        if not names or any(Path(name).name != name for name in names):
            raise ModelLoadError(f"{folder / INDEX} maps no weights to files beside it; download it again")
        return sorted(folder / name for name in names)
    if not (folder / SINGLE).exists():
        raise ModelLoadError(f"{folder} has no .safetensors files; save the model with save_pretrained once more")
    return [folder / SINGLE]


def _tensors(file: Path) -> Iterable[StoredTensor]:
    header, begin = header_of(file)
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            yield StoredTensor(file, name, entry["dtype"], tuple(entry["shape"]), begin + start, begin + stop)


def header_of(file: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors, and where their bytes begin.

    Raises:
        ModelLoadError: it is cut short, or no such file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"its header has {length} bytes")
            header = json.loads(stream.read(length))
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        for entry in entries:
            start, stop = entry["data_offsets"]
            if not 0 <= start <= stop <= size - 8 - length or not isinstance(entry["shape"], list):
                raise ValueError("a tensor lies beyond its end")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise ModelLoadError(f"{file} is cut short or not a safetensors file ({error}); download it again") from error
    return header, 8 + length


def json_of(file: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        ModelLoadError: missing, or something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{file} holds {type(content).__name__}; expected an object")
    return content
