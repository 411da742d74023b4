"""Every setting of a generation, with the paper's defaults. Values are checked when they are set."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from zip_introspect.errors import ConfigError

NOT_OPTIONS = frozenset(
    "add_generation_prompt bos_token chat_template cls_token continue_final_message conversation eos_token mask_token "  # noqa: SIM905
    "max_length messages pad_token padding raise_exception return_assistant_tokens_mask return_dict return_tensors "
    "sanitize_control_tokens self sep_token strftime_now tokenize tokenizer_kwargs truncation unk_token".split()
)
"""Variables of chat templates, and arguments of those who render them, that are not a caller's to set."""


def check_template_kwargs(options: Mapping[str, Any]) -> None:
    """Refuse what a chat template cannot be given.

    Raises:
        ConfigError: a name that is not free, or a value that is not JSON.
    """
    for name, value in options.items():
        if not isinstance(name, str) or not name.isidentifier() or name in NOT_OPTIONS:
            raise ConfigError(
                f"{name!r} is no option of a chat template: it is set for every prompt, or is no variable's name. "
                f"Expected names that the template reads, such as enable_thinking or tools"
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"the template option {name!r} is not JSON ({error}); expected texts, numbers, booleans, lists and "
                f"objects, and for tools their JSON schemas"
            ) from error


_SEE = ". See the configuration page of the docs for the ranges."


class Settings(BaseModel):
    """Immutable settings whose validation errors are ours: one line that names field, value and expectation."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise self._explain(error) from None

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed. What was left at its default stays known as that."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})

    @classmethod
    def _explain(cls, error: ValidationError) -> ConfigError:
        parts = []
        for item in error.errors():
            place = ".".join(map(str, item["loc"]))
            message = item["msg"].removeprefix("Value error, ")
            if message.endswith(_SEE):  # of settings within these
                parts.append(f"{place}.{message}".removeprefix(".").removesuffix(_SEE))
                continue
            parts.append(f"{place or cls.__name__} is {item['input']!r}: {message[0].lower()}{message[1:]}")
        return ConfigError("; ".join(parts) + _SEE)


COLDEST = float(np.finfo(np.float32).tiny)
"""The lowest temperature that float32 logits can be divided by; below it, sampling is greedy in every backend."""

_SEED_BITS = 32  # of a drawn seed: short enough to be copied


class _Filters(Settings):
    """What the next token may be."""

    temperature: float = Field(1.0, ge=0.0, le=100.0, description="0 is greedy, and so is all below 1.2e-38.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Keep the smallest set of tokens with this mass.")
    top_k: int = Field(0, ge=0, description="Keep the k most likely tokens; 0 keeps all.")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="Drop tokens below this share of the most likely one's.")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken, the first of equals: every sample of a prompt is the same."""
        return self.temperature < COLDEST or self.top_k == 1


class SamplingParams(_Filters):
    """How the next token is drawn. Filters apply in this order: temperature, top_k, top_p, min_p."""

    seed: int = Field(0, description="Fixes the result on one backend and device.")
    confidences: bool = Field(False, description="Report how sure the model is of each token: Advanced.confidences.")


class Thinking(Settings):
    """Where a model thinks before it answers, and what that may take of `max_new_tokens`."""

    open: str | tuple[int, ...] | None = Field(
        "<think>",
        description="What opens a thought, as text or token ids; a prompt that ends in it has opened it. None: a "
        "sample thinks from its first token.",
    )
    close: str | tuple[int, ...] = Field("</think>", description="What closes it, as text or token ids.")
    by: Literal["count", "joint", "never"] = Field(
        "count",
        description="Closed at the latest when `budget` is used up or the answer's share begins (count), and before "
        "that where going on is worth less than answering now (joint); or not by us (never).",
    )
    budget: int | None = Field(
        None, ge=1, description="Tokens of a thought; None: all that `answer_budget` leaves of max_new_tokens."
    )
    answer_budget: int | None = Field(
        None, ge=1, description="Tokens kept for the answer of each sample; None: a quarter of max_new_tokens."
    )
    forced: str | tuple[int, ...] | None = Field(
        None, description="What is written to close a thought, `close` within it; None: `close` alone."
    )
    probe_interval: int = Field(
        64, ge=1, description="Tokens of a thought between two looks at what answering now is worth (joint)."
    )

    @model_validator(mode="after")
    def _spelt(self) -> Self:
        for name in ("open", "close", "forced"):
            if getattr(self, name) in ("", ()):
                raise ValueError(f"{name} is empty; expected a text or token ids")
        return self


