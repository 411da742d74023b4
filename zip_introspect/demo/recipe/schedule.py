"""The settings that the base model and the rivals' scorers are trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from zip_introspect.training.opening import computes_in_bfloat16


def schedule(out: Path, *, seed: int, learning_rate: float, **own: Any) -> TrainingArguments:
    """Small batches, a warm-up and a cosine, checkpoints under `out`; `own` are the settings of one step."""
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        seed=seed,
        learning_rate=learning_rate,
        per_device_train_batch_size=16,  # many updates matter more than smooth ones here
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.01},
        adam_beta2=0.98,
        bf16=computes_in_bfloat16(),
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        dataloader_pin_memory=False,
        **own,
    )


def resumable(out: Path) -> bool:
    """Whether an interrupted training left a checkpoint under `out`."""
    return any((out / "checkpoints").glob("checkpoint-*"))


TRAINING_FILE = "training.json"


def log_training(trainer: Trainer, out: Path) -> None:
    """Write what a training has logged, a record every few steps."""
    history = [record for record in trainer.state.log_history if "loss" in record]
    (out / TRAINING_FILE).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
