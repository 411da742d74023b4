"""One prompt to search, and whether it can be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from zip_introspect import strategies
from zip_introspect.backend import BackendInfo
from zip_introspect.budget import Budget, Ledger
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError, PromptError


@dataclass(frozen=True, slots=True)
class HandOn:
    """The choice to leave a question to a stronger model.

    Raises:
        ConfigError: a number that is not finite.
    """

    worth: float | None = None
    """Reward expected of the stronger model less what asking it costs, in reward; weighed at every decision."""
    below: float | None = None
    """Hand on before the first token where the value expected at the prompt is below this."""

    def __post_init__(self) -> None:
        for name in ("worth", "below"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"hand_on.{name} is {value!r}; expected a finite number, in units of the reward")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to search."""

    tokens: tuple[int, ...]
    config: GenerationConfig
    budget: Budget = field(default_factory=Budget)
    hand_on: HandOn | None = None


def check(request: Request, info: BackendInfo) -> None:
    """Refuse a request that cannot be run, before work is spent on it.

    Raises:
        PromptError: no tokens, or no room in the context for a single generated one.
        ConfigError: an unknown strategy, or options that it does not take.
        BudgetError: the prompt alone costs more than max_cost allows.
    """
    if not request.tokens:
        raise PromptError("the prompt has no tokens; expected text to answer")
    if len(request.tokens) >= info.max_context:
        raise PromptError(
            f"the prompt has {len(request.tokens)} tokens, and the context of {info.model} holds {info.max_context}, "
            f"the answer included. Shorten the prompt by {len(request.tokens) - info.max_context + 1} tokens or more."
        )
    strategies.get(request.config.strategy)(request.config)
    Ledger(request.budget, len(request.tokens))
