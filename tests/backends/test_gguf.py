"""GGUF files: exported, given a grid, read back; and refused where they are damaged, foreign or hostile."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tests.backends import open_damaged
from tests.backends.conftest import Exported
from zip_introspect.errors import BackendNotInstalledError, GridError, ModelLoadError, ReservedTokensError
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_transformers import TransformersBackend

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

from gguf import GGUFReader, GGUFWriter

from zip_introspect_llama_cpp import LlamaCppBackend, gguf_file
from zip_introspect_llama_cpp.exporting.export import GgufExporter


def test_a_file_beside_or_an_argument_gives_the_grid(exported: Exported, tmp_path: Path, grid: JointGrid) -> None:
    backend = LlamaCppBackend.open(exported(), cells=256)
    assert backend.grid == grid
    assert backend.info.architecture == "qwen3"
    assert backend.info.dtype == "f32"
    backend.close()
    other = JointGrid.paper(grid.first_reserved, startup=16)
    backend = LlamaCppBackend.open(exported(), grid=other, cells=256)
    assert backend.grid == other
    backend.close()


@pytest.mark.parametrize("keep", [0, 3, 20, 500, 0.5, 0.99])
def test_a_truncated_file_is_refused(keep: float, exported: Exported, tmp_path: Path) -> None:
    whole = exported().read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf"):
        LlamaCppBackend.open(path)


def test_foreign_newer_and_missing_files_are_refused(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(ModelLoadError, match="is not a file"):
        LlamaCppBackend.open(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ModelLoadError, match=r"begins with b'PK.*is not a GGUF file"):
        LlamaCppBackend.open(path)
    whole = exported().read_bytes()
    path.write_bytes(whole[:4] + struct.pack("<I", 99) + whole[8:])
    with pytest.raises(ModelLoadError, match="newer GGUF version"):
        LlamaCppBackend.open(path)
    assert LlamaCppBackend.accepts(path)
    assert LlamaCppBackend.accepts("anything.gguf")
    assert not LlamaCppBackend.accepts(tmp_path)


def test_damaged_metadata_is_refused_before_llama_cpp_sees_it(exported: Exported, tmp_path: Path) -> None:
    path, whole = tmp_path / "model.gguf", exported().read_bytes()
    for old, new, reason in (
        (b"qwen3.block_count", b"qwen3.block_counT", "has None layers"),
        (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenS", "no architecture or no tokens"),
        (b"<|reserved_7|>", b"<|reserved_8|>", "same token twice"),
        (b"zip_introspect.version", b"zip_introspect.versioN", r"lacks zip_introspect\.version"),
    ):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        with pytest.raises((ModelLoadError, GridError), match=reason):
            LlamaCppBackend.open(path)
    bomb = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 9) + struct.pack("<IQ", 0, 2**30)
    path.write_bytes(bomb)
    with pytest.raises(ModelLoadError, match="ends before byte"):
        LlamaCppBackend.open(path)
    nested = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 9) + b"\x09\0\0\0\x01" * 5000
    path.write_bytes(nested)
    with pytest.raises(ModelLoadError, match=r"cut short, damaged"):
        LlamaCppBackend.open(path)


def test_a_grid_that_does_not_fit_is_refused(exported: Exported, grid: JointGrid) -> None:
    beyond = JointGrid.paper(grid.first_reserved + 10)
    with pytest.raises(ReservedTokensError, match="grid needs ids"):
        LlamaCppBackend.open(exported(), grid=beyond)


def test_a_grid_can_be_attached_to_a_file_without_one(exported: Exported, tmp_path: Path, grid: JointGrid) -> None:
    bare = tmp_path / "bare.gguf"
    whole = exported().read_bytes()
    bare.write_bytes(whole.replace(b"zip_introspect.", b"zip_introspecT."))
    assert LlamaCppBackend.open(bare).grid is None
    attached = tmp_path / "attached.gguf"
    GgufExporter().attach_grid(bare, grid, attached)
    backend = LlamaCppBackend.open(attached, cells=256)
    assert backend.grid == grid
    backend.close()
    with pytest.raises(GridError, match="is the file itself"):
        GgufExporter().attach_grid(bare, grid, bare)
    grid.save(tmp_path)
    backend = LlamaCppBackend.open(bare, cells=256)
    assert backend.grid == grid
    backend.close()


def test_other_architectures_are_told_the_way_round(
    make_model: Any, tokenizer: Any, grid: JointGrid, tmp_path: Path
) -> None:
    make_model("gemma3").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    grid.save(tmp_path)
    with pytest.raises(ModelLoadError, match=r"Gemma3ForCausalLM.*convert_hf_to_gguf\.py.*attach-grid"):
        GgufExporter().export(tmp_path, tmp_path / "out.gguf", "f32")
    with pytest.raises(ModelLoadError, match="type is 'q3'; expected one of f32"):
        GgufExporter().export(tmp_path, tmp_path / "out.gguf", "q3")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("kind", GgufExporter.types)
def test_every_type_of_weights_gives_joints_near_the_exact_ones(kind: str, exported: Exported, grid: JointGrid) -> None:
    found = []
    for type_ in ("f32", kind):
        backend = LlamaCppBackend.open(exported("llama", type_), cells=256)
        (prompt,) = backend.prefill([backend.encode("Solve 3*x+16=31")])
        found.append(joint.from_logits(prompt.joint_logits, grid))
        assert backend.info.dtype in {type_, "f16"}, "rows that no block fits are kept in f16"
        backend.close()
    assert np.abs(found[0] - found[1]).sum() / 2 < 0.2


@pytest.mark.parametrize("writes", ["", "{{ bos_token }}"])
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_a_begin_of_sequence_token_comes_once(
    make_model: Any, tokenizer: Any, grid: JointGrid, tmp_path: Path, writes: str, begins: bool, ends: bool
) -> None:
    tokenizer.save_pretrained(tmp_path)
    begun = AutoTokenizer.from_pretrained(tmp_path)
    begun.bos_token = "<|system|>"
    begun.chat_template = writes + begun.chat_template
    bos, eos = begun.bos_token, begun.eos_token
    begun.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} " * begins + "$A" + f" {eos}" * ends,
        special_tokens=[(bos, begun.bos_token_id), (eos, begun.eos_token_id)],
    )
    begun.save_pretrained(tmp_path)
    make_model("llama").save_pretrained(tmp_path)
    grid.save(tmp_path)
    GgufExporter().export(tmp_path, tmp_path / "begun.gguf", "f32")
    ours, theirs = LlamaCppBackend.open(tmp_path / "begun.gguf", cells=256), TransformersBackend.open(tmp_path)
    for chat in (True, False):
        for text in ("Solve 3*x+16=31", "<|system|>?"):
            tokens = ours.encode(text, chat=chat)
            assert tokens == theirs.encode(text, chat=chat)
            assert tokens.count(begun.bos_token_id) == (begins or (chat and bool(writes)))
            assert tokens[-1] != begun.eos_token_id
    ours.close()


def test_a_grid_is_attached_to_files_of_any_alignment_and_arrays_may_be_empty(tmp_path: Path, grid: JointGrid) -> None:
    source, target = tmp_path / "odd.gguf", tmp_path / "out.gguf"
    writer = GGUFWriter(source, arch="qwen3")
    writer.add_custom_alignment(128)
    writer.add_token_list([f"t{number}" for number in range(grid.first_reserved + grid.num_cells)])
    writer.add_eos_token_id(0)
    writer.add_array("odd.numbers", [1.5, -2.0])
    writer.add_string("odd.name", "\N{SNOWMAN}")
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("a", (3, 5)), ("b", (7,)))}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    GgufExporter().attach_grid(source, grid, target)
    copy = gguf_file.read(target)
    assert gguf_file.find_grid(copy, target) == grid
    assert copy.alignment == 128
    assert gguf_file.value(copy, "odd.name") == "\N{SNOWMAN}"
    assert gguf_file.value(copy, "odd.numbers") == [1.5, -2.0]
    for tensor in copy.tensors:
        np.testing.assert_array_equal(tensor.data, tensors[tensor.name])
    other = JointGrid.paper(grid.first_reserved, startup=16)
    GgufExporter().attach_grid(target, other, tmp_path / "again.gguf")
    again = tmp_path / "again.gguf"
    assert gguf_file.find_grid(gguf_file.read(again), again) == other, "an older grid is replaced"


def test_the_quick_reader_reads_what_the_library_reads(exported: Exported) -> None:
    ours, theirs = gguf_file.read(exported("lfm2")), GGUFReader(exported("lfm2"))
    assert ours.fields.keys() == theirs.fields.keys()
    for name, field in theirs.fields.items():
        assert gguf_file.value(ours, name) == field.contents()
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.data, other.data)


@pytest.mark.parametrize(
    ("field", "new", "reason"),
    [
        ("qwen3.rope.dimension_count", struct.pack("<I", 0), "rotates 0 numbers of each head; expected all 8"),
        ("qwen3.rope.dimension_count", struct.pack("<I", 2**20), "rotates 1048576 numbers"),
        ("qwen3.rope.dimension_count", struct.pack("<I", 4), "rotates 4 numbers of each head; expected all 8"),
        ("qwen3.attention.layer_norm_rms_epsilon", struct.pack("<f", float("nan")), "rms_epsilon nan"),
        ("qwen3.attention.layer_norm_rms_epsilon", struct.pack("<f", -1.0), r"rms_epsilon -1\.0"),
    ],
)
def test_what_llama_cpp_would_stop_the_process_for_is_refused(
    field: str, new: bytes, reason: str, exported: Exported, tmp_path: Path
) -> None:
    whole, path = exported().read_bytes(), tmp_path / "hostile.gguf"
    at = whole.index(field.encode()) + len(field) + 4  # after the name comes the type
    path.write_bytes(whole[:at] + new + whole[at + len(new) :])
    with pytest.raises(ModelLoadError, match=reason):
        LlamaCppBackend.open(path)


@pytest.mark.parametrize("architecture", ["qwen3", "lfm2"])
def test_no_damage_stops_the_process(architecture: str, exported: Exported, tmp_path: Path) -> None:
    command = [sys.executable, open_damaged.__file__, str(exported(architecture, "q8_0")), str(tmp_path / "d.gguf")]
    done = subprocess.run([*command, "150", "7"], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-2000:])
    assert len(done.stdout.splitlines()) == 150


@pytest.fixture
def checkpoint(make_model: Any, tokenizer: Any, grid: JointGrid, tmp_path: Path) -> Path:
    make_model("qwen3").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    grid.save(tmp_path)
    return tmp_path


def change(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **changes}))


def test_three_ends_of_sequence_are_kept_and_the_tokenizers_own_comes_first(checkpoint: Path, tokenizer: Any) -> None:
    own = tokenizer.eos_token_id
    change(checkpoint / "generation_config.json", eos_token_id=[5, own, 7])
    GgufExporter().export(checkpoint, checkpoint / "out.gguf", "f32")
    backend = LlamaCppBackend.open(checkpoint / "out.gguf", cells=256)
    assert set(backend.info.eos_token_ids) == {5, 7, own}
    assert backend._model.eos == own
    assert set(GgufExporter().describe(checkpoint / "out.gguf").eos_token_ids) == {5, 7, own}
    backend.close()


def test_what_would_become_another_model_is_not_exported(checkpoint: Path) -> None:
    out = checkpoint / "out.gguf"
    change(checkpoint / "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(ModelLoadError, match="quantization_config"):
        GgufExporter().export(checkpoint, out, "f32")
    change(checkpoint / "config.json", quantization_config=None, attention_bias=True)
    with pytest.raises(ModelLoadError, match="attention_bias=True"):
        GgufExporter().export(checkpoint, out, "f32")
    change(checkpoint / "config.json", attention_bias=False)
    weights = load_file(checkpoint / "model.safetensors")
    for name, tensor, reason in (
        ("model.norm.weight", torch.ones(32, dtype=torch.int8), "is I8 of shape"),
        ("model.norm.weight", torch.ones(33), r"of shape \[33\]; expected one of F32, F16, BF16 of shape \[32\]"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", torch.ones(1), "weight_scale_inv is not one of its"),
    ):
        save_file({**weights, name: tensor}, checkpoint / "model.safetensors")
        with pytest.raises(ModelLoadError, match=reason):
            GgufExporter().export(checkpoint, out, "f32")
    assert not out.exists()


def test_converting_without_torch_names_what_to_install(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "zip_introspect_llama_cpp.exporting.convert", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendNotInstalledError, match=r"'torch'.*\[llama-cpp,transformers\]"):
        GgufExporter().export(checkpoint, checkpoint / "out.gguf", "f32")


def test_a_part_of_a_model_gets_no_grid(tmp_path: Path, grid: JointGrid) -> None:
    part = tmp_path / "part.gguf"
    writer = GGUFWriter(part, arch="qwen3")
    writer.add_token_list(["a", "b"])
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="one of 3 parts"):
        GgufExporter().attach_grid(part, grid, tmp_path / "out.gguf")


def test_a_copy_that_cannot_be_written_is_an_error_of_ours(exported: Exported, tmp_path: Path, grid: JointGrid) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadError, match="cannot be written"):
        GgufExporter().attach_grid(exported(), grid, tmp_path / "file" / "out.gguf")
    GgufExporter().attach_grid(exported(), grid, tmp_path / "new" / "folder" / "out.gguf")


def test_a_file_ends_its_texts_where_its_checkpoint_does(checkpoint: Path, tokenizer: Any) -> None:
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    change(checkpoint / "config.json", eos_token_id=user)
    change(checkpoint / "generation_config.json", eos_token_id=user)
    GgufExporter().export(checkpoint, checkpoint / "out.gguf", "f32")
    backend, theirs = LlamaCppBackend.open(checkpoint / "out.gguf", cells=256), TransformersBackend.open(checkpoint)
    assert backend.info.eos_token_ids == theirs.info.eos_token_ids == tuple(sorted({user, tokenizer.eos_token_id}))
    backend.close()


def test_the_token_that_closes_an_answer_ends_it(checkpoint: Path, tokenizer: Any) -> None:
    template = "{% for m in messages %}<|user|>{{ m.content }}<|system|>{% endfor %}<|assistant|>"
    (checkpoint / "chat_template.jinja").write_text(template)
    GgufExporter().export(checkpoint, checkpoint / "out.gguf", "f32")
    backend = LlamaCppBackend.open(checkpoint / "out.gguf", cells=256)
    assert backend._model.eos_ids == (tokenizer.eos_token_id,)
    assert set(backend.info.eos_token_ids) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|system|>")}
    assert backend.info.eos_token_ids == TransformersBackend.open(checkpoint).info.eos_token_ids
    backend.close()


@pytest.mark.parametrize("written", [False, True])
def test_a_token_that_only_looks_like_an_end_is_none(checkpoint: Path, tokenizer: Any, written: bool) -> None:
    special = set(tokenizer.all_special_tokens)
    text = next(text for text, _ in sorted(tokenizer.get_vocab().items()) if re.fullmatch("[a-z]{4}", text))
    assert text not in special
    if written:
        template = "{% for m in messages %}<|user|>{{ m.content }}</s>{% endfor %}<|assistant|>"
        (checkpoint / "chat_template.jinja").write_text(template)
    GgufExporter().export(checkpoint, checkpoint / "out.gguf", "f32")
    whole = (checkpoint / "out.gguf").read_bytes()
    length = struct.pack("<Q", 4)
    assert whole.count(length + text.encode()) == 1
    (checkpoint / "out.gguf").write_bytes(whole.replace(length + text.encode(), length + b"</s>"))
    backend = LlamaCppBackend.open(checkpoint / "out.gguf", cells=256)
    html = {tokenizer.convert_tokens_to_ids(text)} if written else set()
    assert set(backend.info.eos_token_ids) == {tokenizer.eos_token_id} | html
    backend.close()


@pytest.mark.parametrize("key", ["eos_token_id", "eot_token_id", "bos_token_id"])
@pytest.mark.parametrize("token", [2**32 - 1, 100_000])
def test_an_end_or_a_beginning_that_is_no_token_is_refused(
    checkpoint: Path, tokenizer: Any, key: str, token: int
) -> None:
    change(checkpoint / "generation_config.json", eos_token_id=[5, tokenizer.eos_token_id])
    begun = AutoTokenizer.from_pretrained(checkpoint)
    begun.bos_token = "<|system|>"
    begun.save_pretrained(checkpoint)
    out = checkpoint / "out.gguf"
    GgufExporter().export(checkpoint, out, "f32")
    whole = out.read_bytes()
    at = whole.index(f"tokenizer.ggml.{key}".encode()) + len(f"tokenizer.ggml.{key}") + 4
    out.write_bytes(whole[:at] + struct.pack("<I", token) + whole[at + 4 :])
    with pytest.raises(ModelLoadError, match=rf"has tokenizer\.ggml\.{key} {token}; expected an id from 0 to"):
        LlamaCppBackend.open(out)
