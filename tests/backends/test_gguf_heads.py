"""Linear heads written into GGUF files: the rows are the head's, all else is the source's, and llama.cpp reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("gguf", reason="the extra llama-cpp is not installed")

from gguf import GGUFReader, TokenType
from gguf.quants import dequantize

from tests.heads.test_attaching import GRID, head_for, joints
from tests.training import models
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.errors import HeadError
from zip_introspect.heads.attaching import rows_of
from zip_introspect.heads.head import Head
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_llama_cpp import gguf_file
from zip_introspect_llama_cpp.exporting.export import GgufExporter

ROUNDED = {"f32": 1e-6, "f16": 1e-3, "bf16": 0.01, "q8_0": 0.02, "q5_1": 0.2, "q4_0": 0.4}
"""What a weight of the head may be off by, of one whose deviation is 1."""


def exported(folder: Path, kind: str) -> Path:
    target = folder / f"{kind}.gguf"
    GgufExporter().export(folder, target, kind)
    return target


def tensors(file: Path) -> dict[str, np.ndarray]:
    reader = GGUFReader(file)
    return {item.name: np.asarray(dequantize(item.data, item.tensor_type)) for item in reader.tensors}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", list(ROUNDED))
@pytest.mark.parametrize("cells", ["spare", "appended"])
def test_the_rows_are_the_heads_and_all_else_is_the_sources(tied: bool, kind: str, cells: str, tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model", tied=tied, dtype=torch.float32)
    source, target = exported(folder, kind), tmp_path / "out.gguf"
    head = wide(head_for(folder)) if cells == "appended" else head_for(folder)
    first, count = (384, 72) if cells == "appended" else (320, 64)
    place, grid = GgufExporter().attach_head(source, head, target)
    assert (place.first, place.appended) == (first, cells == "appended")
    assert grid.reserved == range(first, first + count)
    assert gguf_file.find_grid(gguf_file.read(target), target) == grid
    before, after = tensors(source), tensors(target)
    assert list(before) == list(after)
    output = "token_embd.weight" if tied else "output.weight"
    for name, weight in before.items():
        found = after[name]
        if name == output:
            np.testing.assert_allclose(found[first : first + count], rows_of(head), atol=ROUNDED[kind])
            found = np.concatenate([found[:first], found[first + count :]])
            weight = np.concatenate([weight[:first], weight[first + count :]])
        elif name == "token_embd.weight" and place.appended:
            assert not found[384:].any()
            found = found[:384]
        np.testing.assert_array_equal(found, weight, err_msg=name)
    reader = gguf_file.read(target)
    tokens, kinds = (gguf_file.value(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    assert len(tokens) == len(kinds) == max(384, first + count)
    if place.appended:
        assert tokens[384:386] == ["[PAD384]", "[PAD385]"]
        assert set(kinds[384:]) == {TokenType.UNUSED}


def wide(head: Head) -> Head:
    """With more cells than there are spare ids."""
    grid = JointGrid(reward_edges=np.linspace(0, 1, 10), length_edges=GRID.length_edges)
    weight = np.concatenate([rows_of(head), rows_of(head)[:8]])
    return Head.of(
        grid,
        {"0.weight": weight, "0.bias": np.zeros(72, np.float32)},
        hidden_size=32,
        inputs=("last",),
        fingerprint=head.fingerprint,
    )


@pytest.mark.parametrize("cells", ["spare", "appended"])
@pytest.mark.parametrize("tied", [False, True])
def test_llama_cpp_says_what_the_head_says_over_the_checkpoint(tied: bool, cells: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    folder = models.write(tmp_path / "model", tied=tied, dtype=torch.float32)
    head = wide(head_for(folder)) if cells == "appended" else head_for(folder)
    source, target, prompt = exported(folder, "f32"), tmp_path / "out.gguf", "Solve 3*x+5=35"
    GgufExporter().attach_head(source, head, target)
    config = GenerationConfig(max_new_tokens=6, seed=1)
    with IntrospectiveLLM.from_pretrained(folder, head=head, backend="transformers") as llm:
        laid = joints(llm, prompt)
    with IntrospectiveLLM.from_pretrained(source, config=config) as llm:
        text = llm.generate(prompt).text
    with IntrospectiveLLM.from_pretrained(target, config=config) as llm:
        written, again = joints(llm, prompt), llm.generate(prompt).text
    np.testing.assert_allclose(written, laid, atol=2e-3)
    if cells == "appended":
        assert again == text


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model", dtype=torch.float32)
    source, head = exported(folder, "q8_0"), head_for(folder)
    GgufExporter().attach_head(source, head, tmp_path / "once.gguf")
    with pytest.raises(HeadError, match="has a grid"):
        GgufExporter().attach_head(tmp_path / "once.gguf", head, tmp_path / "twice.gguf")
    with pytest.raises(HeadError, match="has a bias"):
        GgufExporter().attach_head(source, head_for(folder, bias=1.0), tmp_path / "out.gguf")
    assert sorted(file.name for file in tmp_path.glob("*.gguf*")) == ["once.gguf"]
    assert not list(tmp_path.glob("*.partial"))
