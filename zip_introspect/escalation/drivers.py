"""Drivers of a plan: in this thread, or beside the event loop; for the outcome alone, or with what is told on the way.

They hold no policy. What they have in common is the plan: sent a reply or thrown an error, it says whom to ask next.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

from zip_introspect.escalation.plan import Call, Flow, Outcome
from zip_introspect.escalation.reply import Reply
from zip_introspect.events import HandedOn
from zip_introspect.prompts import Prompt

Ask = Callable[[Call, Prompt, Any], Awaitable[Reply]]


def drive(flow: Flow, prompt: Prompt, settings: Any) -> Outcome:
    """Ask until nobody is left to ask.

    Raises:
        Exception: as `EscalationPlan.flow`.
    """
    try:
        call = next(flow)
        while True:
            try:
                reply = call.model.ask(call, prompt, settings)
            except Exception as error:  # noqa: BLE001 - it is the plan's
                call = flow.throw(error)
            else:
                call = flow.send(reply)
    except StopIteration as end:
        return _outcome(end)


async def adrive(flow: Flow, prompt: Prompt, settings: Any, ask: Ask | None = None) -> Outcome:
    """`drive`, awaited.

    Args:
        ask: in place of the adapter's `aask`.
    """
    try:
        call = next(flow)
        while True:
            try:
                reply = await (call.model.aask if ask is None else ask)(call, prompt, settings)
            except Exception as error:  # noqa: BLE001 - it is the plan's
                call = flow.throw(error)
            else:
                call = flow.send(reply)
    except StopIteration as end:
        return _outcome(end)


def stream(flow: Flow, prompt: Prompt, settings: Any) -> Generator[Any, None, None]:
    """`drive`, with `HandedOn` and what each model tells on the way; the last item is the outcome."""
    try:
        call = next(flow)
        while True:
            if call.reason:
                yield HandedOn(0, call.rung.name, call.reason)
            reply: Reply | None = None
            try:
                with contextlib.closing(call.model.stream(call, prompt, settings)) as items:
                    for item in items:
                        if isinstance(item, Reply):
                            reply = item
                        else:
                            yield item
                assert reply is not None, f"the last item of {type(call.model).__name__}.stream is its reply"
            except Exception as error:  # noqa: BLE001 - it is the plan's
                call = flow.throw(error)
            else:
                call = flow.send(reply)
    except StopIteration as end:
        yield _outcome(end)


async def astream(flow: Flow, prompt: Prompt, settings: Any) -> AsyncGenerator[Any, None]:
    """`stream`, awaited."""
    try:
        call = next(flow)
        while True:
            if call.reason:
                yield HandedOn(0, call.rung.name, call.reason)
            reply: Reply | None = None
            try:
                async with contextlib.aclosing(call.model.astream(call, prompt, settings)) as items:
                    async for item in items:
                        if isinstance(item, Reply):
                            reply = item
                        else:
                            yield item
                assert reply is not None, f"the last item of {type(call.model).__name__}.astream is its reply"
            except Exception as error:  # noqa: BLE001 - it is the plan's
                call = flow.throw(error)
            else:
                call = flow.send(reply)
    except StopIteration as end:
        yield _outcome(end)


def _outcome(end: StopIteration) -> Outcome:
    outcome: Outcome = end.value
    return outcome
