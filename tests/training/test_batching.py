"""The order of training rows: all of them, alike within a batch, in no order of length between batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.training.tiny import GRID, arguments, rollouts, tiny
from zip_introspect.errors import TrainingDataError
from zip_introspect.training.batching import ShuffledLengthSampler, TokenBatches
from zip_introspect.training.dataset import JointCollator
from zip_introspect.training.trainer import JointTrainer


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 100))
def test_every_row_comes_once_and_a_seed_fixes_the_order(rows: int, batch_size: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 500, rows).tolist()
    sampler = ShuffledLengthSampler(lengths, batch_size, seed=seed)
    assert sorted(sampler) == list(range(rows))
    assert list(sampler) == list(sampler)
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(rows))


def test_batches_are_even_inside_and_shuffled_between() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 1600)
    order = list(ShuffledLengthSampler(lengths.tolist(), 16, seed=0))
    batches = lengths[order].reshape(100, 16)
    assert np.ptp(batches, axis=1).mean() < 25
    assert abs(np.corrcoef(np.arange(100), batches.mean(1))[0, 1]) < 0.3
    assert np.abs(np.diff(batches.mean(1))).mean() > 50


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=4, max_size=80),
    tokens=st.integers(1, 200),
    processes=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_batches_of_tokens_hold_what_fits(lengths: list[int], tokens: int, processes: int, epoch: int) -> None:
    try:
        sampler = TokenBatches(lengths, tokens, seed=1, processes=processes)
    except TrainingDataError:
        assert TokenBatches(lengths, tokens, seed=1).all < processes
        return
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert batches == list(sampler)
    assert len(batches) == len(sampler)
    assert len(batches) % processes == 0
    assert sampler.all - len(batches) < processes
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    if processes == 1:
        assert sorted(rows) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or widest * len(batch) <= tokens


def test_training_by_tokens_weighs_every_token_alike(tmp_path: Path) -> None:
    data = rollouts(100)
    trainer = JointTrainer(
        tiny(),
        arguments(tmp_path, num_train_epochs=2),
        grid=GRID,
        tokens_per_batch=60,
        train_dataset=data,
        data_collator=JointCollator(GRID, 0),
    )
    loader = trainer.get_train_dataloader()
    sizes = [tuple(batch["input_ids"].shape) for batch in loader]
    assert sum(rows for rows, _ in sizes) == 100
    assert all(rows * columns <= 60 for rows, columns in sizes)
    trained = sum(item["length"] - item["prompt_length"] for item in data.to_list())
    assert trainer.usual_tokens == pytest.approx(trained / len(sizes))
    trainer.train()
    assert trainer.state.global_step == 2 * len(sizes)


@pytest.mark.parametrize("processes", [1, 2])
def test_another_epoch_is_another_order_under_accelerate_too(processes: int) -> None:
    data: Any = list(range(40))
    batches = TokenBatches([3] * 40, 12, seed=0, processes=processes)
    loader = prepare_data_loader(
        DataLoader(data, batch_sampler=batches), num_processes=processes, process_index=0, even_batches=False
    )
    seen = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        seen.append([batch.tolist() for batch in loader])
    assert len(seen[0]) == len(batches) // processes
    assert seen[0] != seen[1]


def test_a_resumed_run_draws_the_order_of_its_epoch(tmp_path: Path) -> None:
    """Accelerate tells batches nothing where it skips what was seen; the Trainer's callback does."""
    trainer = JointTrainer(
        tiny(),
        arguments(tmp_path),
        grid=GRID,
        tokens_per_batch=60,
        train_dataset=rollouts(40),
        data_collator=JointCollator(GRID, 0),
    )
    batches: Any = trainer.get_train_dataloader().batch_sampler
    orders = {}
    for epoch in (0.0, 1.0, 1.5, 2.0):
        trainer.state.epoch = epoch
        trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
        orders[epoch] = list(batches)
    assert orders[1.5] == orders[1.0]
    assert orders[0.0] != orders[1.0] != orders[2.0]
