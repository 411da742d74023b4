"""Steps 4 and 5: an intermediate head scores the rollouts; the final model learns the scores under the KL term."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from zip_introspect.demo.recipe.schedule import log_training, resumable, schedule
from zip_introspect.demo.tokenizer import RESERVED, VOCABULARY_SIZE
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.dataset import JointCollator, load
from zip_introspect.training.methods import prepare
from zip_introspect.training.trainer import JointTrainer
from zip_introspect.training.values import denoised_values, fit_representatives

LENGTH_EDGES = (0, 16, 32, 64, 96, 144, 208, 320, 640)
REWARD_EDGES = tuple(b / 8 for b in range(9))
LAST = 4  # final prefixes that are averaged: those that follow the last verdict


def abacus_grid() -> JointGrid:
    """8 reward bins by 8 length bins; lengths grow roughly as powers of two, as in A.1."""
    return JointGrid(
        reward_edges=REWARD_EDGES,
        reward_values=(0.0, *((low + high) / 2 for low, high in pairwise(REWARD_EDGES[1:-1])), 1.0),
        length_edges=LENGTH_EDGES,
        first_reserved=VOCABULARY_SIZE - len(RESERVED),
    )


def train_head(
    base: Path,
    dataset: Dataset,
    grid: JointGrid,
    out: Path,
    *,
    seed: int,
    kl_weight: float | None,
    frozen: bool = False,
    learning_rate: float = 1.5e-3,
    epochs: float = 1.0,
) -> None:
    """Train on eq. 3 and save model, tokenizer and grid, and what the training logged as `training.json`.

    Args:
        kl_weight: None trains without the KL term; 0 too, and measures the divergence all the same.
        frozen: leave all but the reserved rows as it is (ZIP-RC-Lite, A.3).
    """
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    reference = None
    if kl_weight is not None:
        reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    arguments = schedule(
        out,
        seed=seed,
        learning_rate=learning_rate,
        num_train_epochs=epochs,
        warmup_steps=50,
        weight_decay=0.01,
        logging_steps=25,
        save_steps=200,
        save_total_limit=1,
        remove_unused_columns=False,
    )
    prepared = prepare(model, grid, "lite" if frozen else "full")
    trainer = JointTrainer(
        model,
        arguments,
        grid=grid,
        rows=prepared.rows,
        reference=reference,
        kl_weight=kl_weight or 0.0,
        train_dataset=dataset,
        data_collator=JointCollator(grid, tokenizer.pad_token_id),
    )
    trainer.train(resume_from_checkpoint=resumable(out))
    prepared.finish()
    log_training(trainer, out)
    model.save_pretrained(out, state_dict={name: w.to(torch.bfloat16) for name, w in model.state_dict().items()})
    tokenizer.save_pretrained(out)
    grid.save(out)
    shutil.rmtree(out / "checkpoints")


def train_value(base: Path, rollouts: Path, out: Path, *, seed: int) -> None:
    """Step 4: the intermediate head, trained on realised correctness without KL; it is never sampled from."""
    train_head(base, load(rollouts), abacus_grid(), out, seed=seed, kl_weight=None)


def calibrated(
    values: NDArray[np.float64], finished: NDArray[np.bool_], rewards: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values that rise with those given and agree with what was realised; 0 for a rollout that was cut.

    Args:
        values, finished, rewards: shape (rollouts,).
    """
    return np.asarray(IsotonicRegression().fit_transform(np.where(finished, values, 0.0), rewards))


def label(value: Path, rollouts: Path, labelled: Path) -> JointGrid:
    """Replace realised rewards by denoised values, and fit the grid's representatives to them."""
    dataset = load(rollouts)
    grid = JointGrid.load(value)
    model = AutoModelForCausalLM.from_pretrained(value, dtype=torch.float32)
    values = denoised_values(model, dataset, grid, pad_token_id=model.config.pad_token_id, last=LAST)
    rewards = np.asarray(dataset["reward"])
    values = calibrated(values, np.asarray(dataset["finished"]), rewards)
    dataset = dataset.rename_column("reward", "right").add_column("reward", values)
    dataset.to_parquet(labelled)
    lengths = np.asarray(dataset["length"]) - np.asarray(dataset["prompt_length"])
    return fit_representatives(grid, values, rewards, lengths)
