"""Checkpoints of real architectures with random weights, and rollouts of them, small enough to be trained in a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, Qwen3Config

from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.training.dataset import row, save

ROWS, TEXT = 384, 320
"""Rows of the output head, and those below which tokens are text."""
END = 1
_SHAPE: dict[str, Any] = {"vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
_HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
_ENDS: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": END, "bos_token_id": None}


def write(
    folder: Path, architecture: str = "qwen3", *, tied: bool = False, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """A checkpoint with the embedded model's tokenizer, whose ids from 320 on stand for nothing in texts."""
    torch.manual_seed(0)
    config: Qwen3Config | Lfm2Config
    if architecture == "qwen3":
        config = Qwen3Config(**_SHAPE, **_HEADS, **_ENDS, head_dim=16, tie_word_embeddings=tied)
    else:
        kinds: dict[str, Any] = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
        config = Lfm2Config(**_SHAPE, **_HEADS, **_ENDS, **kinds, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy2(DEMO_MODEL / name, folder / name)
    return folder


def rollouts(file: Path, count: int = 40) -> Path:
    """Rollouts that say in their first token whether they will be right; of very different lengths."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        right = bool(rng.integers(2))
        body = rng.integers(4, TEXT, size=rng.integers(3, 40)).tolist()
        found.append(row([5, 6], [7 if right else 8, *body, END], float(right), finished=True))
    save(found, file)
    return file


def questions(file: Path, count: int = 30) -> Path:
    """Equations for the embedded model, easy ones and hard ones."""
    lines = [json.dumps({"question": f"Solve {a}*x+5={a * 7 + 5}", "answer": "7"}) for a in range(2, 2 + count)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file
