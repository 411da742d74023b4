"""What a training is made of, as a YAML file that says all of it: `zip-introspect train --recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from pydantic import Field, field_validator, model_validator

from zip_introspect.config import SamplingParams, Settings, check_template_kwargs
from zip_introspect.errors import ConfigError
from zip_introspect.framing import Framing
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded
from zip_introspect.training.methods import Method
from zip_introspect.training.values import startup_for

_LONGEST_FILE = 1 << 20
_SUFFIX = ".yaml"
_FSDP = "fsdp"


class Questions(Settings):
    """Where questions with known answers come from."""

    dataset: str = Field(description="JSONL file, Hugging Face data set (name:configuration), or abacus:training.")
    split: str | None = Field(None, description="The only one, or test, unless given.")
    question_column: str | None = Field(None, description="question, problem or prompt, unless given.")
    answer_column: str | None = Field(None, description="answer, solution or target, unless given.")
    limit: int | None = Field(None, ge=1, description="Questions, at most.")


class Sampling(Settings):
    """How the model answers them: as it will be asked later."""

    samples: int = Field(2, ge=1, description="Of each question; two in the paper.")
    temperature: float = Field(1.0, gt=0.0, description="Of the samples.")
    top_p: float = Field(1.0, description="Smallest set of this mass.")
    top_k: int = Field(0, description="Most likely tokens; 0 is all.")
    min_p: float = Field(0.0, description="Of the most likely one.")
    max_new_tokens: int = Field(2048, ge=1, description="Tokens of one sample, at most; a longer one is wrong.")
    concurrency: int = Field(128, ge=1, description="Samples that grow together.")
    expected_tokens: int | None = Field(None, ge=1, description="Of a sample: for --dry-run, before there are any.")
    template_options: dict[str, Any] = Field({}, description="For the chat template, such as enable_thinking.")
    system: str | None = Field(None, description="A system message before each question.")
    examples: str | None = Field(None, description="Worked examples: a JSONL file.")
    instruction: str | None = Field(None, description="Behind each question.")

    @field_validator("template_options")
    @classmethod
    def _free(cls, options: dict[str, Any]) -> dict[str, Any]:
        check_template_kwargs(options)
        return options

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.params(0)
        return self

    def params(self, seed: int) -> SamplingParams:
        """As a backend takes them."""
        return SamplingParams(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, min_p=self.min_p, seed=seed
        )

    def framing(self) -> Framing:
        """How questions are put.

        Raises:
            ConfigError: a file of examples that is none.
        """
        return Framing.of(self.system, expanded(Path(self.examples)) if self.examples else None, self.instruction)


class Grid(Settings):
    """Which outcomes are told apart."""

    reward_bins: int = Field(8, ge=2, le=64, description="Of equal width from 0 to 1.")
    length_bins: int = Field(8, ge=2, le=64, description="A start-up bin, then each twice the one before it (A.1).")
    startup: int | None = Field(
        None, ge=1, description="Tokens of the first length bin. Such that the last one holds the longest rollout."
    )
    length_edges: tuple[float, ...] | None = Field(None, description="In place of both.")
    first_reserved: int | None = Field(
        None, ge=0, description="The first reserved token. The first of enough spare ones, or a row to be appended."
    )

    def over(self, longest: int, first_reserved: int) -> JointGrid:
        """The grid of rollouts.

        Args:
            longest: tokens of a rollout, at most.
        """
        if self.length_edges is None:
            startup = self.startup or startup_for(longest, self.length_bins)
            return JointGrid.paper(
                first_reserved, num_reward_bins=self.reward_bins, num_length_bins=self.length_bins, startup=startup
            )
        rewards = np.linspace(0.0, 1.0, self.reward_bins + 1)
        return JointGrid(reward_edges=rewards, length_edges=self.length_edges, first_reserved=first_reserved)

    @property
    def cells(self) -> int:
        """How many reserved tokens it takes."""
        lengths = self.length_bins if self.length_edges is None else len(self.length_edges) - 1
        return self.reward_bins * lengths


class Training(Settings):
    """How long, how fast and how much at once."""

    epochs: float = Field(1.0, gt=0.0, description="Over the rollouts, for the joint.")
    value_epochs: float = Field(1.0, gt=0.0, description="For the intermediate head, whose values replace rewards.")
    value_last: int = Field(8, ge=1, description="Last prefixes of a rollout over which its value is averaged.")
    learning_rate: float = Field(1e-5, gt=0.0, description="Of the weights.")
    rows_learning_rate: float | None = Field(
        None, gt=0.0, description="Of the reserved rows of lora and lite, where it is another."
    )
    warmup_steps: int = Field(50, ge=0, description="Over which the learning rate rises.")
    min_learning_rate: float = Field(0.1, ge=0.0, le=1.0, description="The share of it that is left at the end.")
    weight_decay: float = Field(0.01, ge=0.0, description="Decoupled, of AdamW.")
    adam_beta2: float = Field(0.98, gt=0.0, lt=1.0, description="Of AdamW, for the squares.")
    max_grad_norm: float = Field(
        0.0, ge=0.0, description="0 clips nothing: batches differ in length, and clipping would shorten what it learns."
    )
    kl_weight: float = Field(10.0, ge=0.0, description="alpha_KL of eq. 3; A.1 recommends 10 to 100.")
    kl_top_k: int | None = Field(None, ge=1, description="Of the reference's tokens; all, exactly, unless given.")
    tokens_per_batch: int = Field(16_384, ge=1, description="On one device, padding counted.")
    accumulation: int = Field(1, ge=1, description="Batches to an update.")
    max_length: int | None = Field(
        None, ge=2, description="Longer rollouts are read up to there; what remains beyond it still counts."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory for a third more time.")
    precision: Literal["auto", "bfloat16", "float32"] = Field("auto", description="Of the arithmetic.")
    attention: str | None = Field(None, description="flash_attention_2, sdpa or eager; the model's own unless given.")
    seed: int = Field(0, ge=0, description="Fixes rollouts and training.")
    logging_steps: int = Field(25, ge=1, description="Between two records.")
    save_steps: int = Field(200, ge=1, description="Between two checkpoints, from which a run goes on.")
    report_to: tuple[str, ...] | None = Field(
        None, description="tensorboard, wandb, ...; those of these two that are installed, unless given."
    )


class Lora(Settings):
    """The adapters of the method lora (Hu et al., 2022), on every linear layer."""

    rank: int = Field(16, ge=1, description="Of each adapter.")
    alpha: int = Field(32, ge=1, description="Over the rank: what an adapter is multiplied by.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Of what adapters read.")


class Recipe(Settings):
    """A training from questions, or from rollouts, to a model that says how likely it is to be right."""

    model: str | None = Field(None, description="Directory or hub id of a checkpoint.")
    backend: str | None = Field(None, description="That samples the rollouts; inferred unless given.")
    method: Method = Field("full", description="Every weight; adapters and the reserved rows; the reserved rows alone.")
    questions: tuple[Questions, ...] = ()
    grader: str = Field("exact", description="exact, numeric, math, regex:PATTERN, abacus or module:function.")
    sampling: Sampling = Field(default_factory=Sampling)
    grid: Grid = Field(default_factory=Grid)
    training: Training = Field(default_factory=Training)
    lora: Lora = Field(default_factory=Lora)


def shipped() -> tuple[str, ...]:
    """The names of the recipes that come with this package."""
    found = (item.name for item in files(__package__).joinpath("recipes").iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def text(recipe: str) -> str:
    """A recipe as it is written: of a file, or of a name of `shipped()`; or the accelerate configuration `fsdp`.

    Raises:
        ConfigError: none of these, or a file that is no text or too long.
    """
    folder = files(__package__).joinpath("recipes")
    if recipe in (known := shipped()):
        return folder.joinpath(f"{recipe}{_SUFFIX}").read_text(encoding="utf-8")
    if recipe == _FSDP:
        return folder.joinpath("accelerate", f"{recipe}{_SUFFIX}").read_text(encoding="utf-8")
    file = expanded(Path(recipe))
    if not file.is_file():
        raise ConfigError(f"there is no recipe {recipe!r}; expected a YAML file, or one of {', '.join(known)}")
    if file.stat().st_size > _LONGEST_FILE:
        raise ConfigError(f"{file} has {file.stat().st_size:,} bytes; expected a recipe of at most {_LONGEST_FILE:,}")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as text: {error}") from error


def load(recipe: str | None, changes: Sequence[str] = ()) -> Recipe:
    """A recipe with some settings changed.

    Args:
        recipe: as of `text`; None begins with the defaults.
        changes: `section.name=value`, the value as in YAML; or `name=value` of what stands outside sections.

    Raises:
        ConfigError: no such recipe, no YAML, or a setting that does not exist or has no such value.
    """
    content = {} if recipe is None else _parsed(text(recipe), recipe)
    for change in changes:
        name, equals, value = change.partition("=")
        *sections, last = name.split(".")
        if not equals or not all([*sections, last]) or len(sections) > 1:
            raise ConfigError(f"--set is {change!r}; expected NAME=VALUE, such as training.learning_rate=1e-5")
        inner = content
        for section in sections:
            if section not in (known := _sections()) or not isinstance(inner.setdefault(section, {}), dict):
                raise ConfigError(
                    f"--set {change}: {section} is no section; expected one of {', '.join(known)}, or all of a list, "
                    f"such as questions=[{{dataset: questions.jsonl}}]"
                )
            inner = inner[section]
        inner[last] = _value(value)
    return Recipe(**{str(name): value for name, value in content.items()})


def dump(recipe: Recipe) -> str:
    """All settings as YAML, those too that were left as they are."""
    written: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return written


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias is no setting")
        return super().compose_node(parent, index)


def _parsed(written: str, name: str) -> dict[Any, Any]:
    try:
        content = yaml.load(written, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name} is no YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name} holds {type(content).__name__}; expected sections and settings by their names")
    return {key: {} if value is None and key in _sections() else value for key, value in content.items()}


def _sections() -> tuple[str, ...]:
    return tuple(name for name, field in Recipe.model_fields.items() if field.default_factory is not None)


def _value(written: str) -> Any:
    """A value as YAML has it, but for numbers such as 1e-5, which YAML 1.1 takes for text."""
    try:
        found = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set has the value {written!r}, which is no YAML") from error
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError:
            return found
    return found
