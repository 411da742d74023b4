"""GGUF files as untrusted data: whole or refused, before llama.cpp sees them; and the grid that is kept in them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFEndian, GGUFReader, GGUFValueType, TokenType
from gguf.constants import Keys
from numpy.typing import NDArray

from zip_introspect.backend.exporting import Description
from zip_introspect.errors import ModelLoadError
from zip_introspect.introspection.grid import JointGrid

MAGIC = b"GGUF"
_MOST_LAYERS = 512  # llama.cpp's own limit
GRID_PREFIX = "zip_introspect."
ENDS = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)
# Architectures whose graphs in llama.cpp assert that positions rotate whole heads.
_ROTATE_WHOLE_HEADS = frozenset(
    "apertus arcee arctic baichuan chameleon codeshell cogvlm dbrx deci deepseek dots1 dream ernie4_5 ernie4_5-moe "  # noqa: SIM905
    "exaone exaone-moe exaone4 falcon granite granitemoe grok grovemoe hunyuan-moe hunyuan_vl internlm2 jais2 llada "
    "llada-moe llama llama4 maincoder minimax-m2 mistral3 nemotron olmo olmo2 olmoe orion paddleocr pangu-embedded "
    "plamo qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3 starcoder2 "
    "xverse".split()
)


class _Reader(GGUFReader):  # type: ignore[misc]
    """A reader that does not read beyond the file's end, and takes arrays whole: vocabularies have 10^5 tokens."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if int(offset) + np.dtype(dtype).itemsize * int(count) > self.data.nbytes:
            raise ValueError(f"it ends before byte {int(offset)} could be read")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        raw_kind, raw_count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        kind, start = GGUFValueType(raw_kind[0]), orig_offs + 12
        parts = [raw_kind, raw_count]
        if kind == GGUFValueType.STRING:
            parts += self._strings(start, int(raw_count[0]))
            end = start + sum(map(len, parts[2:])) + 8 * int(raw_count[0])
        elif kind in self.gguf_scalar_to_np:
            parts.append(self._get(start, self.gguf_scalar_to_np[kind], raw_count[0]))
            end = start + parts[-1].nbytes
        else:
            raise ValueError(f"it holds an array of {kind.name}")
        return end - orig_offs, parts, list(range(2, len(parts))), [GGUFValueType.ARRAY, kind]

    def _strings(self, offset: int, count: int) -> list[NDArray[np.uint8]]:
        data: Any = np.asarray(self.data)
        order = "<" if self.endianess == GGUFEndian.LITTLE else ">"
        length, size = struct.Struct(f"{order}Q"), data.nbytes
        found = []
        for _ in range(count):
            if offset + 8 > size or (end := offset + 8 + length.unpack_from(data, offset)[0]) > size:
                raise ValueError(f"it ends before byte {offset} could be read")
            found.append(data[offset + 8 : end])
            offset = end
        return found


def read(path: Path) -> GGUFReader:
    """A file's metadata and tensors, mapped and checked against its size.

    Raises:
        ModelLoadError: missing, not GGUF, of a version that is not known, or cut short.
    """
    if not path.is_file():
        raise ModelLoadError(f"{path} is not a file; expected a .gguf file. Check the path.")
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != MAGIC:
        raise ModelLoadError(
            f"{path} begins with {magic!r}, so it is not a GGUF file; expected {MAGIC!r}. "
            f"Convert a checkpoint with: zip-introspect export gguf MODEL_DIR OUT.gguf"
        )
    try:
        return _Reader(path)
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError, TypeError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelLoadError(
            f"{path} is cut short, damaged or of a newer GGUF version ({reason}). It holds {size} bytes; "
            f"download or export it again, or upgrade the gguf package."
        ) from error


def describe(path: Path) -> Description:
    """What a file says of its model; raises as `read` and `check_text_model`."""
    reader = read(path)
    architecture, tokens = check_text_model(reader, path)
    kinds = value(reader, Keys.Tokenizer.TOKEN_TYPE) or []
    unused = {number for number, kind in enumerate(kinds) if kind == TokenType.UNUSED}

    def number(key: str) -> int | None:
        found = value(reader, key.format(arch=architecture))
        return found if isinstance(found, int) else None

    return Description(
        architecture=architecture,
        layers=number(Keys.LLM.BLOCK_COUNT),
        hidden_size=number(Keys.LLM.EMBEDDING_LENGTH),
        max_context=number(Keys.LLM.CONTEXT_LENGTH),
        rows=len(tokens),
        tokens={number: text for number, text in enumerate(tokens) if number not in unused},
        eos_token_ids=ends(reader),
        chat_template=value(reader, Keys.Tokenizer.CHAT_TEMPLATE) is not None,
        bytes=path.stat().st_size,
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        dtypes=tuple(sorted({tensor.tensor_type.name for tensor in reader.tensors})),
    )


