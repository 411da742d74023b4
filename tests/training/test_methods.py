"""What each method trains, and that it leaves the rest; checkpoints of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.training.test_chunked import SIZES
from tests.training.tiny import GRID, arguments, rollouts
from zip_introspect.errors import ConfigError, ReservedTokensError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.dataset import JointCollator
from zip_introspect.training.methods import Method, prepare
from zip_introspect.training.trainer import JointTrainer


@dataclass(frozen=True)
class Small:
    rank: int = 2
    alpha: int = 8
    dropout: float = 0.0


def trained(model: Any, method: Method, path: Path, resume: Path | None = None, **changes: Any) -> Any:
    prepared = prepare(model, GRID, method, Small())
    trainer = JointTrainer(
        model,
        arguments(path, **{"num_train_epochs": 2, "learning_rate": 0.05, **changes}),
        grid=GRID,
        rows=prepared.rows,
        reference=model if method == "lora" else None,
        unadapted=prepared.unadapted,
        train_dataset=rollouts(64),
        data_collator=JointCollator(GRID, 0),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return prepared.finish(), trainer


def small(tied: bool, **changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(tie_word_embeddings=tied, **{**SIZES, **changes}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_lite_leaves_every_other_bit(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = small(tied).to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained(model, "lite", tmp_path)
    rows = slice(GRID.reserved.start, GRID.reserved.stop)
    output = model.get_output_embeddings().weight.data_ptr()
    assert set(model.state_dict()) == set(before)
    assert all(weight.requires_grad for weight in model.parameters())
    for name, weight in model.state_dict().items():
        moved = (weight != before[name]).reshape(len(weight), -1).any(1)
        if weight.data_ptr() == output:
            assert moved[rows].all(), name
            moved[rows] = False
        assert not moved.any(), name


def test_adapters_and_rows_are_a_plain_model_in_the_end(tmp_path: Path) -> None:
    model, probe = small(True), torch.tensor([[2, 3, 5, 9, 4]])
    names = set(model.state_dict())
    original = model(input_ids=probe).logits
    prepared = prepare(model, GRID, "lora", Small())
    torch.testing.assert_close(model(input_ids=probe).logits, original)
    prepared.finish()
    model, trainer = trained(model, "lora", tmp_path)
    assert set(model.state_dict()) == names
    assert all(weight.requires_grad for weight in model.parameters())
    history = [record for record in trainer.state.log_history if "joint_loss" in record]
    assert history[-1]["joint_loss"] < history[0]["joint_loss"]
    assert history[-1]["policy_kl"] > 0
    again = AutoModelForCausalLM.from_pretrained(_saved(model, tmp_path / "out"))
    torch.testing.assert_close(again(input_ids=probe).logits, model(input_ids=probe).logits)


def _saved(model: Any, path: Path) -> Path:
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("method", ["full", "lora", "lite"])
def test_what_is_resumed_ends_bit_for_bit_as_what_was_not(method: Method, tmp_path: Path) -> None:
    steps: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole, _ = trained(small(True, attention_dropout=0.1), method, tmp_path, **steps)
    expected = {name: weight.clone() for name, weight in whole.state_dict().items()}
    again, _ = trained(small(True, attention_dropout=0.1), method, tmp_path, resume=tmp_path / "checkpoint-3", **steps)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_a_method_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of full, lora, lite"):
        prepare(small(True), GRID, cast(Method, "half"))


def test_a_vocabulary_without_the_rows_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    with pytest.raises(ReservedTokensError):
        prepare(model, JointGrid.paper(500), "lite")
    assert all(weight.requires_grad for weight in model.parameters())
