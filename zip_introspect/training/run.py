"""A training from a recipe to a model: rollouts, an intermediate head, denoised values, and the joint (A.1).

Beside the model, the folder `training` keeps the recipe and what each stage made: `rollouts.parquet`,
`labelled.parquet`, `grid.json`, and what was logged. A stage whose result is there is passed over, and one that was
interrupted goes on from its newest checkpoint. Under `accelerate launch` every process runs this; the first one samples
and writes, and all share the training and the values.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from zip_introspect.errors import ConfigError
from zip_introspect.introspection.grid import FILE_NAME, JointGrid
from zip_introspect.training import dataset as rows
from zip_introspect.training import opening, reading
from zip_introspect.training.claiming import RECORD, claim, newest_checkpoint
from zip_introspect.training.dataset import JointCollator
from zip_introspect.training.methods import Prepared, prepare
from zip_introspect.training.recipe import Recipe
from zip_introspect.training.sampling import check_questions, sample
from zip_introspect.training.trainer import JointTrainer
from zip_introspect.training.values import calibrated, denoised_values, fit_representatives

FOLDER, LOG_FILE = "training", "training.json"
_REPORTERS = ("tensorboard", "wandb")
_PATIENCE = timedelta(days=7)
"""For which processes wait for the one that samples."""


@dataclass(frozen=True)
class Trained:
    """A model that was trained, and how well it fits its rollouts at last."""

    out: Path
    joint_loss: float | None
    """Nats a token, of the last steps that were logged; None where none were."""
    policy_kl: float | None
    """How far its policy moved, nats a token; None where nothing could move it."""


def train(
    recipe: Recipe,
    out: Path,
    *,
    rollouts: Path | None = None,
    labels: Path | None = None,
    say: Callable[[str], None],
) -> Trained | None:
    """Train a model by a recipe.

    Args:
        out: the directory of the model that is written.
        rollouts: a file of stored rollouts, of training rows or of the authors', in place of sampling.
        labels: another training of this model on these rollouts, whose grid and values are taken over.
        say: is told what begins, and what is passed over.

    Returns:
        None in all processes but the first.

    Raises:
        ConfigError: a recipe without a model or questions, `out` holds something else, or a training by another recipe.
        ModelLoadError, ReservedTokensError: a checkpoint that cannot be opened, or has not these rows.
        TrainingDataError: rollouts that nothing can be learnt from.
    """
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    run = Run(recipe, out, rollouts, labels, say if state.is_main_process else _silent)
    run.claim()
    run.label()
    run.learn()
    if not state.is_main_process:
        return None
    last = (json.loads(run.log.read_text(encoding="utf-8")) or [{}])[-1]
    return Trained(out, last.get("joint_loss"), last.get("policy_kl"))


def _silent(line: str) -> None:
    """What only the first process says."""


class _LogAtTheEnd(TrainerCallback):
    """Of each epoch, so that there is something to tell of a short one."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        control.should_log = True
        return control


