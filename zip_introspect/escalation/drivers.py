"""Asking one model of a ladder: whatever kind it is, in this thread or beside the event loop, and not for longer than
it may take.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zip_introspect.errors import ConfigError, EscalationError
from zip_introspect.escalation.plan import Call, Climb
from zip_introspect.escalation.policy import Reply
from zip_introspect.prompts import Prompt

if TYPE_CHECKING:
    from concurrent.futures import Future


SIDE_BY_SIDE = 16
"""Calls of one model at once, in `abatch`."""


class Watch:
    """Holds what a model replied."""

    reply: Reply | None = None


@contextlib.contextmanager
def watching(climb: Climb, call: Call, final: Callable[[], bool] = lambda: False) -> Iterator[Watch]:
    """Tell a climb what came of a call, within: the reply that was put into the watch, or the error raised.

    Args:
        final: whether an error is everyone's by now: what was handed out cannot be taken back.
    """
    watch, begun = Watch(), time.perf_counter()
    outcome: Reply | Exception | None = None
    try:
        yield watch
        outcome = watch.reply
    except Exception as error:  # whatever a model of others raises, the ladder goes on
        if final():
            raise
        outcome = error
    if outcome is not None:
        take_in(climb, call, outcome, time.perf_counter() - begun)


def take_in(climb: Climb, call: Call, outcome: Reply | Exception, seconds: float) -> None:
    """Tell a climb what came of a call.

    Raises:
        ConfigError: the first model refused its settings: bad input, not a failure to pass over.
    """
    if isinstance(outcome, Reply):
        climb.replied(call, outcome, seconds)
    elif isinstance(outcome, ConfigError) and call.place == 0 and not call.reason:
        raise outcome
    else:
        climb.failed(call, outcome, seconds)


def limits(call: Call, settings: dict[str, Any]) -> dict[str, Any]:
    """What an `IntrospectiveLLM` is called with: the caller's settings if it is the first, and what is left."""
    own = settings if call.place == 0 else {name: settings[name] for name in ("chat",) if name in settings}
    return {**own, "budget": call.budget, "hand_on": call.hand_on}


def ask(call: Call, prompt: Prompt, settings: dict[str, Any]) -> Reply:
    """Ask a model.

    Raises:
        TimeoutError: it took longer than it may.
        Exception: whatever it raises.
    """
    model = call.rung.model
    if call.rung.introspective:
        return Reply.of(model.generate(prompt, **limits(call, settings)))
    work = getattr(model, "invoke", model)
    output = within(lambda: _finished(work(prompt)), call.timeout)
    return Reply.of(output, call.rung.extractor)


async def aask(call: Call, prompt: Prompt, settings: dict[str, Any]) -> Reply:
    """`ask` beside the event loop."""
    import asyncio  # see turns.in_thread

    model = call.rung.model
    if call.rung.introspective:
        return Reply.of(await model.agenerate(prompt, **limits(call, settings)))
    work = getattr(model, "ainvoke", None) or getattr(model, "invoke", model)
    async with asyncio.timeout(call.timeout):
        if inspect.iscoroutinefunction(work):
            output = await work(prompt)
        else:
            output = await asyncio.wrap_future(in_thread(lambda: _finished(work(prompt))))
    return Reply.of(output, call.rung.extractor)


Heard = tuple[Reply | Exception, float]
"""What came of a call, and the seconds it took."""


def ask_many(calls: Sequence[Call], prompts: Sequence[Prompt], settings: dict[str, Any]) -> list[Heard]:
    """Ask one model about many prompts: together where it can, and nobody is to be left behind for slowness.

    Raises:
        ConfigError: the first model refused its settings.
    """
    rung, begun = calls[0].rung, time.perf_counter()
    if rung.introspective:
        with _everyone(calls) as failures:
            outputs = rung.model.batch(prompts, **_limits_of_many(calls, settings))
        return failures or _heard(calls, outputs, begun)
    if hasattr(rung.model, "invoke") and hasattr(rung.model, "batch") and all(call.timeout is None for call in calls):
        with _everyone(calls) as failures:
            outputs = rung.model.batch(list(prompts), return_exceptions=True)
        return failures or _heard(calls, outputs, begun)
    return [_timed(call, prompt, settings) for call, prompt in zip(calls, prompts, strict=True)]


