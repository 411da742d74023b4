"""Rung: a model of a ladder, and what is known of it beforehand."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zip_introspect.answers.extraction import AnswerExtractor, default_extractor
from zip_introspect.errors import ConfigError
from zip_introspect.escalation.models import Model, adapted
from zip_introspect.escalation.reply import Reply
from zip_introspect.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Rung:
    """A model of a ladder, and what is known of it beforehand.

    Raises:
        ConfigError: a model that cannot be asked, or a number out of its range.
    """

    model: Any
    """An `IntrospectiveLLM`, a `Ladder`, anything with `invoke`, or a function of the prompt, `async` or not. Functions
    return text, a number, a message, or a `Reply`."""
    name: str = ""
    """In results and messages; where not given, the model's own name."""
    expected_reward: float | Callable[[Prompt], float] = 1.0
    """How likely it is to be right, the same for all prompts or a function of the prompt. What results report where the
    model itself reports no confidence: 1 unless you say otherwise."""
    cost: float = 0.0
    """What asking it costs, in units of the reward: at 0.2, it is asked only for answers worth 0.2 more."""
    timeout: float | None = None
    """Seconds after which the ladder goes on without it. A thread that still works on it is left behind; but an event
    loop that is closed waits for what runs in its own threads, such as Runnables that are not `async` themselves."""
    max_tokens: int | None = None
    """The most tokens it generates in a call. A budget of tokens needs it; a model that knows budgets is held to it."""
    max_cost: float | None = None
    """The most money a call costs. A budget of money needs it; a model that knows budgets is held to it."""
    price_per_token: float | None = None
    """Money for a generated token; of an `IntrospectiveLLM`, the budget's price where this is None."""
    price_per_prompt_token: float = 0.0
    extractor: AnswerExtractor = default_extractor
    """Finds the short answer in its text; an `IntrospectiveLLM` uses its own."""
    adapter: Model = field(init=False, repr=False, compare=False)
    """How it is asked."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapter", adapted(self.model))
        if not self.name:
            object.__setattr__(self, "name", self.adapter.name)
        for name in ("timeout", "max_tokens", "max_cost", "price_per_token"):
            value = getattr(self, name)
            if value is not None and _finite(value, self.name, name) <= 0:
                raise ConfigError(f"{name} of {self.name!r} is {value!r}; expected more than 0")
        if self.max_tokens is not None and not isinstance(self.max_tokens, int):
            raise ConfigError(f"max_tokens of {self.name!r} is {self.max_tokens!r}; expected a whole number")
        if _finite(self.price_per_prompt_token, self.name, "price_per_prompt_token") < 0:
            raise ConfigError(f"price_per_prompt_token of {self.name!r} is {self.price_per_prompt_token!r}; below 0")
        _finite(self.cost, self.name, "cost")
        if not callable(self.expected_reward):
            _finite(self.expected_reward, self.name)

    @property
    def informed(self) -> bool:
        """Whether anything is said of its reward or cost, as expected utilities need."""
        return callable(self.expected_reward) or self.expected_reward != 1.0 or self.cost != 0.0

    def reward(self, prompt: Prompt) -> float:
        """The reward expected of it for a prompt.

        Raises:
            ConfigError: `expected_reward` raised an error, or gave no finite number.
        """
        if not callable(self.expected_reward):
            return self.expected_reward
        try:
            value = self.expected_reward(prompt)
        except Exception as error:  # whatever a function of others raises
            raise ConfigError(
                f"expected_reward of {self.name!r} raised {type(error).__name__}: {error}; expected a number for every "
                f"prompt"
            ) from error
        return _finite(value, self.name)

    def money(self, reply: Reply) -> float | None:
        """What a reply cost: as it says itself, by its tokens and the prices, or the most it may have cost."""
        if reply.usage.cost is not None:
            return reply.usage.cost
        if self.price_per_token is None:
            return self.max_cost
        if not reply.usage.generated_tokens:  # it does not say how many
            return self.max_cost or 0.0
        spent = reply.usage.generated_tokens * self.price_per_token
        return spent + reply.usage.prompt_tokens * self.price_per_prompt_token


def _finite(value: Any, owner: str, name: str = "expected_reward") -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"{name} of {owner!r} is {value!r}; expected a finite number")
    return float(value)