class GenerationConfig(_Filters):
    """One generation: what is sampled, how it is searched, what is chosen."""

    seed: int | None = Field(
        0, description="Fixes the result on one backend and device; None draws one for each prompt and reports it."
    )
    strategy: str | None = Field(
        None,
        description="A registered strategy: zip_rc, majority_vote, best_of_n, single ... None: zip_rc, or "
        "adaptive_consistency for a model without a head.",
    )
    strategy_options: dict[str, Any] = Field(
        default_factory=dict, description="What that strategy takes beside this, by its own names."
    )
    max_samples: int = Field(8, ge=1, le=4096, description="Samples started for one prompt, at most (A.2, table 2).")
    max_new_tokens: int = Field(2048, ge=1, description="Tokens of one sample, end of sequence included.")
    alpha: float = Field(0.1, ge=0.0, le=1.0, description="Compute (1) against latency (0) in the cost (eq. 17).")
    beta: float = Field(
        0.01, ge=0.0, description="Cost against reward, over the mean expected length of all that may run (eq. 28)."
    )
    interval: int = Field(16, ge=1, description="Tokens between two decisions.")
    smoothing: int = Field(1, ge=1, description="Joints averaged along a path, W of eq. 27; 1 is off.")
    horizon: Literal["shared", "per_prefix", "none"] = Field("shared", description="How planned pruning is capped.")
    search: Literal["nested", "exact"] = Field("nested", description="How meta-actions are enumerated (A.2).")
    count_prompt: bool = Field(False, description="Count the prompt's tokens in |s| of eq. 28 too.")
    selection: Literal["value", "majority", "weighted_majority"] | None = Field(
        None, description="How the answer is chosen; None is the strategy's own way."
    )
    confidence_source: Literal["head", "agreement", "tokens"] | None = Field(
        None, description="What a result's confidence rests on; None is the strategy's own way, the head, or agreement."
    )
    confidence_window: int = Field(
        64, ge=1, description="Tokens over which the confidence of tokens is averaged into that of a group."
    )
    stop: tuple[str, ...] = Field((), description="Strings that end a sample, or one; not part of its text.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Variables for the chat template, such as enable_thinking; JSON."
    )

    thinking: Thinking | None = Field(
        None, description="Budgets of a model that thinks before it answers; None: all that it says is its answer."
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _free_names(cls, options: dict[str, Any]) -> dict[str, Any]:
        check_template_kwargs(options)
        return options

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, stop: Any) -> Any:
        return (stop,) if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty string, which would end every sample at once")
        if self.thinking is not None and (self.thinking.answer_budget or 0) >= self.max_new_tokens:
            raise ValueError(
                f"thinking.answer_budget is {self.thinking.answer_budget}; expected less than "
                f"max_new_tokens={self.max_new_tokens}, which leaves some to think"
            )
        return self

    def seeded(self) -> Self:
        """These settings with a seed: their own, or a fresh one."""
        return self if self.seed is not None else self.replace(seed=fresh_seed())

    @property
    def sampling(self) -> SamplingParams:
        """The part that backends see; a seed of None is drawn anew at every access."""
        seeded = self.seeded()
        return SamplingParams(**{name: getattr(seeded, name) for name in (*_Filters.model_fields, "seed")})


def fresh_seed() -> int:
    """A seed that nothing fixes."""
    return secrets.randbits(_SEED_BITS)
