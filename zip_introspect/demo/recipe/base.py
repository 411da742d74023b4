"""Step 1 of the recipe: a small Qwen3-architecture model trained from nothing on the solver's working."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from zip_introspect.demo.corpus import Example, examples
from zip_introspect.demo.recipe.schedule import resumable, schedule
from zip_introspect.demo.tokenizer import VOCABULARY_SIZE, train_tokenizer
from zip_introspect.training.batching import LengthBatchingTrainer

IGNORED = -100
LONGEST = 640  # tokens of a conversation


def base_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """1.9 million parameters: 3.8 MB in bfloat16."""
    return Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=192,
        num_hidden_layers=4,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def encode(tokenizer: PreTrainedTokenizerFast, example: Example) -> dict[str, Any]:
    """Token ids, with the loss on the completion and its end token alone."""
    prompt = tokenizer.apply_chat_template(
        list(example.messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    completion = [*tokenizer.encode(example.completion, add_special_tokens=False), tokenizer.eos_token_id]
    ids = [*prompt, *completion]
    labels = [IGNORED] * len(prompt) + completion
    return {"input_ids": ids, "labels": labels, "length": len(ids), "prompt_length": len(prompt)}


def build_dataset(tokenizer: PreTrainedTokenizerFast, seed: int, count: int, cache: Path) -> Dataset:
    """The encoded corpus, kept under `cache`; conversations too long for the model are left out."""

    def rows() -> Any:
        for example in examples(seed, count):
            row = encode(tokenizer, example)
            if row["length"] <= LONGEST:
                yield row

    return Dataset.from_generator(rows, split="train", fingerprint=f"abacus-{seed}-{count}", cache_dir=str(cache))


def train_base(out: Path, *, seed: int = 0, count: int, learning_rate: float = 2e-3) -> None:
    """Train and save the base model and its tokenizer under `out`; resumes from the newest checkpoint there."""
    set_seed(seed)
    texts = [
        text for example in examples(seed + 1, 20_000) for text in (example.messages[-1]["content"], example.completion)
    ]
    tokenizer = train_tokenizer(texts)
    model = Qwen3ForCausalLM._from_config(base_config(tokenizer), attn_implementation="eager")
    arguments = schedule(
        out,
        seed=seed,
        learning_rate=learning_rate,
        num_train_epochs=1,
        warmup_steps=200,
        weight_decay=0.05,
        logging_steps=100,
        save_steps=1000,
        save_total_limit=2,
    )
    trainer = LengthBatchingTrainer(
        model=model,
        args=arguments,
        train_dataset=build_dataset(tokenizer, seed, count, out / "corpus"),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
    )
    trainer.train(resume_from_checkpoint=resumable(out))
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for scratch in ("checkpoints", "corpus"):
        shutil.rmtree(out / scratch)
