"""What a training takes, before it begins: memory, tokens and hours, without weights and without a GPU.

The arithmetic is the usual one: a forward pass takes 2 operations a parameter and token, a backward pass twice as many
(Kaplan et al., 2020), and attention 4 more a layer, dimension and token attended to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from zip_introspect.errors import ConfigError, ModelLoadError
from zip_introspect.training import chunked, opening, reading
from zip_introspect.training.methods import prepare
from zip_introspect.training.recipe import Recipe
from zip_introspect.training.sampling import questions_of

DEVICES = {"RTX 4090": (165e12, 24), "A100 80GB": (312e12, 80), "H100": (989e12, 80)}
"""Dense bfloat16 operations a second, and gigabytes, as their makers state them."""
SHARE = 0.4
"""Of a GPU's peak that a training of this kind reaches; on this machine's processors, of a bare matrix product."""
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_COUNTED = 200
"""Questions whose tokens are counted, where there are no rollouts yet."""


@dataclass(frozen=True)
class Memory:
    """Of one device, in bytes."""

    weights: float
    gradients: float
    optimiser: float
    reference: float
    activations: float
    """Of a batch, and the logits of a chunk."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.reference + self.activations


@dataclass(frozen=True)
class Estimate:
    """What a training takes."""

    model: str
    method: str
    parameters: int
    trained: int
    rollouts: int
    tokens: float
    """Of all rollouts, prompts included."""
    assumed: bool
    """Whether their length is the recipe's guess."""
    generated: float
    """Tokens that are still to be sampled."""
    memory: Memory
    operations: float
    """Floating-point, of both heads and the values."""
    here: float
    """Operations a second that this machine reaches."""

    def hours(self, operations_a_second: float) -> float:
        """Of training, without the sampling."""
        return self.operations / operations_a_second / 3600

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        hours = {name: self.hours(SHARE * speed) for name, (speed, _) in DEVICES.items()}
        total = {"memory_total": self.memory.total, "hours": {**hours, "this machine": self.hours(self.here)}}
        return {**asdict(self), **total}

    def tables(self) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
        """For people: titles, and rows of a name, a figure and a remark."""
        guess = "a guess of the recipe: sampling.expected_tokens" if self.assumed else "counted in the rollouts"
        yield (
            f"{self.model}, method {self.method}",
            [
                ("parameters", _number(self.parameters), ""),
                ("trained", _number(self.trained), f"{self.trained / self.parameters:.2%}"),
                ("rollouts", f"{self.rollouts:,}", ""),
                ("tokens", _number(self.tokens), guess),
                ("to be sampled", _number(self.generated), "tokens, before the training begins"),
            ],
        )
        memory, size = self.memory, _gigabytes
        yield (
            "Memory of a device",
            [
                ("weights", size(memory.weights), ""),
                ("gradients", size(memory.gradients), ""),
                ("optimiser", size(memory.optimiser), ""),
                ("reference", size(memory.reference), "the original, for the divergence"),
                ("batch", size(memory.activations), "activations, and the logits of a chunk"),
                ("all", size(memory.total), ""),
            ],
        )
        devices = [
            (name, _span(self.hours(SHARE * speed)), "" if self.memory.total < room * 1e9 else f"it has {room} GB")
            for name, (speed, room) in DEVICES.items()
        ]
        devices.append(("this machine", _span(self.hours(self.here)), f"{self.here / 1e9:,.0f} GFLOP/s were measured"))
        yield f"Training on one device, at {SHARE:.0%} of its peak", devices


def estimated(recipe: Recipe, rollouts: Path | None = None) -> Estimate:
    """Count what a recipe takes. Of a checkpoint, configuration and tokenizer are read, and no weights.

    Raises:
        ConfigError, ModelLoadError, EvaluationDataError, TrainingDataError: as `training.run.train`.
    """
    name = opening.located(recipe.model)
    config = opening.config_of(name)
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config)
        except ValueError as error:
            raise ModelLoadError(f"{name} is no causal language model: {' '.join(str(error).split())[:200]}") from error
        first = recipe.grid.first_reserved or 0
        grid = recipe.grid.over(1, first)
        opening.grow(model, grid.reserved.stop)
        parameters = model.num_parameters()
        prepare(model, grid, recipe.method, recipe.lora)
    trained = sum(item.numel() for item in model.parameters() if item.requires_grad)
    lengths, generated, assumed = _lengths(recipe, name, rollouts)
    limit = recipe.training.max_length or lengths.max()
    lengths = np.minimum(lengths, limit)
    half = opening.in_bfloat16(recipe.training.precision)
    return Estimate(
        model=str(recipe.model),
        method=recipe.method,
        parameters=parameters,
        trained=trained,
        rollouts=len(lengths),
        tokens=float(lengths.sum()),
        assumed=assumed,
        generated=generated,
        memory=_memory(recipe, config, model, parameters, trained, int(lengths.max())),
        operations=_operations(recipe, config, parameters - _idle(model, config), lengths),
        here=SHARE * _measured(torch.bfloat16 if half else torch.float32),
    )


