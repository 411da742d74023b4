"""Writing a linear head into an output head: its logits then come with those of the tokens.

A linear head reads what the output head reads, so its matrix can be rows of it: of ids that stand for nothing, or
appended ones. For servers such as vLLM, which give logits of token ids and no hidden states. Rows are written in the
tensor's own number type; every other byte of the weights stays as it is.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import HeadError, ModelLoadError
from zip_introspect.heads.checkpoint import INDEX, Checkpoint, as_type, header_of, json_of
from zip_introspect.heads.head import Head
from zip_introspect.heads.spare_ids import first_of
from zip_introspect.introspection.grid import JointGrid

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Place:
    """Rows of an output head for the cells of a joint."""

    first: int
    appended: bool


def placed(names: dict[int, str], rows: int, eos_token_ids: Iterable[int], cells: int) -> Place:
    """The first of enough consecutive ids that stand for nothing; behind the last row where there are none.

    Args:
        names: the tokenizer's tokens by id.
        rows: of the output head.

    Raises:
        HeadError: the tokenizer has ids behind the last row.
    """
    if (first := first_of(names, rows, eos_token_ids, cells)) is not None:
        return Place(first, appended=False)
    if (last := max(names, default=-1)) >= rows:
        raise HeadError(
            f"the tokenizer has ids up to {last}, and the output head has {rows} rows: appended ones would be those of "
            f"tokens. Resize the embeddings to {last + 1} rows first"
        )
    return Place(rows, appended=True)


def grid_at(head: Head, place: Place) -> JointGrid:
    """A head's grid, with the ids of its rows."""
    grid = head.grid
    return JointGrid(
        reward_edges=grid.reward_edges,
        length_edges=grid.length_edges,
        reward_values=grid.reward_values,
        length_values=grid.length_values,
        first_reserved=place.first,
    )


def rows_of(head: Head) -> NDArray[np.float32]:
    """A head as rows of an output head, shape (cells, hidden size).

    Raises:
        HeadError: it is not linear, reads more than the last hidden state, or has a bias.
    """
    reasons = []
    if len(head.layers) != 1:
        reasons.append("has a hidden layer")
    if head.about.inputs != ("last",):
        reasons.append(f"reads {' and '.join(head.about.inputs)}")
    weight, bias = head.layers[0]
    if len(head.layers) == 1 and bias.any():
        reasons.append("has a bias")
    if reasons:
        raise HeadError(
            f"the head {', '.join(reasons)}; expected a linear one over the last hidden state without a bias, which "
            f"`zip-introspect fit --attachable` makes. Any other is used as it is: head=FILE"
        )
    return weight


def attach(checkpoint: Checkpoint, head: Head, place: Place, out: Path) -> JointGrid:
    """Copy a checkpoint with a head in its output head, and its grid beside it.

    Args:
        place: of the rows; where they are appended, both embeddings get as many, those of tokens zeros.
        out: a directory that does not exist.

    Returns:
        the grid with its reserved ids.

    Raises:
        HeadError: a head that cannot be written, or is another model's; or the directory exists.
        ReservedTokensError: the rows do not fit.
        ModelLoadError: what was written is not what it should be.
    """
    rows = rows_of(head)
    head.check_fits(checkpoint.heads[0].shape[1])
    checkpoint.check_plain()
    head.check_belongs(checkpoint.fingerprint)
    grid = grid_at(head, place)
    written = {item.name: as_type(rows, item.kind) for item in checkpoint.heads}
    if out.exists():
        raise HeadError(f"{out} exists; expected the name of a directory to be made")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if place.appended:
            # Both tables have a row a token; that of a reserved token is never looked up.
            written.setdefault(checkpoint.embedding.name, as_type(np.zeros_like(rows), checkpoint.embedding.kind))
        anew = {checkpoint.tensors[name].file.name for name in written} if place.appended else set()
        shutil.copytree(
            checkpoint.folder, partial, ignore=lambda where, _: anew if Path(where) == checkpoint.folder else ()
        )
        if place.appended:
            _append(checkpoint, partial, written, len(rows))
        else:
            for name, data in written.items():
                tensor = checkpoint.tensors[name]
                with (partial / tensor.file.name).open("r+b") as stream:
                    stream.seek(tensor.start + place.first * tensor.row)
                    stream.write(data)
        _verify(Checkpoint(partial), place, written)
        grid.save(partial)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return grid


def _append(checkpoint: Checkpoint, folder: Path, written: dict[str, bytes], count: int) -> None:
    """Write the files of some tensors anew, with more rows; and what counts them in the configuration and index."""
    for file in {checkpoint.tensors[name].file for name in written}:
        _write_longer(
            file, folder / file.name, {n: d for n, d in written.items() if checkpoint.tensors[n].file == file}
        )
    config = json_of(folder / "config.json")
    sized = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    sized["vocab_size"] = checkpoint.heads[0].shape[0] + count
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (folder / INDEX).exists():
        index = json_of(folder / INDEX)
        if isinstance(total := index.get("metadata", {}).get("total_size"), int):
            index["metadata"]["total_size"] = total + sum(map(len, written.values()))
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_longer(source: Path, target: Path, more: dict[str, bytes]) -> None:
    """A safetensors file with bytes behind some of its tensors, which are rows of them."""
    header, begin = header_of(source)
    longer: dict[str, Any] = {}
    shift = 0
    order = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    for name in order:
        entry, extra = header[name], len(more.get(name, b""))
        start, stop = entry["data_offsets"]
        shape = list(entry["shape"])
        if extra:
            shape[0] += extra * shape[0] // (stop - start)
        longer[name] = {**entry, "shape": shape, "data_offsets": [start + shift, stop + shift + extra]}
        shift += extra
    said = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
    text = json.dumps({**said, **longer}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with source.open("rb") as old, target.open("wb") as new:
        new.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            start, stop = header[name]["data_offsets"]
            old.seek(begin + start)
            for at in range(start, stop, _CHUNK):
                new.write(old.read(min(_CHUNK, stop - at)))
            new.write(more.get(name, b""))


def _verify(found: Checkpoint, place: Place, written: dict[str, bytes]) -> None:
    for name, data in written.items():
        tensor = found.tensors[name]
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start + place.first * tensor.row)
            if stream.read(len(data)) != data or (place.appended and stream.tell() != tensor.stop):
                raise ModelLoadError(f"{tensor.file} was not written as it should be; is the disk full? Try again.")
