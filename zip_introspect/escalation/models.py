"""How a ladder asks a model: one adapter a kind, all of the same shape.

A kind of your own: a subclass of `Model`, and `adapted.register` for the type of object that it stands for. The
LangChain integration has its own for Runnables.
"""

from __future__ import annotations

import contextlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from functools import singledispatch
from typing import TYPE_CHECKING, Any, Protocol, cast

from zip_introspect.errors import ConfigError, HeadError
from zip_introspect.escalation.bounds import Bounds, HeldByItself, HeldByRung
from zip_introspect.escalation.policy import EscalationPolicy
from zip_introspect.escalation.reply import Reply
from zip_introspect.events import SearchFinished
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import lowest_reward
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.prompts import Prompt
from zip_introspect.result import GenerationResult
from zip_introspect.threads import finished, in_thread, within

if TYPE_CHECKING:
    from zip_introspect.escalation.plan import Call

SIDE_BY_SIDE = 16
"""Calls at once in a batch, of a model that is made for that."""
_OF_EVERY_MODEL = ("chat",)
"""Settings of a call that hold for whichever model is asked; the others are the first one's alone."""


class HandedOut(Exception):  # noqa: N818 - it wraps an error, and is none of its own
    """An error after a part of the answer was handed out: no other model can answer any more."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Model(ABC):
    """A model as a ladder asks it.

    Whatever it raises, the ladder goes on with the next one; only what a `HandedOut` holds ends it.
    """

    name: str
    bounds: Bounds = HeldByRung()
    expects: bool = False
    """Whether it knows how sure it is before the first token, and can hand on there."""
    knows_confidence: bool = False
    """Whether its answers always come with one, so that it may be asked first."""
    lowest_reward: float = 0.0
    """The confidence that is reported where nobody answered."""
    at_once: int | None = 1
    """Calls of it at once in a batch in sync code; None for one that shares its passes between any number."""

    def threshold(self, policy: EscalationPolicy) -> float | None:
        """The confidence from which its answers are taken; None takes all.

        Raises:
            CalibrationError: the policy wants a level of error, and the model has no calibration for it.
        """
        return policy.min_confidence

    @abstractmethod
    def ask(self, call: Call, prompt: Prompt, settings: Any) -> Reply:
        """Ask it, within the limits of a call.

        Args:
            settings: whatever the front door passes to all models: of a `Ladder`, keyword arguments of `generate`.

        Raises:
            TimeoutError: it took longer than it may.
            Exception: whatever the model raises.
        """

    @abstractmethod
    async def aask(self, call: Call, prompt: Prompt, settings: Any) -> Reply:
        """`ask`, awaited."""

    def stream(self, call: Call, prompt: Prompt, settings: Any) -> Generator[Any, None, None]:
        """`ask`, with what is told on the way; the last item is the reply."""
        yield self.ask(call, prompt, settings)

    async def astream(self, call: Call, prompt: Prompt, settings: Any) -> AsyncGenerator[Any, None]:
        """`stream`, awaited."""
        yield await self.aask(call, prompt, settings)


def check_first(model: Model, policy: EscalationPolicy) -> None:
    """Refuse a policy that the first model of a ladder cannot follow.

    Raises:
        HeadError: it decides at the prompt, where the model expects nothing.
    """
    if policy.min_prompt_confidence is not None and not model.expects:
        raise HeadError(
            f"min_prompt_confidence={policy.min_prompt_confidence:g} needs what a head expects at the prompt, and "
            f"{model.name} has none to ask; give min_confidence, which its answers are held against"
        )


class Introspective(Protocol):
    """What `IntrospectiveLLM` and `Ladder` have in common."""

    calibration: Calibration | None

    @property
    def generate(self) -> Callable[..., GenerationResult]: ...
    @property
    def agenerate(self) -> Callable[..., Any]: ...
    @property
    def stream(self) -> Callable[..., Any]: ...
    @property
    def astream(self) -> Callable[..., Any]: ...


class LocalModel(Model):
    """An `IntrospectiveLLM`: it holds a budget by itself, and weighs handing on at every decision.

    Args:
        expects: whether it knows how sure it is at the prompt.
    """

    bounds: Bounds = HeldByItself()
    knows_confidence = True
    at_once = None

    def __init__(self, model: Introspective, name: str, lowest_reward: float, *, expects: bool = True) -> None:
        self.model, self.name, self.lowest_reward, self.expects = model, name, lowest_reward, expects

    def threshold(self, policy: EscalationPolicy) -> float | None:
        return policy.threshold(self.model.calibration)

    def ask(self, call: Call, prompt: Prompt, settings: Any) -> Reply:
        return Reply.of(self.model.generate(prompt, **self.limits(call, settings)))

    async def aask(self, call: Call, prompt: Prompt, settings: Any) -> Reply:
        return Reply.of(await self.model.agenerate(prompt, **self.limits(call, settings)))

    def stream(self, call: Call, prompt: Prompt, settings: Any) -> Generator[Any, None, None]:
        with contextlib.closing(self.model.stream(prompt, **self.limits(call, settings))) as events:
            for event in events:
                yield Reply.of(event.result) if isinstance(event, SearchFinished) else event

    async def astream(self, call: Call, prompt: Prompt, settings: Any) -> AsyncGenerator[Any, None]:
        async with contextlib.aclosing(self.model.astream(prompt, **self.limits(call, settings))) as events:
            async for event in events:
                yield Reply.of(event.result) if isinstance(event, SearchFinished) else event

    def limits(self, call: Call, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What it is called with: the caller's settings if it is the first, and what is left of the budget."""
        own = settings if call.place == 0 else {name: settings[name] for name in _OF_EVERY_MODEL if name in settings}
        return {**own, "budget": call.budget, "hand_on": call.hand_on}


