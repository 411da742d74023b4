"""Writing into a copy of a GGUF file: a grid into its metadata, or a linear head into its output head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, ReaderField, ReaderTensor, TokenType
from gguf.constants import Keys
from gguf.quants import quantize
from numpy.typing import NDArray

from zip_introspect.errors import GridError, HeadError, ModelLoadError
from zip_introspect.heads.attaching import Place, grid_at, placed, rows_of
from zip_introspect.heads.head import Head
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_llama_cpp import fingerprint
from zip_introspect_llama_cpp.gguf_file import (
    GRID_PREFIX,
    check_text_model,
    describe,
    ends,
    find_grid,
    read,
    value,
)

_TABLE, _OUTPUT = "token_embd.weight", "output.weight"
_SCALED = (Keys.LLM.FINAL_LOGIT_SOFTCAPPING, Keys.LLM.LOGIT_SCALE)


@dataclass(frozen=True)
class _Edits:
    """What is not as in the source."""

    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Whole tensors, in their own type."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Values of metadata that is there."""


def attach_grid(source: Path, grid: JointGrid, target: Path) -> None:
    """Copy a GGUF file with a grid in its metadata, and verify the copy.

    Raises:
        ModelLoadError: the source is not a whole GGUF file, or the copy could not be verified.
        ReservedTokensError: the grid does not fit the file's vocabulary.
        GridError: source and target are the same file.
    """
    reader = read(source)
    _, tokens = check_text_model(reader, source)
    grid.check_fits(len(tokens), ends(reader))
    _write(reader, source, target, grid, _Edits())


def attach_head(source: Path, head: Head, target: Path) -> tuple[Place, JointGrid]:
    """Copy a GGUF file with a linear head in rows of its output head, and verify the copy.

    Returns:
        which rows they are, and the grid with their ids.

    Raises:
        HeadError: a head that cannot be written, or is another model's; a file that has a grid, or whose output head
            does more than multiply, or is of a type that the gguf package does not write.
        ModelLoadError, ReservedTokensError, GridError: as `attach_grid`.
    """
    reader, rows = read(source), rows_of(head)
    said = describe(source)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    _check_plain(reader, source, said.architecture, tensors)
    template = value(reader, Keys.Tokenizer.CHAT_TEMPLATE)
    head.check_fits(said.hidden_size or 0)
    head.check_belongs(lambda ids: fingerprint.taken(reader, said.architecture, said.layers or 0, template, ids))
    place = placed(said.tokens, said.rows, said.eos_token_ids, len(rows))
    grid = grid_at(head, place)
    output = tensors.get(_OUTPUT, tensors[_TABLE])
    written = {output.name: _as_stored(output, rows)}
    if place.appended:
        written.setdefault(_TABLE, _as_stored(tensors[_TABLE], np.zeros_like(rows)))
        edits = _Edits(
            {name: np.concatenate([tensors[name].data, more]) for name, more in written.items()},
            _with_tokens(reader, said.architecture, place.first, len(rows)),
        )
    else:
        grid.check_fits(said.rows, said.eos_token_ids)
        changed = output.data.copy()
        changed[grid.reserved.start : grid.reserved.stop] = written[output.name]
        edits = _Edits({output.name: changed})
    _write(reader, source, target, grid, edits)
    return place, grid