@dataclass(frozen=True)
class Run:
    """One training, and where its stages keep their results."""

    recipe: Recipe
    out: Path
    given: Path | None
    labels: Path | None
    say: Callable[[str], None]

    @cached_property
    def model(self) -> str:
        """What is trained.

        Raises:
            ConfigError: the recipe names none.
        """
        return opening.located(self.recipe.model)

    @property
    def folder(self) -> Path:
        """Where the stages keep their results."""
        return self.out / FOLDER

    @property
    def labelled(self) -> Path:
        """Rollouts with denoised values for rewards."""
        return self.folder / "labelled.parquet"

    @property
    def grid(self) -> Path:
        """The grid of the joint, its representatives fitted to the rollouts."""
        return self.folder / "grid.json"

    @property
    def log(self) -> Path:
        """What the training of the joint logged, a record every few steps."""
        return self.folder / LOG_FILE

    @property
    def rollouts(self) -> Path:
        """Those that are learnt from."""
        return self.given or self.folder / "rollouts.parquet"

    def claim(self) -> None:
        """Make the folder this run's, or see that it is.

        Raises:
            ConfigError, EvaluationDataError: it is not, or the recipe cannot be sampled or opened.
        """
        state = PartialState()
        if state.is_main_process:
            opening.config_of(self.model)
            if self.recipe.method != "full" and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
                raise ConfigError(
                    f"the method {self.recipe.method} trains little enough for every device; expected it without FSDP"
                )
            if self.given is None and not (self.folder / RECORD).exists():
                check_questions(self.recipe)
            claim(self.recipe, self.given, self.folder, model=Path(self.model))
            if self.labels is not None:
                for file in (self.labelled, self.grid):
                    shutil.copy2(self.labels / FOLDER / file.name, file)
        state.wait_for_everyone()

    def label(self) -> None:
        """Rollouts, and their denoised values by an intermediate head (eq. 4, A.1)."""
        if self.labelled.exists():
            self.say(f"{self.labelled} is there: its values are taken over")
            return
        state = PartialState()
        if state.is_main_process and not self.rollouts.exists():
            sample(self.recipe, self.model, self.rollouts, self.say)
        state.wait_for_everyone()
        found = self._opened()
        data, grid = reading.read(self.recipe, found, self.rollouts, self.say)
        self.say(f"the intermediate head learns from {len(data):,} rollouts")
        # It never speaks, so nothing holds it to the policy.
        trainer, prepared = self._fit(found, grid, data, "value", self.recipe.training.value_epochs)
        model = self._whole(trainer, prepared)
        share = np.arange(state.process_index, len(data), state.num_processes)
        own = denoised_values(
            model,
            data.select(share),
            grid,
            pad_token_id=found.pad_token_id,
            last=self.recipe.training.value_last,
            tokens=self.recipe.training.tokens_per_batch,
        )
        np.save(self._share(state.process_index), own)
        state.wait_for_everyone()
        if state.is_main_process:
            values = np.empty(len(data))
            for index in range(state.num_processes):
                values[index :: state.num_processes] = np.load(self._share(index))
            self._write(data, grid, values)
        state.wait_for_everyone()
        if state.is_main_process:
            _tidied(self.folder / "value")

    def learn(self) -> None:
        """The joint of value and remaining length, under the divergence from the policy (eq. 3)."""
        if (self.out / FILE_NAME).exists():
            self.say(f"{self.out} is trained already")
            return
        gc.collect()  # the intermediate model, which trainers hold in circles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        grid, data, found = JointGrid.load(self.grid), rows.load(self.labelled), self._opened()
        opening.grow(found.model, grid.reserved.stop)
        self.say(f"the joint is learnt from {len(data):,} rollouts, by the method {self.recipe.method}")
        trainer, prepared = self._fit(found, grid, data, "joint", self.recipe.training.epochs, held=True)
        weights = None
        if prepared.rows is None:
            weights = trainer.accelerator.get_state_dict(trainer.model)
        model = prepared.finish()
        state = PartialState()
        if state.is_main_process:
            self._save(found, model, weights)
            history = [record for record in trainer.state.log_history if "loss" in record]
            self.log.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
            grid.save(self.out)  # the last one, by which a finished training is known
            _tidied(self.folder / "joint")
        state.wait_for_everyone()

    def _opened(self) -> opening.Opened:
        training = self.recipe.training
        return opening.opened(self.model, self.recipe.method, training.precision, training.attention)

    def _fit(
        self, found: opening.Opened, grid: JointGrid, data: Dataset, name: str, epochs: float, *, held: bool = False
    ) -> tuple[JointTrainer, Prepared]:
        """Train on rows; `held` to the policy where the method can move it."""
        training, method = self.recipe.training, self.recipe.method
        set_seed(training.seed)
        prepared = prepare(found.model, grid, method, self.recipe.lora)
        reference: PreTrainedModel | None = None
        if held and method == "lora":
            reference = found.model
        elif held and method == "full":
            wanted = opening.rows_of(found.model)
            reference = opening.reference_of(self.model, wanted, training.precision, training.attention)
        arguments = self._arguments(self.folder / name, epochs)
        if arguments.n_gpu > 1:  # batches of one process cannot be shared by devices
            self.say("one GPU is used; for all of them begin with: accelerate launch -m zip_introspect train ...")
            arguments._n_gpu = 1
        trainer = JointTrainer(
            found.model,
            arguments,
            grid=grid,
            rows=prepared.rows,
            reference=reference,
            unadapted=prepared.unadapted,
            kl_weight=training.kl_weight,
            kl_top_k=training.kl_top_k,
            rows_learning_rate=training.rows_learning_rate,
            tokens_per_batch=training.tokens_per_batch,
            train_dataset=data,
            data_collator=JointCollator(grid, found.pad_token_id),
            callbacks=[_LogAtTheEnd()],
        )
        newest = newest_checkpoint(self.folder / name)
        if newest is not None:
            self.say(f"it goes on from {newest}")
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        return trainer, prepared

    def _arguments(self, folder: Path, epochs: float) -> TrainingArguments:
        training, cuda = self.recipe.training, torch.cuda.is_available()
        report_to = training.report_to
        if report_to is None:
            report_to = tuple(name for name in _REPORTERS if find_spec(name))
        again: dict[str, Any] = {}
        if training.gradient_checkpointing:
            again = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        return TrainingArguments(
            output_dir=str(folder),
            seed=training.seed,
            num_train_epochs=epochs,
            learning_rate=training.learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": training.min_learning_rate},
            warmup_steps=training.warmup_steps,
            weight_decay=training.weight_decay,
            adam_beta2=training.adam_beta2,
            max_grad_norm=training.max_grad_norm,
            gradient_accumulation_steps=training.accumulation,
            **again,
            bf16=opening.in_bfloat16(training.precision),
            use_cpu=not cuda,
            logging_steps=training.logging_steps,
            save_steps=training.save_steps,
            save_total_limit=1,
            report_to=list(report_to) or "none",
            remove_unused_columns=False,
            dataloader_pin_memory=cuda,
            ddp_timeout=int(_PATIENCE.total_seconds()),
            # Batches are shared out by whole ones; filling the last one up would repeat rows.
            accelerator_config={"even_batches": False},
        )

    def _whole(self, trainer: JointTrainer, prepared: Prepared) -> PreTrainedModel:
        """The trained model on this device, whole."""
        model = prepared.finish()
        if trainer.args.distributed_state.distributed_type == DistributedType.FSDP:
            # Gathered by the first process alone, and by way of the disk in all.
            weights, whole = trainer.accelerator.get_state_dict(trainer.model), self.folder / "value" / "whole"
            if PartialState().is_main_process:
                model.save_pretrained(whole, state_dict=weights)
            PartialState().wait_for_everyone()
            model = nn.Module.to(AutoModelForCausalLM.from_pretrained(whole), trainer.args.device)
        return model

    def _share(self, index: int) -> Path:
        return self.folder / "value" / f"values-{index}.npy"

    def _write(self, data: Dataset, grid: JointGrid, values: np.ndarray) -> None:
        rewards = np.asarray(data["reward"], dtype=np.float64)
        values = calibrated(values, reading.finished(data), rewards)
        lengths = np.asarray(data["length"]) - np.asarray(data["prompt_length"])
        if "beyond" in data.column_names:
            lengths = lengths + np.asarray(data["beyond"])
        fit_representatives(grid, values, rewards, lengths).save(self.grid)
        partial = self.labelled.with_suffix(".part")
        data.rename_column("reward", "right").add_column("reward", values).to_parquet(partial)
        partial.replace(self.labelled)

    def _save(self, found: opening.Opened, model: PreTrainedModel, weights: dict[str, Any] | None) -> None:
        """Write the model in its checkpoint's number type."""
        weights = model.state_dict() if weights is None else weights
        cast: dict[int, torch.Tensor] = {}
        for item in weights.values():  # tied weights stay one, so that they are written once
            if item.data_ptr() not in cast:
                cast[item.data_ptr()] = item.to(found.saved)
        state = {name: cast[item.data_ptr()] for name, item in weights.items()}
        model.save_pretrained(self.out, state_dict=state)
        config = self.out / "config.json"
        content = json.loads(config.read_text(encoding="utf-8"))
        content["dtype"] = str(found.saved).removeprefix("torch.")
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        found.tokenizer.save_pretrained(self.out)


def _tidied(folder: Path) -> None:
    """Remove what a stage is done with; what it logged stays."""
    for item in (*folder.glob("checkpoint-*"), *folder.glob("whole")):
        shutil.rmtree(item)
    for item in folder.glob("values-*.npy"):
        item.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