def _lengths(recipe: Recipe, name: str, rollouts: Path | None) -> tuple[np.ndarray, float, bool]:
    """Tokens of each rollout, how many are to be sampled, and whether that is a guess."""
    if rollouts is not None:
        return np.asarray(reading.load(rollouts)["length"]), 0.0, False
    if not recipe.questions:
        raise ConfigError("the recipe has no questions, and no rollouts are given; expected one of them")
    expected = recipe.sampling.expected_tokens or recipe.sampling.max_new_tokens
    questions, encode = questions_of(recipe), AutoTokenizer.from_pretrained(name)
    prompt = np.mean([len(encode(question.text)["input_ids"]) for question in questions[:_COUNTED]])
    count = len(questions) * recipe.sampling.samples
    return np.full(count, round(prompt) + expected), float(count * expected), True


def _memory(recipe: Recipe, config: Any, model: PreTrainedModel, parameters: int, trained: int, longest: int) -> Memory:
    full, text = recipe.method == "full", config.get_text_config()
    precision = recipe.training.precision
    stored = 2 if opening.kept_in_half(config.dtype, recipe.method, precision) else 4
    read = 2 if opening.in_bfloat16(precision) else 4
    batch = max(recipe.training.tokens_per_batch, longest)
    layers, hidden = text.num_hidden_layers, text.hidden_size
    # Of each token and layer: its input alone where the rest is made anew, or else some 34 bytes a dimension in half
    # precision (Korthikanti et al., 2022), and no scores of attention, which are never kept.
    kept = 0 if recipe.method == "lite" else 2 * hidden if recipe.training.gradient_checkpointing else 34 * hidden
    # Where something is done to logits behind the output head, those of all positions are there at once.
    logits = 8 * 4 * (batch if chunked.output_head(model) is None else chunked.CHUNK) * text.vocab_size
    return Memory(
        weights=stored * parameters,
        gradients=4 * trained,
        optimiser=8 * trained,
        reference=read * parameters if full and recipe.training.kl_weight >= 0 else 0,
        activations=batch * (layers * kept + 34 * hidden) + logits,
    )


def _idle(model: PreTrainedModel, config: Any) -> int:
    """Parameters that take no operations: input embeddings that are not the output head too, and experts that rest."""
    table, output = (
        getattr(item, "weight", None) for item in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    looked_up = 0 if table is None or table is output else int(table.numel())
    text = config.get_text_config()
    experts = next((getattr(text, name) for name in _EXPERTS if getattr(text, name, None)), 0)
    if not experts:
        return looked_up
    active = getattr(text, "num_experts_per_tok", experts) or experts
    theirs = sum(item.numel() for name, item in model.named_parameters() if ".experts." in name)
    return looked_up + round(theirs * (1 - active / experts))


def _operations(recipe: Recipe, config: Any, parameters: int, lengths: np.ndarray) -> float:
    text, training = config.get_text_config(), recipe.training
    tokens = float(lengths.sum())
    attention = 4 * text.num_hidden_layers * text.hidden_size * float((lengths.astype(np.float64) ** 2).sum()) / 2
    forward = 2 * parameters * tokens + attention
    backward = {"full": 2.0, "lora": 1.0, "lite": 0.0}[recipe.method]  # frozen weights have no gradients of their own
    again = 1.0 if training.gradient_checkpointing and backward else 0.0
    reference = 0.0 if recipe.method == "lite" else 1.0
    passes = 1 + backward + again
    return float(forward * (training.value_epochs * passes + 1 + training.epochs * (passes + reference)))


def _measured(dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Operations a second of a bare matrix product on this machine's best device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 1024
    left = torch.randn(size, size, dtype=dtype, device=device)
    torch.mm(left, left)
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        torch.mm(left, left)
        if device == "cuda":
            torch.cuda.synchronize()
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - begun)


def _number(count: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,.0f}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def _span(hours: float) -> str:
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
