"""One prompt to search, and whether it can be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypedDict

from zip_introspect import strategies
from zip_introspect.backend.contract import Backend, BackendInfo
from zip_introspect.budget import Budget, Ledger, affordable
from zip_introspect.config import GenerationConfig, Thinking
from zip_introspect.errors import BackendError, ConfigError, HeadError, PromptError
from zip_introspect.framing import NO_FRAMING, Framing
from zip_introspect.prompts import Prompt, check_prompt
from zip_introspect.search.thought_rules import ThoughtRules, thought_rules
from zip_introspect.shared_budget import Share, SharedBudget, total_of
from zip_introspect.strategies import Strategy


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


class CallSettings(TypedDict, total=False):
    """What may be given to one call beside the prompt: `generate`, `agenerate`, `stream` and `astream` take these.

    The rest are fields of `GenerationConfig`, for this call alone.
    """

    budget: Budget | SharedBudget | int | None
    """A `Budget`, or a number of generated tokens; None is no limit. A `SharedBudget` is `total_budget`."""
    total_budget: SharedBudget | Budget | int | None
    """One budget for all prompts of the call, or with a `SharedBudget` for all calls that are given it."""
    config: GenerationConfig | None
    """In place of the model's own."""
    chat: bool
    """Whether the chat template is applied; true unless given."""
    hand_on: HandOn | None
    """The choice to leave the question to a stronger model; the result's `finish_reason` is then "handed_on". `Ladder`
    gives it, and asks that model."""
    framing: Framing | None
    """How a question that is given as a text is put; None is as its head learnt it, or as it stands without one."""
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    strategy: str | None
    strategy_options: dict[str, Any]
    max_samples: int
    max_new_tokens: int
    alpha: float
    beta: float
    interval: int
    smoothing: int
    horizon: Literal["shared", "per_prefix", "none"]
    search: Literal["nested", "exact"]
    count_prompt: bool
    selection: Literal["value", "majority", "weighted_majority"] | None
    confidence_source: Literal["head", "agreement", "tokens"] | None
    confidence_window: int
    stop: str | Sequence[str]
    chat_template_kwargs: dict[str, Any]
    thinking: Thinking | None


TO_GET_ONE = "make it one with: zip-introspect fit MODEL QUESTIONS, and open it with head=FILE"
"""What to do where a model has no head."""

OF_A_CALL = frozenset({"budget", "total_budget", "config", "chat", "hand_on", "framing"})
"""The settings of a call that are no fields of `GenerationConfig`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to search."""

    tokens: tuple[int, ...]
    config: GenerationConfig
    budget: Budget = field(default_factory=Budget)
    hand_on: HandOn | None = None
    warnings: tuple[str, ...] = ()
    """Of how it was asked."""
    part: Share | None = None
    """In a shared budget, which is drawn on within `budget`."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that can be run: once, for its strategy may keep state, and its ledger does."""

    request: Request
    """With a seed."""
    strategy: Strategy
    ledger: Ledger
    samples_at_most: int
    """How many samples may ever be started."""
    samples_at_once: int
    """How many of them the backend may have to hold at once."""
    warnings: tuple[str, ...] = ()
    thoughts: ThoughtRules | None = None
    """Of its samples, where the model thinks before it answers."""
    confidences: bool = False
    """Whether the backend is asked for the confidences of tokens."""

    @property
    def spare(self) -> int:
        """Sequences beside its samples and the prompt: copies by which it is tried what closing a thought is worth."""
        return int(self.thoughts is not None and self.thoughts.by == "joint")

    @property
    def sequences(self) -> int:
        """How many sequences the backend has to hold for it: its samples, and the prompt that they start from."""
        return self.samples_at_once + 1 + self.spare

    def begin(self) -> bool:
        """Begin to draw on a shared budget, if there is one; whether it carries the prompt and a token."""
        own, longest = self.request.budget, self.request.config.max_new_tokens
        most = min(self.samples_at_most, own.max_samples or math.inf) * min(longest, own.max_depth or math.inf)
        allowed = affordable(own, len(self.request.tokens), 0)
        return self.ledger.begin(int(most if allowed is None else min(most, allowed)))