def output_rows(file: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    """Rows of a file's output head, shape (ids, hidden size).

    Raises:
        ModelLoadError: as `gguf_file.read`.
        HeadError: it has no output head, or one of a type that the gguf package does not read.
    """
    tensors = {tensor.name: tensor for tensor in read(file).tensors}
    output = tensors.get(_OUTPUT, tensors.get(_TABLE))
    if output is None:
        raise HeadError(f"{file} has no {_TABLE}; expected a causal language model's file")
    return fingerprint.numbers(output, ids)


def _check_plain(reader: GGUFReader, source: Path, architecture: str, tensors: Mapping[str, ReaderTensor]) -> None:
    if find_grid(reader, source) is not None:
        raise HeadError(f"{source} has a grid, so its reserved rows are trained already; expected a model without one")
    if _TABLE not in tensors:
        raise HeadError(f"{source} has no {_TABLE}; expected a causal language model's file")
    for key in _SCALED:
        found = value(reader, key.format(arch=architecture))
        if found not in (None, 0.0, 1.0):
            raise HeadError(
                f"{source} has {key.format(arch=architecture)}={found:g}, so that rows of its output head do not give "
                f"a head's logits as they are. Lay the head over it: head=FILE"
            )
    if "output.bias" in tensors:
        raise HeadError(f"the output head of {source} has a bias; expected one that only multiplies")


def _as_stored(tensor: ReaderTensor, rows: NDArray[np.float32]) -> NDArray[Any]:
    """Rows in a tensor's own type."""
    try:
        data = quantize(rows, tensor.tensor_type)
    except NotImplementedError as error:
        raise HeadError(
            f"{tensor.name} is stored as {tensor.tensor_type.name}, which the gguf package does not write; expected "
            f"this model's file in Q8_0, F16, BF16 or F32, or one by `zip-introspect export gguf`. Laid over the file "
            f"as it is, the head works too: head=FILE"
        ) from error
    return np.frombuffer(data.tobytes(), tensor.data.dtype).reshape(len(rows), *tensor.data.shape[1:])


def _with_tokens(reader: GGUFReader, architecture: str, first: int, count: int) -> dict[str, Any]:
    """The vocabulary's metadata with unused tokens behind it."""
    tokens = value(reader, Keys.Tokenizer.LIST)
    names = [f"[PAD{number}]" for number in range(first, first + count)]
    if taken := set(names) & set(tokens):
        raise HeadError(f"the vocabulary has {sorted(taken)[0]} already, so that no rows can be appended")
    found: dict[str, Any] = {Keys.Tokenizer.LIST: [*tokens, *names]}
    more = {Keys.Tokenizer.TOKEN_TYPE: int(TokenType.UNUSED), Keys.Tokenizer.SCORES: 0.0}
    for key, each in more.items():
        if (there := value(reader, key)) is not None:
            found[key] = [*there, *[each] * count]
    size = Keys.LLM.VOCAB_SIZE.format(arch=architecture)
    if value(reader, size) is not None:
        found[size] = first + count
    return found


def _write(reader: GGUFReader, source: Path, target: Path, grid: JointGrid, edits: _Edits) -> None:
    if target.resolve() == source.resolve():
        raise GridError(f"{target} is the file itself; expected another name, as a copy is written")
    if target.exists():
        raise GridError(f"{target} exists; expected the name of a file to be made. Delete it, or name another")
    architecture, _ = check_text_model(reader, source)
    partial = target.with_suffix(".partial")
    writer = GGUFWriter(partial, arch=architecture, endianess=reader.endianess)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(reader, grid, writer, edits)
        _verify(reader, read(partial), grid, partial, edits)
        partial.replace(target)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{target} cannot be written from {source}: {error}") from error
    finally:
        writer.close()
        with suppress(OSError):
            partial.unlink()


def add_grid(writer: GGUFWriter, grid: JointGrid) -> None:
    """Write a grid's metadata."""
    for name, content in grid.to_metadata().items():
        if isinstance(content, int):
            writer.add_uint32(name, content)
        else:
            writer.add_key_value(name, content, GGUFValueType.ARRAY, sub_type=GGUFValueType.FLOAT64)


def _copy(reader: GGUFReader, grid: JointGrid, writer: GGUFWriter, edits: _Edits) -> None:
    writer.data_alignment = int(value(reader, Keys.General.ALIGNMENT) or writer.data_alignment)
    for item in reader.fields.values():
        # The writer makes the GGUF.* ones and the architecture itself; an older grid is replaced.
        if item.name == Keys.General.ARCHITECTURE or item.name.startswith(("GGUF.", GRID_PREFIX)):
            continue
        if _empty(item):  # the writer has no way to say it
            continue
        kind = item.types[0]
        inner = item.types[-1] if kind == GGUFValueType.ARRAY else None
        content = edits.fields[item.name] if item.name in edits.fields else item.contents()
        writer.add_key_value(item.name, content, kind, sub_type=inner)
    add_grid(writer, grid)
    data = {tensor.name: edits.tensors.get(tensor.name, tensor.data) for tensor in reader.tensors}
    for tensor in reader.tensors:
        own = data[tensor.name]
        writer.add_tensor_info(tensor.name, own.shape, own.dtype, own.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(data[tensor.name], tensor_endianess=reader.endianess)
    writer.close()


def _empty(item: ReaderField) -> bool:
    return item.types[0] == GGUFValueType.ARRAY and not item.contents()


def _verify(source: GGUFReader, copy: GGUFReader, grid: JointGrid, path: Path, edits: _Edits) -> None:
    same = len(source.tensors) == len(copy.tensors) and all(
        one.name == other.name
        and one.tensor_type == other.tensor_type
        and edits.tensors.get(one.name, one.data).tobytes() == other.data.tobytes()
        for one, other in zip(source.tensors, copy.tensors, strict=True)
    )
    kept = {
        name for name, item in source.fields.items() if not name.startswith(("GGUF.", GRID_PREFIX)) and not _empty(item)
    }
    same = same and all(repr(value(copy, name)) == repr(edits.fields.get(name, value(source, name))) for name in kept)
    if not same or find_grid(copy, path) != grid:
        raise ModelLoadError(f"the copy of {path} is not the same as its source; is the disk full? Try again.")