async def aask_many(calls: Sequence[Call], prompts: Sequence[Prompt], settings: dict[str, Any]) -> list[Heard]:
    """`ask_many` beside the event loop, up to `SIDE_BY_SIDE` calls at once where they are not asked together."""
    import asyncio

    rung, begun = calls[0].rung, time.perf_counter()
    if rung.introspective:
        with _everyone(calls) as failures:
            outputs = await rung.model.abatch(prompts, **_limits_of_many(calls, settings))
        return failures or _heard(calls, outputs, begun)
    if hasattr(rung.model, "abatch") and all(call.timeout is None for call in calls):
        with _everyone(calls) as failures:
            outputs = await rung.model.abatch(list(prompts), return_exceptions=True)
        return failures or _heard(calls, outputs, begun)
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(call: Call, prompt: Prompt) -> Heard:
        async with room:
            begun = time.perf_counter()
            try:
                outcome: Reply | Exception = await aask(call, prompt, settings)
            except Exception as error:  # noqa: BLE001 - whatever a model of others raises, the ladder goes on
                outcome = error
            return outcome, time.perf_counter() - begun

    return await asyncio.gather(*(one(call, prompt) for call, prompt in zip(calls, prompts, strict=True)))


def _timed(call: Call, prompt: Prompt, settings: dict[str, Any]) -> Heard:
    begun = time.perf_counter()
    try:
        outcome: Reply | Exception = ask(call, prompt, settings)
    except Exception as error:  # noqa: BLE001 - whatever a model of others raises, the ladder goes on
        outcome = error
    return outcome, time.perf_counter() - begun


def _limits_of_many(calls: Sequence[Call], settings: dict[str, Any]) -> dict[str, Any]:
    each = {"budget": [call.budget for call in calls], "hand_on": [call.hand_on for call in calls]}
    return {**limits(calls[0], settings), **each, "return_exceptions": True}


def _heard(calls: Sequence[Call], outputs: Sequence[Any], begun: float) -> list[Heard]:
    """What came of calls that were made together: each took as long as all."""
    seconds = time.perf_counter() - begun
    heard: list[Heard] = []
    for call, output in zip(calls, outputs, strict=True):
        try:
            heard.append((output if isinstance(output, Exception) else Reply.of(output, call.rung.extractor), seconds))
        except EscalationError as error:
            heard.append((error, seconds))
    return heard


@contextlib.contextmanager
def _everyone(calls: Sequence[Call]) -> Iterator[list[Heard]]:
    """Make an error of a whole batch that of each of its prompts."""
    failures: list[Heard] = []
    begun = time.perf_counter()
    try:
        yield failures
    except Exception as error:  # whatever a model of others raises, the ladder goes on
        if isinstance(error, ConfigError) and calls[0].place == 0:
            raise
        failures.extend((error, time.perf_counter() - begun) for _ in calls)


def _finished(output: Any) -> Any:
    """What an `async` function returns, where there is no loop to await it in."""
    if not inspect.isawaitable(output):
        return output
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_awaited(output))
    return in_thread(lambda: asyncio.run(_awaited(output))).result()  # as in notebooks: this thread's loop is running


async def _awaited(output: Any) -> Any:
    return await output


def within(work: Callable[[], Any], seconds: float | None) -> Any:
    """Do work in this thread, or where it must not take longer, in one that can be left behind."""
    if seconds is None:
        return work()
    return in_thread(work).result(timeout=seconds)


def in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Work in a thread that does not keep the program alive, as those of an executor do."""
    from concurrent import futures

    future: Future[Any] = futures.Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except StopIteration as error:  # a future cannot hold it
            future.set_exception(RuntimeError(f"it raised StopIteration: {error}"))
        except BaseException as error:  # noqa: BLE001 - it is the waiting thread's
            with contextlib.suppress(futures.InvalidStateError):
                future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
