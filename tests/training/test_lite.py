"""ZIP-RC-Lite moves the reserved rows and not one other bit, where the embeddings are one tensor too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.training.test_chunked import SIZES
from tests.training.tiny import GRID, arguments, rollouts
from zip_introspect.errors import ReservedTokensError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.dataset import JointCollator
from zip_introspect.training.lite import reserved_rows_only
from zip_introspect.training.trainer import JointTrainer


@pytest.mark.parametrize("tied", [True, False])
def test_every_other_bit_stays(tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(tie_word_embeddings=tied, **SIZES))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with reserved_rows_only(model, GRID):
        trainer = JointTrainer(
            model,
            arguments(tmp_path, weight_decay=0.0, num_train_epochs=2),
            grid=GRID,
            train_dataset=rollouts(64),
            data_collator=JointCollator(GRID, 0),
        )
        trainer.train()
    assert all(weight.requires_grad for weight in model.parameters())
    rows = slice(GRID.reserved.start, GRID.reserved.stop)
    output = model.get_output_embeddings().weight.data_ptr()
    for name, weight in model.state_dict().items():
        moved = (weight != before[name]).reshape(len(weight), -1).any(1)
        if weight.data_ptr() == output:
            assert moved[rows].all(), name
            moved[rows] = False
        assert not moved.any(), name


def test_a_vocabulary_without_the_rows_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    with pytest.raises(ReservedTokensError), reserved_rows_only(model, JointGrid.paper(500)):
        pass
    assert all(weight.requires_grad for weight in model.parameters())
