"""What a dry run counts, against models that are really made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training import models
from zip_introspect.training import opening
from zip_introspect.training import recipe as recipes
from zip_introspect.training.dataset import load
from zip_introspect.training.estimate import SHARE, estimated
from zip_introspect.training.methods import Method, prepare


@pytest.mark.parametrize("method", ["full", "lora", "lite"])
@pytest.mark.parametrize("architecture", ["qwen3", "lfm2"])
def test_parameters_are_those_of_the_model(method: Method, architecture: str, tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model", architecture, tied=True)
    recipe = recipes.load(None, [f"model={folder}", f"method={method}", "grid.first_reserved=320"])
    found = estimated(recipe, models.rollouts(tmp_path / "rollouts.parquet"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert found.parameters == model.num_parameters()
    prepare(model, recipe.grid.over(1, 320), method, recipe.lora)
    assert found.trained == sum(item.numel() for item in model.parameters() if item.requires_grad)
    assert found.tokens == sum(load(tmp_path / "rollouts.parquet")["length"])
    assert not found.assumed


def test_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Of one forward pass over the rollouts, by torch's own counter; the rest are multiples of it."""
    from torch.utils.flop_counter import FlopCounterMode

    folder = models.write(tmp_path / "model", dtype=torch.float32)
    file = models.rollouts(tmp_path / "rollouts.parquet")
    recipe = recipes.load(None, [f"model={folder}", "method=lite"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        for ids in load(file)["input_ids"]:
            model(input_ids=torch.tensor([ids]))
    three = 3 * counter.get_total_flops()  # for the value, the denoised values, and the joint
    assert estimated(recipe, file).operations == pytest.approx(three, rel=0.1)


def test_the_dearer_method_takes_more_of_everything(tmp_path: Path) -> None:
    folder, file = models.write(tmp_path / "model"), models.rollouts(tmp_path / "rollouts.parquet")
    lite, lora, full = (
        estimated(recipes.load(None, [f"model={folder}", f"method={method}"]), file)
        for method in ("lite", "lora", "full")
    )
    assert lite.memory.total < lora.memory.total < full.memory.total
    assert lite.operations < lora.operations < full.operations
    assert full.hours(SHARE * 1e12) == pytest.approx(full.operations / (SHARE * 1e12) / 3600)


def test_before_there_are_rollouts_their_length_is_the_recipes_guess(tmp_path: Path) -> None:
    questions = models.questions(tmp_path / "questions.jsonl", 30)
    changes = [f"questions=[{{dataset: {questions}}}]", "sampling.expected_tokens=100", "sampling.samples=3"]
    found = estimated(recipes.load(None, [f"model={models.write(tmp_path / 'model')}", *changes]))
    assert found.assumed
    assert found.rollouts == 90
    assert found.generated == 9000
    assert 9000 < found.tokens < 9000 + 90 * 30


def test_appended_rows_are_counted(tmp_path: Path) -> None:
    folder, file = models.write(tmp_path / "model"), models.rollouts(tmp_path / "rollouts.parquet")
    spare, appended = (
        estimated(recipes.load(None, [f"model={folder}", f"grid.first_reserved={first}"]), file) for first in (320, 384)
    )
    model = opening.opened(str(folder), "full", "float32").model
    assert appended.parameters - spare.parameters == 2 * 64 * model.config.hidden_size
