"""Heads written into checkpoints: the rows are the head's, and not a byte beside them is another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training import models
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.errors import HeadError, ModelLoadError
from zip_introspect.heads.attaching import Place, attach, placed, rows_of
from zip_introspect.heads.checkpoint import SCALED, Checkpoint, as_type, from_type
from zip_introspect.heads.head import Head
from zip_introspect.heads.network import Input
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_transformers import TransformersBackend

GRID = JointGrid(reward_edges=np.linspace(0, 1, 9), length_edges=[0, *(2**n for n in range(3, 11))])
SHAPES = [("qwen3", False), ("qwen3", True), ("lfm2", True)]


def head_for(folder: Path, *, bias: float = 0.0, hidden: int = 32, inputs: tuple[Input, ...] = ("last",)) -> Head:
    rng = np.random.default_rng(3)
    weights = {
        "0.weight": rng.normal(size=(64, hidden * len(inputs))).astype(np.float32),
        "0.bias": np.full(64, bias, np.float32),
    }
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    backend = TransformersBackend.from_model(model, AutoTokenizer.from_pretrained(folder))
    return Head.of(GRID, weights, hidden_size=hidden, inputs=inputs, fingerprint=backend.fingerprint())


def sharded(folder: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(folder, dtype="auto").save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: item for file in sorted(folder.glob("*.safetensors")) for name, item in load_file(file).items()}


def joints(llm: IntrospectiveLLM, prompt: str) -> np.ndarray:
    llm.generate(prompt)
    found = llm.introspect(prompt)
    assert found.joint is not None
    return np.asarray(found.joint)


@pytest.mark.parametrize(("architecture", "tied"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", [Place(320, appended=False), Place(384, appended=True)])
@pytest.mark.parametrize("shards", [False, True])
def test_the_rows_are_the_heads_and_not_a_byte_beside_them_changes(
    architecture: str, tied: bool, dtype: torch.dtype, place: Place, shards: bool, tmp_path: Path
) -> None:
    folder = models.write(tmp_path / "model", architecture, tied=tied, dtype=dtype)
    if shards:
        sharded(folder)
    head, out = head_for(folder), tmp_path / "out"
    grid = attach(Checkpoint(folder), head, place, out)
    assert grid == JointGrid.load(out)
    assert grid.reserved == range(place.first, place.first + 64)
    names = {file.name for file in folder.iterdir()}
    assert {file.name for file in out.iterdir()} == names | {"zip_introspect.json"}
    changed = {"config.json", "model.safetensors.index.json"} if place.appended else set()
    for name in names - changed:
        if not name.endswith(".safetensors"):
            assert (folder / name).read_bytes() == (out / name).read_bytes(), name
    before, after = (tensors_of(where) for where in (folder, out))
    assert list(before) == list(after)
    output = "lm_head.weight" if not tied else "model.embed_tokens.weight"
    for name, weight in before.items():
        found = after[name]
        assert found.dtype == weight.dtype == dtype
        if name == output:
            assert torch.equal(found[place.first : place.first + 64], torch.from_numpy(rows_of(head)).to(dtype))
            rest = torch.cat([found[: place.first], found[place.first + 64 :]])
            assert torch.equal(rest, torch.cat([weight[: place.first], weight[place.first + 64 :]]))
        elif name == "model.embed_tokens.weight" and place.appended:
            assert torch.equal(found[:384], weight)
            assert not found[384:].any()
        else:
            assert torch.equal(found, weight), name
    if not place.appended:  # then the files themselves differ in those bytes alone
        size = sum(weight.element_size() * 32 * 64 for name, weight in before.items() if name == output)
        differing = sum(
            int(np.count_nonzero(np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8)))
            for a, b in (
                ((folder / f.name).read_bytes(), f.read_bytes()) for f in out.glob("*.safetensors")
            )
        )  # fmt: skip
        assert 0 < differing <= size


@pytest.mark.parametrize("place", [Place(320, appended=False), Place(384, appended=True)])
@pytest.mark.parametrize(("architecture", "tied"), SHAPES)
def test_it_says_what_the_head_says_over_the_model(architecture: str, tied: bool, place: Place, tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model", architecture, tied=tied, dtype=torch.float32)
    head, config = head_for(folder), GenerationConfig(max_new_tokens=6, seed=1)
    attach(Checkpoint(folder), head, place, tmp_path / "out")
    prompt = "Solve 3*x+5=35"
    with IntrospectiveLLM.from_pretrained(folder, head=head, config=config, backend="transformers") as llm:
        laid, text = joints(llm, prompt), llm.generate(prompt).text
    with IntrospectiveLLM.from_pretrained(tmp_path / "out", config=config, backend="transformers") as llm:
        written, again = joints(llm, prompt), llm.generate(prompt).text
    np.testing.assert_allclose(written, laid, atol=1e-5)
    if place.appended:  # spare rows could be drawn before, and are barred now
        assert again == text


def test_the_files_that_are_loaded_are_those_that_are_written(tmp_path: Path) -> None:
    """The same weights in another form lie beside some checkpoints, under names that come first."""
    folder = models.write(tmp_path / "model", dtype=torch.float32)
    head, weights = head_for(folder), load_file(folder / "model.safetensors")
    save_file({"output.weight": weights["lm_head.weight"]}, folder / "consolidated.safetensors")
    attach(Checkpoint(folder), head, Place(320, appended=False), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(found[320:384], torch.from_numpy(rows_of(head)))
    aside = (tmp_path / "out" / "consolidated.safetensors").read_bytes()
    assert aside == (folder / "consolidated.safetensors").read_bytes()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model")
    spare = Place(320, appended=False)
    for head, said in (
        (head_for(folder, bias=0.5), "has a bias"),
        (head_for(folder, inputs=("last", "mean")), "reads last and mean"),
    ):
        with pytest.raises(HeadError, match=said):
            attach(Checkpoint(folder), head, spare, tmp_path / "out")
    other = models.write(tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(-1)
    model.save_pretrained(other)
    with pytest.raises(HeadError, match="another model"):
        attach(Checkpoint(other), head_for(folder), spare, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(HeadError, match="exists"):
        attach(Checkpoint(folder), head_for(folder), spare, tmp_path / "there")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", SCALED)
def test_logits_that_are_scaled_behind_the_output_head_are_refused(name: str, tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model")
    head = head_for(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, name: 30.0}), encoding="utf-8")
    with pytest.raises(HeadError, match=f"{name}=30.0"):
        attach(Checkpoint(folder), head, Place(320, appended=False), tmp_path / "out")


@pytest.mark.parametrize("damage", ["short", "garbage", "beyond", "empty"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(
        {"short": whole[: len(whole) // 2], "garbage": b"\xff" * 64, "beyond": whole[:-8], "empty": b""}[damage]
    )
    with pytest.raises(ModelLoadError, match="cut short or not a safetensors file"):
        Checkpoint(folder)
    file.unlink()
    with pytest.raises(ModelLoadError, match=r"no \.safetensors files"):
        Checkpoint(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        Checkpoint(folder)


@given(st.lists(st.floats(-3e4, 3e4, width=32), min_size=2, max_size=40).filter(lambda x: len(x) % 2 == 0))
def test_numbers_are_rounded_as_torch_rounds_them(numbers: list[float]) -> None:
    rows = np.array(numbers, np.float32).reshape(-1, 2)
    for kind, dtype in (("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)):
        back = from_type(as_type(rows, kind), kind, 2)
        np.testing.assert_array_equal(back, torch.from_numpy(rows).to(dtype).float().numpy())
    with pytest.raises(HeadError, match="expected one of F32, F16, BF16"):
        as_type(rows, "F8_E4M3")


def test_weights_beyond_half_precision_are_refused() -> None:
    with pytest.raises(HeadError, match="which F16 cannot hold"):
        as_type(np.full((1, 2), 1e6, np.float32), "F16")


def test_rows_are_spare_ones_or_behind_the_last() -> None:
    names = {number: f"t{number}" for number in range(100)}
    assert placed(names, 200, (), 64) == Place(100, appended=False)
    assert placed(names, 150, (), 64) == Place(150, appended=True)
    assert placed(names, 100, (), 64) == Place(100, appended=True)
    with pytest.raises(HeadError, match="ids up to 99, and the output head has 90 rows"):
        placed(names, 90, (), 64)


def test_the_fingerprint_of_the_files_is_that_of_the_model(tmp_path: Path) -> None:
    for architecture, tied in SHAPES:
        folder = models.write(tmp_path / f"{architecture}-{tied}", architecture, tied=tied, dtype=torch.bfloat16)
        taken = head_for(folder).fingerprint
        assert taken is not None
        found = Checkpoint(folder).fingerprint(taken.token_ids)
        for name in ("rows", "mlp", "norm"):
            mine = getattr(found, name)
            assert mine.size
            np.testing.assert_allclose(mine, getattr(taken, name), atol=1e-3)
        assert taken.compare(found) == ()
