"""A model of Qwen3-0.6B's shape with random weights, as Q8_0 GGUF: `python benchmarks/random_model.py OUT.gguf`.

What it says is noise; what a token of it costs is what a token of the real one costs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from zip_introspect.backend.exporting import exporter
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.introspection.grid import JointGrid

VOCABULARY = 151_936


def main(target: Path) -> None:
    """Write it."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.bfloat16,
    )
    with tempfile.TemporaryDirectory() as folder:
        Qwen3ForCausalLM(config).bfloat16().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        JointGrid.paper(VOCABULARY - 64).save(Path(folder))
        exporter("gguf").export(Path(folder), target, "q8_0")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
