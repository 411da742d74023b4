"""The objective in chunks: the same loss and gradients as in one piece, and no array of all positions' logits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from tests.training.tiny import GRID, arguments, rollouts, tiny
from zip_introspect.training import chunked
from zip_introspect.training.dataset import JointCollator
from zip_introspect.training.trainer import JointTrainer

CHUNK = 20  # more than the hidden size, by which gradients of the head are known from logits
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


class _Largest(TorchDispatchMode):
    """The most numbers that one tensor with a last axis of the vocabulary's size held."""

    positions = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for item in found if isinstance(found, tuple | list) else (found,):
            if isinstance(item, torch.Tensor) and item.ndim == 2 and item.shape[1] >= 400:
                self.positions = max(self.positions, item.shape[0])
        return found


def models(tied: bool) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(tie_word_embeddings=tied, **SIZES))
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval(), reference


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kl_weight", [None, 10.0])
def test_loss_and_gradients_are_those_of_one_piece(
    tied: bool, kl_weight: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked.summed, "__kwdefaults__", {"chunk": 7})
    data, found = rollouts(16), []
    for whole in (False, True):
        model, reference = models(tied)
        trainer = JointTrainer(
            model,
            arguments(tmp_path),
            grid=GRID,
            reference=reference if kl_weight else None,
            kl_weight=kl_weight or 0.0,
            train_dataset=data,
            data_collator=JointCollator(GRID, 0),
        )
        if whole:
            trainer._output = None
        loss: Any = trainer.compute_loss(model, JointCollator(GRID, 0)(data.to_list()))
        loss.backward()
        found.append((loss.detach(), [weight.grad for weight in model.parameters()]))
    (loss, gradients), (expected, those) = found
    torch.testing.assert_close(loss, expected)
    for one, other in zip(gradients, those, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_no_array_holds_the_logits_of_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chunked.summed, "__kwdefaults__", {"chunk": CHUNK})
    model, reference = models(tied=False)
    data = rollouts(16)
    trainer = JointTrainer(
        model,
        arguments(tmp_path),
        grid=GRID,
        reference=reference,
        train_dataset=data,
        data_collator=JointCollator(GRID, 0),
    )
    batch: Any = JointCollator(GRID, 0)(data.to_list())
    assert (batch["targets"] >= 0).sum() > 2 * CHUNK
    with _Largest() as seen:  # type: ignore[no-untyped-call]
        loss: Any = trainer.compute_loss(model, batch)
        loss.backward()
    assert 0 < seen.positions <= CHUNK


def test_logits_that_are_scaled_behind_the_head_stay_in_one_piece() -> None:
    scaled = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES))
    assert chunked.output_head(scaled) is None
    model = tiny()
    output = chunked.output_head(model)
    assert output is not None
    ids = torch.tensor([[2, 3, 5]])
    before = model(input_ids=ids).logits
    with chunked.passed_over(output):
        hidden = model(input_ids=ids).logits
    torch.testing.assert_close(output(hidden), before)
    torch.testing.assert_close(model(input_ids=ids).logits, before)
