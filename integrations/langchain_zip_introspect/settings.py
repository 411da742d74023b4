"""What the chat model, the text model and the runnable share: the model they ask, and with which settings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from langchain_core.utils import from_env
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StrictInt

from langchain_zip_introspect.shared_models import Key, Wanted, aopen_shared, open_shared
from zip_introspect import HandOn
from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig, Thinking
from zip_introspect.errors import BudgetError, ConfigError
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.model_source import ModelSource
from zip_introspect.shared_budget import SharedBudget, total_of

PROVIDER = "zip-introspect"
"""As traces and metadata name it."""

OVERRIDES = {
    **{name: name for name in GenerationConfig.model_fields if name != "max_new_tokens"},
    "max_tokens": "max_new_tokens",
}
"""LangChain's name of a setting, and ours."""

LOCATION = ("model", "backend", "backend_options")
IGNORED = frozenset({"api_key", "max_retries"})
"""Standard parameters of hosted models: a local one has no key, and does not fail for a moment."""

CALL_KWARGS = frozenset(
    {*OVERRIDES, *LOCATION, "budget", "total_budget", "hand_on", "timeout", "stream_interval", "stream", *IGNORED}
)


@dataclass(frozen=True, slots=True)
class Settled:
    """One call, settled: whom to ask and how."""

    llm: IntrospectiveLLM
    model: str
    budget: Budget
    config: GenerationConfig
    stream_interval: int
    hand_on: HandOn | None = None
    chat: bool = True
    """Whether the prompt goes through the chat template."""
    total: SharedBudget | None = None
    """A budget that other calls draw on too."""

    @property
    def one_sample(self) -> bool:
        """Whether the text can be streamed as it comes: there is nothing to choose from."""
        return self.config.strategy == "single" or 1 in (self.config.max_samples, self.budget.max_samples)

    @property
    def settings(self) -> dict[str, Any]:
        """For `IntrospectiveLLM.generate` and its kin."""
        return {
            "budget": self.budget,
            "total_budget": self.total,
            "hand_on": self.hand_on,
            "config": self.config,
            "chat": self.chat,
        }

    @property
    def stream_settings(self) -> dict[str, Any]:
        """For `IntrospectiveLLM.stream`: one sample advances in steps of `stream_interval`."""
        config = self.config.replace(interval=self.stream_interval) if self.one_sample else self.config
        return {**self.settings, "config": config}


