"""`zip-introspect attach` through the front door: from questions to a model that servers can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.heads.test_attaching import head_for
from tests.training import models
from zip_introspect.cli.app import app
from zip_introspect.heads import file as head_files
from zip_introspect.introspection.grid import JointGrid


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.write(tmp_path / "model", dtype=torch.float32)


@pytest.fixture
def head(model: Path, tmp_path: Path) -> Path:
    return head_files.save(head_for(model), tmp_path / "head.zip.safetensors")


def test_a_checkpoint_gets_a_head_and_answers(model: Path, head: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, shown, errors = run("attach", model, head, out)
    assert code == 0, errors
    assert "rows 320 to 383, of ids that stood for nothing" in shown
    assert JointGrid.load(out).first_reserved == 320
    code, shown, errors = run("ask", "--model", out, "Solve 3*x+5=35", "--max-new-tokens", 4, "--json")
    assert code == 0, errors
    assert json.loads(shown)["confidence_source"] == "head"
    code, _, errors = run("attach", out, head, tmp_path / "again")
    assert code == 1
    assert "has a grid" in errors


def test_a_gguf_file_gets_a_head_and_answers(model: Path, head: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    source, out = tmp_path / "model.gguf", tmp_path / "out.gguf"
    assert run("export", "gguf", model, source)[0] == 0
    code, shown, errors = run("attach", source, head, out)
    assert code == 0, errors
    assert "rows 320 to 383" in shown
    code, shown, errors = run("ask", "--model", out, "Solve 3*x+5=35", "--max-new-tokens", 4, "--json")
    assert code == 0, errors
    assert json.loads(shown)["confidence_source"] == "head"


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("nowhere", "out", "nowhere does not exist"),
        ("model", "model", "exists"),
        ("head.zip.safetensors", "out", "expected the name of a .gguf file"),
        ("head.zip.safetensors", "out.gguf", "is not a GGUF file"),
    ],
)
def test_what_is_no_model_is_refused(source: str, target: str, said: str, head: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra llama-cpp is not installed")
    code, _, errors = run("attach", tmp_path / source, head, tmp_path / target)
    assert code == 1
    assert said in errors


def test_a_grid_that_the_rows_speak_against_gets_a_warning(tmp_path: Path) -> None:
    """Of 64 spare rows 16 are a head's; a grid of 2 x 16 claims more."""
    folder = models.write(tmp_path / "model", dtype=torch.float32)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][320:336] += 3.0 * torch.randn(16, 32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    file = tmp_path / "grid.json"
    JointGrid.paper(320, num_reward_bins=2, num_length_bins=8).save(file)
    code, _, errors = run("attach-grid", folder, file)
    assert code == 0
    assert "warning" not in errors
    JointGrid.paper(320, num_reward_bins=4, num_length_bins=8).save(file)
    code, _, errors = run("attach-grid", folder, file)
    assert code == 0
    assert "warning: 16 of the grid's 32 rows look untrained" in errors
    assert "warning: 16 of the grid's 32 rows look untrained" in run("inspect", folder)[2]
    source = tmp_path / "model.gguf"
    pytest.importorskip("gguf", reason="the extra llama-cpp is not installed")
    assert run("export", "gguf", folder, source, "--type", "q8_0")[0] == 0
    assert "16 of the grid's 32 rows look untrained" in run("inspect", source)[2]
