"""A model and rollouts small enough to be trained in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainingArguments

from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.dataset import row

GRID = JointGrid(
    reward_edges=(0.0, 0.25, 0.5, 0.75, 1.0), length_edges=(0, 2, 4, 8, 16), reserved_token_ids=tuple(range(16, 32))
)


def config(vocab_size: int = 32, **changes: Any) -> Qwen3Config:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    return Qwen3Config(**{"vocab_size": vocab_size, **shape, **heads, "pad_token_id": 0, "eos_token_id": 1, **changes})


def tiny(seed: int = 0, vocab_size: int = 32) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config(vocab_size))


def rollouts(count: int) -> Dataset:
    """Rollouts that say in their first token whether they will be right."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        right = bool(rng.integers(2))
        body = rng.integers(4, 16, size=rng.integers(3, 9)).tolist()
        rows.append(row([2], [3 if right else 2, *body, 1], float(right)))
    return Dataset.from_list(rows)


def arguments(path: Path, **changes: Any) -> TrainingArguments:
    settings = {"per_device_train_batch_size": 16, "learning_rate": 3e-3, "logging_steps": 5, "report_to": "none"}
    settings |= {"save_strategy": "no", "remove_unused_columns": False, "disable_tqdm": True, "use_cpu": True}
    return TrainingArguments(output_dir=str(path), **{**settings, **changes})
