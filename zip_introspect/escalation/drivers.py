"""Drivers of a plan: in this thread, or beside the event loop; for the outcome alone, or with what is told on the way.

They hold no policy. What they have in common is the plan: sent a reply or thrown an error, it says whom to ask next.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

from zip_introspect.errors import EscalationError
from zip_introspect.escalation.plan import Call, Flow, Outcome
from zip_introspect.escalation.reply import Reply
from zip_introspect.events import HandedOn
from zip_introspect.prompts import Prompt

Ask = Callable[[Call, Prompt, Any], Awaitable[Reply]]


def moved(flow: Flow, heard: Reply | Exception | None = None) -> Call | Outcome:
    """Where a plan goes, told what came of its last call: whom to ask next, or what is made of all.

    Raises:
        Exception: as `EscalationPlan.flow`.
    """
    try:
        if heard is None:
            return next(flow)
        return flow.throw(heard) if isinstance(heard, Exception) else flow.send(heard)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def drive(flow: Flow, prompt: Prompt, settings: Any) -> Outcome:
    """Ask until nobody is left to ask.

    Raises:
        Exception: as `EscalationPlan.flow`.
    """
    step = moved(flow)
    while isinstance(step, Call):
        try:
            heard: Reply | Exception = step.model.ask(step, prompt, settings)
        except Exception as error:  # noqa: BLE001 - it is the plan's
            heard = error
        step = moved(flow, heard)
    return step


async def adrive(flow: Flow, prompt: Prompt, settings: Any, ask: Ask | None = None) -> Outcome:
    """`drive`, awaited.

    Args:
        ask: in place of the adapter's `aask`.
    """
    step = moved(flow)
    while isinstance(step, Call):
        try:
            heard: Reply | Exception = await (step.model.aask if ask is None else ask)(step, prompt, settings)
        except Exception as error:  # noqa: BLE001 - it is the plan's
            heard = error
        step = moved(flow, heard)
    return step


def stream(flow: Flow, prompt: Prompt, settings: Any) -> Generator[Any, None, None]:
    """`drive`, with `HandedOn` and what each model tells on the way; the last item is the outcome."""
    step = moved(flow)
    while isinstance(step, Call):
        if step.reason:
            yield HandedOn(0, step.rung.name, step.reason)
        heard: Reply | Exception | None = None
        try:
            with contextlib.closing(step.model.stream(step, prompt, settings)) as items:
                for item in items:
                    if isinstance(item, Reply):
                        heard = item
                    else:
                        yield item
        except Exception as error:  # noqa: BLE001 - it is the plan's
            heard = error
        step = moved(flow, heard or _no_reply(step))
    yield step


async def astream(flow: Flow, prompt: Prompt, settings: Any) -> AsyncGenerator[Any, None]:
    """`stream`, awaited."""
    step = moved(flow)
    while isinstance(step, Call):
        if step.reason:
            yield HandedOn(0, step.rung.name, step.reason)
        heard: Reply | Exception | None = None
        try:
            async with contextlib.aclosing(step.model.astream(step, prompt, settings)) as items:
                async for item in items:
                    if isinstance(item, Reply):
                        heard = item
                    else:
                        yield item
        except Exception as error:  # noqa: BLE001 - it is the plan's
            heard = error
        step = moved(flow, heard or _no_reply(step))
    yield step


def _no_reply(call: Call) -> EscalationError:
    return EscalationError(f"{type(call.model).__name__} streamed no Reply; expected one as its last item")