def settled(settings: CallSettings, config: GenerationConfig) -> GenerationConfig:
    """The settings of a call: its own, over those of its `config` or of the model.

    Another strategy than theirs comes with its own selection and options, where the call gives none.

    Raises:
        ConfigError: one that is unknown, or out of its range.
    """
    overrides = {name: value for name, value in settings.items() if name not in OF_A_CALL}
    config = settings.get("config") or config
    if overrides.get("strategy", config.strategy) != config.strategy:
        overrides = {"selection": None, "strategy_options": {}, **overrides}
    return config.replace(**overrides) if overrides else config


@dataclass(frozen=True, slots=True)
class Preparation:
    """A prompt to encode and check: to be called where nothing else touches the backend.

    Its part in a shared budget is held from its making on; as a context, until its end where nothing has begun by then.
    """

    make: Callable[[], Checked]
    part: Share | None = None

    def __call__(self) -> Checked:
        try:
            return self.make()
        except BaseException:
            self.withdraw()
            raise

    def withdraw(self, _: object = None) -> None:
        """Leave the part in a shared budget to others, unless the search has begun. It takes a future that is done."""
        if self.part is not None:
            self.part.withdraw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.withdraw()


def prepared(prompt: Prompt, settings: CallSettings, config: GenerationConfig, backend: Backend) -> Preparation:
    """What encodes and checks a prompt. It counts as called now.

    Raises:
        PromptError, ConfigError, BudgetError: what shows without that.
    """
    called = time.perf_counter()
    config = settled(settings, config)
    budget, part = _limits(settings)
    chat, hand_on, options = settings.get("chat", True), settings.get("hand_on"), config.chat_template_kwargs
    # Backends of others that know no options go on working for those who give none.
    given = {"chat_template_kwargs": options} if options else {}
    try:
        check_prompt(prompt)
        put, warnings = _framed(prompt, settings.get("framing"), chat, backend)
    except BaseException:
        if part is not None:
            part.withdraw()
        raise

    def make() -> Checked:
        tokens = tuple(backend.encode(put, chat=chat, **given))
        return check(Request(tokens, config, budget, hand_on, warnings, part), backend, called)

    return Preparation(make, part)


def check(request: Request, backend: Backend, called: float | None = None) -> Checked:
    """Refuse a request that cannot be run, before work is spent on it, and prepare one that can.

    Where nothing is drawn (`SamplingParams.greedy`), all samples of a prompt are the same, and one is enough.

    Args:
        called: when it was asked for, by `time.perf_counter`: its seconds count from there. None is now.

    Raises:
        PromptError: no tokens, or no room in the context for a single generated one.
        ConfigError: an unknown strategy, or options that it does not take; thinking whose markers the model does not
            know, or for which the context has no room.
        HeadError: one that reads joints, thinking by them, or a confidence of the head, of a model that gives none.
        BudgetError: the prompt alone costs more than max_cost allows.
        BackendError: the backend never has room for it, or reports no confidences of tokens where they are read.
    """
    info = backend.info
    if not request.tokens:
        raise PromptError("the prompt has no tokens; expected text to answer")
    if len(request.tokens) >= info.max_context:
        raise PromptError(
            f"the prompt has {len(request.tokens)} tokens, and the context of {info.model} holds {info.max_context}, "
            f"the answer included. Shorten the prompt by {len(request.tokens) - info.max_context + 1} tokens or more."
        )
    config = request.config.seeded()
    thoughts = thought_rules(config, request.tokens, backend)
    least = 3 if thoughts is not None and thoughts.by == "joint" else 2
    if info.max_sequences is not None and info.max_sequences < least:
        raise BackendError(
            f"the backend holds {info.max_sequences} sequences at once; a search needs {least}, the prompt's and one "
            f"sample's{', and a copy of it whose thought is closed' if least > 2 else ''}. Open the model with a "
            f"larger max_sequences."
        )
    make = strategies.chosen(config, joints=backend.grid is not None)
    answers = backend.head.about.answers if backend.head else backend.answers
    if answers is not None and "answers" in make.Options.model_fields:
        config = config.replace(strategy_options={"answers": answers.model_dump(), **config.strategy_options})
    strategy, warnings = make(config), (*backend.warnings, *request.warnings)
    limit = request.budget.max_samples or math.inf
    most = strategy.samples_at_most()
    if backend.grid is None:
        _check_without_head(strategy, config, most > 1, request, info)
    confidences = _confidences_for(strategy, config, backend)
    if config.greedy and min(most, limit) > 1:
        cause = f"top_k is {config.top_k}" if config.top_k == 1 else f"the temperature is {config.temperature:g}"
        warnings = (*warnings, f"{cause}, so all samples are the same, and one was taken")
        strategy, most = make(config.replace(max_samples=1)), 1  # what it says of itself is then right, too
    at_once = int(min(strategy.samples_at_once(), most, limit))
    ledger = Ledger(request.budget, len(request.tokens), started=called, part=request.part, priced=strategy.priced)
    return Checked(replace(request, config=config), strategy, ledger, most, at_once, warnings, thoughts, confidences)