class IntrospectiveSettings(BaseModel):
    """The model, and the settings of calls that give none; None is the model's own.

    Every setting can also be given to a single call, `chat.invoke(..., alpha=0.5)`, and bound or configured. It takes
    the place of this object's; the options of a backend add to them. What a call does not give stays as it is.

    A model that is named is opened at once, or within a running event loop by the first call, beside the loop.

    Raises:
        ConfigError: an unknown argument, a setting out of its range, no model, or two.
        BudgetError: a budget that is zero, negative, or contradictory.
        ModelLoadError, BackendNotInstalledError: the model cannot be opened.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str = Field(default_factory=from_env("ZIP_INTROSPECT_MODEL", default=""))
    """Directory, file or hub id; "demo" is the embedded model. The environment variable ZIP_INTROSPECT_MODEL gives
    the default. Models opened by name are shared within the process, and opened once."""
    backend: str | None = None
    """An installed backend's name; None finds one that accepts the model."""
    backend_options: dict[str, Any] = Field(default_factory=dict)
    """For the backend, such as `device` and `dtype`."""
    llm: IntrospectiveLLM | None = Field(default=None, exclude=True, repr=False)
    """An open model, instead of `model`. It is not serialised: where it came from is, and its settings are."""

    strategy: str | None = None
    strategy_options: dict[str, Any] | None = None
    max_samples: int | None = None
    max_tokens: int | None = None
    """Tokens of one sample, end of sequence included: `max_new_tokens` of `GenerationConfig`."""
    alpha: float | None = None
    beta: float | None = None
    interval: int | None = None
    smoothing: int | None = None
    horizon: Literal["shared", "per_prefix", "none"] | None = None
    search: Literal["nested", "exact"] | None = None
    count_prompt: bool | None = None
    selection: Literal["value", "majority", "weighted_majority"] | None = None
    confidence_source: Literal["head", "agreement", "tokens"] | None = None
    confidence_window: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    """Fixes the answers. None is the seed that an `llm` was expressly given in its settings, or else a fresh one for
    each prompt; `introspection["seed"]` of the answer tells it. A call's None is always a fresh one."""
    stop: list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template, such as `{"enable_thinking": False}`."""
    thinking: Thinking | None = None
    """Budgets of a model that thinks before it answers; a dict of `Thinking`'s fields is taken too."""
    budget: Budget | SharedBudget | StrictInt | None = None
    """Hard limits for each prompt, or a number of generated tokens; a dict of `Budget`'s fields is taken too. A
    `SharedBudget` is for all calls together, of an agent's run for instance; it is not serialised."""
    timeout: float | None = None
    """Seconds for each prompt, where the budget given beside it sets no `max_seconds`. When they are over, the best
    answer so far is returned."""
    streaming: bool | None = None
    """As for other LangChain models: whether `invoke` streams too, for callbacks. None streams where one listens."""
    stream_interval: int = Field(default=1, ge=1)
    """Tokens in a chunk, where a single sample is streamed; it takes the place of `interval` there."""

    call_kwargs: ClassVar[frozenset[str]] = CALL_KWARGS
    """What a call takes beside its input."""

    _models: dict[Key, IntrospectiveLLM] = PrivateAttr(default_factory=dict)

    def __init__(self, **data: Any) -> None:
        data = {name: value for name, value in data.items() if name not in IGNORED}
        _refuse_unknown(data, type(self).model_fields)
        if isinstance(data.get("budget"), dict):
            data["budget"] = Budget(**data["budget"])
        if isinstance(data.get("thinking"), dict):
            data["thinking"] = Thinking(**data["thinking"])
        super().__init__(**data)
        self._take_llm("model" in data)
        if self.llm is None and _in_loop():
            self._settle(GenerationConfig(), {})
        else:
            self.call(None, {})

    def call(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> Settled:
        """Settle a call from its own keyword arguments and, for what they leave open, from this object's fields.

        Raises:
            ConfigError: an unknown keyword argument, or a setting out of its range.
            ZipIntrospectError: a `model` was asked for that cannot be opened.
        """
        given = self._given(stop, kwargs)
        wanted = self._wanted(given)
        return self._called(wanted, self._held(wanted) or open_shared(wanted), given)

    async def acall(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> Settled:
        """`call`; where a model has to be opened for it, that is done beside the event loop."""
        given = self._given(stop, kwargs)
        wanted = self._wanted(given)
        return self._called(wanted, self._held(wanted) or await aopen_shared(wanted), given)

    def get_token_ids(self, text: str) -> list[int]:
        """The text in the model's own tokens, without the chat template."""
        custom = getattr(self, "custom_get_token_ids", None)  # a field of LangChain's language models
        return list(custom(text)) if custom else self.call(None, {}).llm.token_ids(text)

    def to_json(self) -> Any:
        """What LangChain's `dumps` writes: settings of ours as dicts, and those of an `llm` that was given."""
        data: Any = super().to_json()  # type: ignore[misc]  # of Serializable, which every user of this also is
        kwargs = data["kwargs"]
        if isinstance(self.budget, Budget):
            kwargs["budget"] = self.budget.model_dump(exclude_defaults=True)
        elif isinstance(self.budget, SharedBudget):
            del kwargs["budget"]  # what is left of it is this process's
        if self.thinking is not None:
            kwargs["thinking"] = self.thinking.model_dump(mode="json", exclude_defaults=True)
        if self.llm is not None:
            config = self.llm.config
            theirs = config.model_dump(mode="json", exclude_none=True, exclude={"seed"} - config.model_fields_set)
            kwargs.update(
                {name: theirs[own] for name, own in OVERRIDES.items() if own in theirs and name not in kwargs}
            )
        return data

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**(state["__pydantic_private__"] or {}), "_models": {}}}

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide what is answered, as plain data."""
        return {name: value for name, value in self.to_json()["kwargs"].items() if name in _IDENTIFYING}

    def trace_params(self, params: Any, stop: list[str] | None, kwargs: Mapping[str, Any]) -> Any:
        """LangSmith's parameters, with what LangChain cannot know: the provider, and the model's own defaults."""
        llm = self._held(self._wanted({}))
        if llm is None and not _in_loop():
            llm = self.call(None, {}).llm
        config = GenerationConfig() if llm is None else llm.config
        own = {"ls_provider": PROVIDER, "ls_temperature": config.temperature, "ls_max_tokens": config.max_new_tokens}
        stops = stop if stop is not None else self.stop if self.stop is not None else list(config.stop)
        return {**own, **params, "ls_provider": PROVIDER, **({"ls_stop": stops} if stops else {})}

    def _take_llm(self, named: bool) -> None:
        """Where an open model was given, say in the other fields which one it is."""
        if self.llm is None:
            if not self.model:
                raise ConfigError(
                    "no model was given; pass model=, a directory, file or hub id ('demo' is the embedded model), or "
                    "an open one with llm=, or set the environment variable ZIP_INTROSPECT_MODEL"
                )
            return
        origin = self.llm.origin or ModelSource(self.llm.info.model)
        if named and self.model != origin.model:
            raise ConfigError(
                f"llm is {origin.model!r} and model is {self.model!r}; give one of the two. To have the model "
                f"configurable, build this from model= rather than llm=."
            )
        self.model = origin.model
        self.backend = origin.backend if isinstance(origin.backend, str) else self.llm.info.backend
        self.backend_options = dict(origin.options)

    def _given(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        _refuse_unknown(kwargs, self.call_kwargs)
        given = {name: value for name, value in kwargs.items() if value is not None or name == "seed"}
        return given if stop is None else {**given, "stop": stop}

    def _wanted(self, given: Mapping[str, Any]) -> Wanted:
        """The model of a call. What the call leaves open is as this object has it, as far as it can hold there.

        A backend's options add to this object's, unless the call names another backend; a grid is one model's own.
        """
        own = (self.llm and self.llm.origin) or ModelSource(self.model, self.backend, self.backend_options)
        model, backend = given.get("model", own.model), given.get("backend", self.backend)
        options = dict(own.options)
        if backend == self.backend:
            backend = own.backend  # the class where it is known, which need not be installed
        elif self.backend is not None:
            options = {name: value for name, value in options.items() if name == "grid"}
        if model != own.model:
            options.pop("grid", None)
            if self.llm is not None:  # how that one was opened says nothing of another
                backend, options = given.get("backend"), {}
        origin = ModelSource(model, backend, {**options, **given.get("backend_options", {})})
        return Wanted(origin, self.llm if model == own.model else None)

    def _held(self, wanted: Wanted) -> IntrospectiveLLM | None:
        """The model, where this object holds it open."""
        if self.llm is not None and wanted.key == self._wanted({}).key:
            return self.llm
        llm = self._models.get(wanted.key)
        return None if llm is None or llm.closed else llm

    def _called(self, wanted: Wanted, llm: IntrospectiveLLM, given: Mapping[str, Any]) -> Settled:
        if llm is not self.llm:
            self._models[wanted.key] = llm  # open as long as this object
        config, budget, interval = self._settle(llm.config, given)
        common = given.get("total_budget")
        if not isinstance(common, SharedBudget | None):
            raise BudgetError(
                f"total_budget is {common!r}, and this call may be one of many, each of which would have such a total "
                f"of its own; give SharedBudget(...), or ask by batch or abatch"
            )
        total = total_of(given.get("budget", self.budget), common)
        return Settled(llm, wanted.origin.model, budget, config, interval, given.get("hand_on"), total=total)

    def _settle(self, base: GenerationConfig, given: Mapping[str, Any]) -> tuple[GenerationConfig, Budget, int]:
        """The settings, the limits and the tokens in a chunk, over a model's own settings."""
        own = {name: value for name in OVERRIDES if (value := getattr(self, name)) is not None}
        if "seed" not in base.model_fields_set:  # who asks again, in LangChain, wants another answer
            own = {"seed": None, **own}
        overrides = {OVERRIDES[name]: value for name, value in {**own, **given}.items() if name in OVERRIDES}
        config = base.replace(**overrides)
        interval = given.get("stream_interval", self.stream_interval)
        config.replace(interval=interval)  # refused here, not at the first chunk
        budget = given.get("budget", self.budget)
        limits = Budget()
        if not isinstance(budget, SharedBudget):
            limits = Budget.of(Budget(**budget) if isinstance(budget, dict) else budget)
        # A call's own goes before this object's, and a budget's seconds before the timeout beside it.
        if "timeout" in given and not ("budget" in given and limits.max_seconds is not None):
            limits = limits.replace(max_seconds=given["timeout"])
        elif limits.max_seconds is None and self.timeout is not None:
            limits = limits.replace(max_seconds=self.timeout)
        return config, limits, interval


_IDENTIFYING = frozenset({*OVERRIDES, *LOCATION, "budget", "timeout", "chat"})


def _refuse_unknown(given: Mapping[str, Any], known: Any) -> None:
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    names = ", ".join(unknown)
    if any(word in name for name in unknown for word in ("tool", "function", "response_format")):
        raise ConfigError(
            f"{names}: this model calls no tools and follows no schema. Leave it out, or parse the text of the answer."
        )
    raise ConfigError(f"{names}: unknown; expected {', '.join(sorted(name for name in known if name[0] != '_'))}.")


def _in_loop() -> bool:
    """Whether this thread runs an event loop, which must not wait for a model to load."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