class Function(Model):
    """A function of the prompt, `async` or not: no confidence unless it says one, and no budget.

    Args:
        work: asked where nothing awaits it.
        awork: asked beside an event loop; where it is not `async`, it is called in a thread of its own.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Prompt], Any],
        awork: Callable[[Prompt], Any] | None = None,
        at_once: int = 1,
    ) -> None:
        self.name, self.work, self.awork, self.at_once = name, work, awork or work, at_once

    def ask(self, call: Call, prompt: Prompt, settings: Any) -> Reply:
        output = within(lambda: finished(self.work(prompt)), call.timeout)
        return Reply.of(output, call.rung.extractor)

    async def aask(self, call: Call, prompt: Prompt, settings: Any) -> Reply:
        import asyncio  # see IntrospectiveLLM.agenerate

        async with asyncio.timeout(call.timeout):
            if inspect.iscoroutinefunction(self.awork):
                output = await self.awork(prompt)
            else:
                output = await asyncio.wrap_future(in_thread(lambda: finished(self.awork(prompt))))
        return Reply.of(output, call.rung.extractor)


@singledispatch
def adapted(model: Any) -> Model:
    """The adapter of a model.

    Raises:
        ConfigError: nothing that can be asked.
    """
    if hasattr(model, "invoke"):
        return Function(name_of(model), model.invoke, getattr(model, "ainvoke", None), at_once=SIDE_BY_SIDE)
    if callable(model):
        return Function(name_of(model), model)
    raise ConfigError(
        f"a rung's model is {model!r}; expected an IntrospectiveLLM, a Ladder, a Runnable (anything with invoke) or a "
        f"function of the prompt"
    )


@adapted.register
def _(model: Model) -> Model:
    return model


@adapted.register
def _(model: IntrospectiveLLM) -> Model:
    return LocalModel(
        cast(Introspective, model), name_of(model), lowest_reward(model.backend.grid), expects=model.has_head
    )


def name_of(model: Any) -> str:
    """What a model calls itself, or its type."""
    info = getattr(model, "info", None)
    for candidate in (getattr(info, "model", None), getattr(model, "name", None), getattr(model, "model", None)):
        if isinstance(candidate, str) and candidate:
            return candidate
    name = getattr(model, "__name__", None)
    return name if isinstance(name, str) and name != "<lambda>" else type(model).__name__