def _limits(settings: CallSettings) -> tuple[Budget, Share | None]:
    """The limits of one call, and its part in a shared budget."""
    given = settings.get("budget")
    total = total_of(given, settings.get("total_budget"))
    own = Budget() if isinstance(given, SharedBudget) else Budget.of(given)
    if total is None:
        return own, None
    part = total.open(own)
    return part.budget, part


def _framed(prompt: Prompt, framing: Framing | None, chat: bool, backend: Backend) -> tuple[Prompt, tuple[str, ...]]:
    """A prompt as it is put to the model, and a warning where its head learnt from others."""
    learnt = backend.head.about.framing if backend.head else NO_FRAMING
    put: Prompt = prompt
    if isinstance(prompt, str) and chat:
        put = (learnt if framing is None else framing).put(prompt)
    if learnt == NO_FRAMING or (not isinstance(put, str) and learnt.frames(put)):
        return put, ()
    return put, (
        "the question is not put as those that the head learnt from, so its confidence may mislead: see framing",
    )


def _confidences_for(strategy: Strategy, config: GenerationConfig, backend: Backend) -> bool:
    """Whether the confidences of tokens are read; refused where the backend reports none."""
    wanted = {
        f"strategy {strategy.name}": strategy.reads_confidences(backend.grid is not None),
        "confidence_source='tokens'": config.confidence_source == "tokens",
    }
    needing, info = ", ".join(name for name, needs in wanted.items() if needs), backend.info
    if needing and not info.confidences:
        raise BackendError(
            f"{needing} reads how sure a model is of its tokens, and the backend {info.backend} reports none of "
            f"{info.model}; open the model with transformers or llama-cpp, collect rollouts with --confidences, or "
            f"choose another strategy and confidence_source"
        )
    return bool(needing)


def _check_without_head(
    strategy: Strategy, config: GenerationConfig, many: bool, request: Request, info: BackendInfo
) -> None:
    """Refuse what reads joints, of a model that gives none."""
    selection, hand_on = config.selection if many else None, request.hand_on
    wanted = {
        f"strategy {strategy.name}": strategy.reads_joints(),
        "confidence_source='head'": config.confidence_source == "head",
        f"selection {selection}": selection in ("value", "weighted_majority"),
        "handing on at the prompt": hand_on is not None and hand_on.below is not None,
        "max_expected_share of the budget": request.budget.max_expected_share is not None,
    }
    if needing := ", ".join(name for name, needs in wanted.items() if needs):
        others = ", ".join(name for name in strategies.names() if not strategies.get(name).needs_joints)
        raise HeadError(
            f"{needing} reads what the head of a model expects, and {info.model} has none; {TO_GET_ONE}, or choose a "
            f"strategy that needs none: {others}"
        )