def find_grid(reader: GGUFReader, path: Path) -> JointGrid | None:
    """The grid in a file's metadata, or in a `zip_introspect.json` beside it; None where neither is there.

    Raises:
        GridError: what is there makes no grid.
    """
    metadata = {name: value(reader, name) for name in reader.fields if name.startswith(GRID_PREFIX)}
    if metadata:
        return JointGrid.from_metadata(metadata)
    return JointGrid.beside(path)


def value(reader: GGUFReader, name: str) -> Any:
    """One metadata value as plain Python; None where it is not there.

    Raises:
        ModelLoadError: a text that is not UTF-8.
    """
    field = reader.get_field(name)
    try:
        return None if field is None else field.contents()
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"the metadata {name} is not UTF-8 text: {error}") from error


def check(reader: GGUFReader, path: Path, grid: JointGrid | None) -> None:
    """Refuse what would stop llama.cpp, and with it the process, or waste the reading of the weights.

    Raises:
        ModelLoadError: a part of a model, no text model, or a vocabulary or a size that no model has.
        ReservedTokensError: the grid does not fit the vocabulary.
    """
    architecture, tokens = check_text_model(reader, path)
    # llama.cpp names empty tokens before it compares them.
    if len({token or number for number, token in enumerate(tokens)}) != len(tokens):
        raise ModelLoadError(f"{path} has the same token twice in its vocabulary; it is damaged")
    layers = value(reader, Keys.LLM.BLOCK_COUNT.format(arch=architecture))
    if not isinstance(layers, int) or not 0 < layers <= _MOST_LAYERS:
        raise ModelLoadError(f"{path} has {layers} layers; expected 1 to {_MOST_LAYERS}")
    _check_attention(reader, path, architecture)
    for key in (*ENDS, Keys.Tokenizer.BOS_ID):  # llama.cpp takes others in place of those that it cannot use
        found = value(reader, key)
        if found is not None and not (isinstance(found, int) and 0 <= found < len(tokens)):
            raise ModelLoadError(
                f"{path} has {key} {found}; expected an id from 0 to {len(tokens) - 1}. Mend it with gguf-set-metadata."
            )
    if grid:
        grid.check_fits(len(tokens))


def check_text_model(reader: GGUFReader, path: Path) -> tuple[str, list[str]]:
    """A file's architecture and tokens; raises `ModelLoadError` where it has none, such as a projector's."""
    architecture = value(reader, Keys.General.ARCHITECTURE)
    tokens = value(reader, Keys.Tokenizer.LIST)
    if not isinstance(architecture, str) or not isinstance(tokens, list) or not tokens:
        raise ModelLoadError(f"{path} names no architecture or no tokens; expected a language model, not a part of one")
    parts = value(reader, Keys.Split.LLM_KV_SPLIT_COUNT)
    if parts is not None and parts not in (0, 1):
        raise ModelLoadError(f"{path} is one of {parts} parts; join them with llama-gguf-split --merge")
    return architecture, tokens


def ends(reader: GGUFReader) -> tuple[int, ...]:
    """The ids that end a sequence, as far as the file names them."""
    found = (value(reader, key) for key in ENDS)
    return tuple(dict.fromkeys(end for end in found if isinstance(end, int)))


def _check_attention(reader: GGUFReader, path: Path, architecture: str) -> None:
    """llama.cpp asserts these while it computes, not while it loads."""

    def read(key: str) -> Any:
        return value(reader, key.format(arch=architecture))

    heads, width = read(Keys.Attention.HEAD_COUNT), read(Keys.LLM.EMBEDDING_LENGTH)
    length = read(Keys.Attention.KEY_LENGTH)
    if length is None and isinstance(heads, int) and isinstance(width, int) and heads > 0:
        length = width // heads
    rotated = read(Keys.Rope.DIMENSION_COUNT)
    if rotated is not None and isinstance(length, int) and length > 0:
        whole = architecture in _ROTATE_WHOLE_HEADS
        fits = isinstance(rotated, int) and (rotated == length if whole else 0 < rotated <= length)
        if not fits or rotated % 2:
            expected = f"all {length}" if whole else f"an even number up to {length}"
            raise ModelLoadError(f"{path} rotates {rotated} numbers of each head; expected {expected}")
    for key in (Keys.Attention.LAYERNORM_EPS, Keys.Attention.LAYERNORM_RMS_EPS):
        epsilon = read(key)
        if epsilon is not None and not (isinstance(epsilon, float) and 0 <= epsilon < math.inf):
            raise ModelLoadError(f"{path} has {key.format(arch=architecture)} {epsilon}; expected 0 or a small number")
