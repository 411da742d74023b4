"""The rivals' scorers: a reward model and a judge, each the base model trained on its own graded rollouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from zip_introspect.demo.recipe.head import abacus_grid
from zip_introspect.demo.recipe.schedule import log_training, resumable, schedule
from zip_introspect.evaluation.store.rescoring import JUDGE_FILE
from zip_introspect.training.batching import LengthBatchingTrainer
from zip_introspect.training.dataset import load
from zip_introspect.training.scorers import (
    JudgeCollator,
    JudgeQuestion,
    JudgeTrainer,
    RewardCollator,
    RewardModelTrainer,
)

QUESTION, YES, NO = "<|user|>?", "Y", "N"


def train_reward_model(base: Path, rollouts: Path, out: Path, *, seed: int) -> None:
    """A classifier of the generator's size that reads prompt and sample anew."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32, attn_implementation="eager"
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = RewardModelTrainer(
        model=model,
        args=_arguments(out, seed),
        train_dataset=_finished(rollouts),
        data_collator=RewardCollator(tokenizer.pad_token_id),
    )
    _train(trainer, model, tokenizer, out)


def train_judge(base: Path, rollouts: Path, out: Path, *, seed: int) -> None:
    """The generator itself, asked after a sample whether it is right."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    question = JudgeQuestion.encode(tokenizer, QUESTION, YES, NO)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    trainer = JudgeTrainer(
        model,
        _arguments(out, seed),
        question=question,
        reference=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        grid=abacus_grid(),
        train_dataset=_finished(rollouts),
        data_collator=JudgeCollator(question, tokenizer.pad_token_id),
    )
    _train(trainer, model, tokenizer, out)
    (out / JUDGE_FILE).write_text(json.dumps({"question": QUESTION, "yes": YES, "no": NO}) + "\n", encoding="utf-8")


def _finished(rollouts: Path) -> Dataset:
    """The rollouts that have an answer to be scored."""
    return load(rollouts).filter(lambda finished: finished, input_columns="finished")


def _arguments(out: Path, seed: int) -> TrainingArguments:
    own: dict[str, Any] = {"num_train_epochs": 1, "warmup_steps": 50, "weight_decay": 0.01, "logging_steps": 25}
    return schedule(
        out, seed=seed, learning_rate=1e-3, save_steps=200, save_total_limit=1, remove_unused_columns=False, **own
    )


def _train(
    trainer: LengthBatchingTrainer, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path
) -> None:
    trainer.train(resume_from_checkpoint=resumable(out))
    log_training(trainer, out)
    model.save_pretrained(out, state_dict={name: w.to(torch.bfloat16) for name, w in model.state_dict().items()})
    tokenizer.save_pretrained(out)
    shutil.rmtree(out / "checkpoints")
