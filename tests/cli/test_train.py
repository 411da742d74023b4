"""`zip-introspect train` through the front door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.training import models
from zip_introspect.cli.app import app


def said(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_recipes_can_be_listed_and_shown() -> None:
    assert said("--list")[1].split() == ["abacus", "lfm2-1.2b-math", "lfm2-350m-math", "my-data", "qwen3-1.7b"]
    code, shown, _ = said("--show", "my-data")
    assert code == 0
    assert yaml.safe_load(shown)["method"] == "lora"
    assert yaml.safe_load(said("--show", "fsdp")[1])["distributed_type"] == "FSDP"


@pytest.mark.parametrize("recipe", ["qwen3-1.7b", "lfm2-350m-math", "my-data"])
def test_a_dry_run_says_memory_tokens_and_hours(recipe: str, tmp_path: Path) -> None:
    model = models.write(tmp_path / "model", "lfm2" if "lfm2" in recipe else "qwen3")
    questions = f"questions=[{{dataset: {models.questions(tmp_path / 'questions.jsonl')}}}]"
    code, shown, errors = said(model, "--recipe", recipe, "--dry-run", "--set", questions)
    assert code == 0, errors
    for expected in ("parameters", "to be sampled", "Memory of a device", "H100", "this machine", "GFLOP/s"):
        assert expected in shown
    figures = json.loads(said(model, "--recipe", recipe, "--dry-run", "--set", questions, "--json")[1])
    assert figures["rollouts"] == 60
    assert figures["hours"]["H100"] < figures["hours"]["A100 80GB"] < figures["hours"]["this machine"]
    assert not list(tmp_path.glob("**/recipe.yaml")), "nothing is written"


def test_a_model_is_trained_on_rollouts_of_the_command(tmp_path: Path) -> None:
    """Rollouts as `rollouts` writes them are what training reads, and what it makes can be asked."""
    rollouts = tmp_path / "rollouts.parquet"
    sampled = [
        "rollouts",
        "abacus:training",
        str(rollouts),
        "--limit",
        "24",
        "--samples",
        "2",
        "--max-new-tokens",
        "200",
    ]
    assert CliRunner().invoke(app, sampled).exit_code == 0
    out = tmp_path / "out"
    settings = ["--set", "training.tokens_per_batch=2000", "--set", "grid.first_reserved=320"]
    code, shown, errors = said("abacus", rollouts, "--method", "lite", "--out", out, *settings)
    assert code == 0, errors
    assert "nats a token" in shown
    assert f"zip-introspect ask --model {out}" in shown
    assert "48 rollouts" in errors
    code, shown, _ = said("abacus", rollouts, "--method", "lite", "--out", tmp_path / "again", "--json", *settings)
    assert json.loads(shown)["model"] == str(tmp_path / "again"), "the Trainer's own lines are no part of it"
    asked = CliRunner().invoke(app, ["ask", "--model", str(out), "Solve 3*x+5=35", "--json"])
    assert asked.exit_code == 0
    assert 0 <= json.loads(asked.stdout)["confidence"] <= 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--recipe", "abacus"], "--out is missing"),
        (["--recipe", "nothing", "--out", "x"], "there is no recipe 'nothing'"),
        (["--out", "x"], "names no model"),
        (["--dry-run"], "names no model"),
        (["abacus", "missing.parquet", "--out", "x"], "missing.parquet does not exist"),
        (["--recipe", "abacus", "--method", "half", "--out", "x"], "'full', 'lora' or 'lite'"),
        (["--recipe", "abacus", "--set", "training.rate=1", "--out", "x"], "training.rate is 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(arguments: list[str], expected: str) -> None:
    code, _, errors = said(*arguments)
    assert code == 1
    assert expected in errors
