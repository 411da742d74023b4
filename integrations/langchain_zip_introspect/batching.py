"""Batches that share forward passes: every input is a run of LangChain's own, and their prompts meet in one batch.

Each input is invoked as ever: its callbacks, the cache and the rate limiter are LangChain's affair. Only where it would
ask the model does it take a seat in a `Meeting` instead, which asks for all at once when no other input can come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list

from langchain_zip_introspect.settings import Call, IntrospectiveSettings
from zip_introspect.errors import BackendError
from zip_introspect.prompts import Prompt
from zip_introspect.result import GenerationResult

T = TypeVar("T")


class Meeting:
    """Where the prompts of a batch wait for one another."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._asked: list[tuple[Prompt, Call, asyncio.Future[GenerationResult]]] = []
        self._work: asyncio.Task[Any] | None = None
        self.cancelled = False

    async def ask(self, prompt: Prompt, call: Call) -> GenerationResult:
        """The result of a prompt, once all are here."""
        if self.cancelled:
            raise BackendError("the batch was cancelled")
        future: asyncio.Future[GenerationResult] = asyncio.get_running_loop().create_future()
        self._asked.append((prompt, call, future))
        self._begin()
        return await future

    def leave(self) -> None:
        """One input fewer: it was in the cache, or failed."""
        self._expected -= 1
        self._begin()

    def cancel(self) -> None:
        """Stop the work at its next interval; whoever waits gets an error, so that its run is closed."""
        self.cancelled = True
        if self._work is not None and not self._work.done():
            self._work.cancel()
        else:
            self._fail(BackendError("the batch was cancelled"))

    def _begin(self) -> None:
        if self._asked and len(self._asked) == self._expected and self._work is None and not self.cancelled:
            prompts, calls, _ = zip(*self._asked, strict=True)
            # The same settings for all, but for what is left to each of them.
            each = {"budget": [call.budget for call in calls], "hand_on": [call.hand_on for call in calls]}
            settings = {**calls[0].settings, **each}
            self._work = asyncio.ensure_future(calls[0].llm.abatch(prompts, return_exceptions=True, **settings))
            self._work.add_done_callback(self._hand_out)

    def _hand_out(self, work: asyncio.Task[Any]) -> None:
        if work.cancelled():
            self._fail(BackendError("the batch was cancelled"))
        elif (error := work.exception()) is not None:
            self._fail(error)
        else:
            for (*_, future), outcome in zip(self._asked, work.result(), strict=True):
                if future.done():
                    continue
                if isinstance(outcome, GenerationResult):
                    future.set_result(outcome)
                else:
                    future.set_exception(outcome)

    def _fail(self, error: BaseException) -> None:
        for *_, future in self._asked:
            if not future.done():
                future.set_exception(error)


class Seat:
    """One input's place in a meeting."""

    def __init__(self, meeting: Meeting, owner: object) -> None:
        self._meeting, self.owner, self.taken, self.waiting = meeting, owner, False, False

    @property
    def cancelled(self) -> bool:
        """Whether the meeting was called off."""
        return self._meeting.cancelled

    async def ask(self, prompt: Prompt, call: Call) -> GenerationResult:
        """As `Meeting.ask`."""
        self.taken = self.waiting = True
        try:
            return await self._meeting.ask(prompt, call)
        finally:
            self.waiting = False

    def leave(self) -> None:
        """Give the seat up, where it was not taken."""
        if not self.taken:
            self.taken = True
            self._meeting.leave()


_seat: ContextVar[Seat | None] = ContextVar("langchain_zip_introspect_seat", default=None)


def batch_cancelled() -> bool:
    """Whether this is done for a batch that nobody waits for any more."""
    seat = _seat.get()
    return seat is not None and seat.cancelled


def seat_of(owner: object) -> Seat | None:
    """The seat that is kept for this call of `owner`, or None outside of batches."""
    seat = _seat.get()
    return seat if seat is not None and seat.owner is owner and not seat.taken else None


class SharedBatch(IntrospectiveSettings):
    """`batch` and `abatch` whose prompts share forward passes."""

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer many inputs together; `abatch` tells how."""
        return in_loop(lambda: self.abatch(inputs, config, return_exceptions=return_exceptions, **kwargs))

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer many inputs together, in steps of the config's `max_concurrency` if it gives one.

        Args:
            config: for all inputs, or one for each.
            return_exceptions: put the error of an input in its place; without it the first one is raised, once the
                others of its step are done.
            kwargs: settings, for all inputs.

        Raises:
            ConfigError: bad settings, before anything runs.
            ZipIntrospectError: as `IntrospectiveLLM.generate`.
        """
        await self.acall(None, kwargs)
        ask = cast(Runnable[Any, Any], self).ainvoke
        return await in_steps(self, lambda *item: ask(*item, **kwargs), inputs, config, return_exceptions)


Ask = Callable[[Any, RunnableConfig], Coroutine[Any, Any, Any]]


async def in_steps(
    owner: object,
    ask: Ask,
    inputs: list[Any],
    config: RunnableConfig | list[RunnableConfig] | None,
    return_exceptions: bool,
) -> list[Any]:
    """Ask about many inputs; within each step of `max_concurrency`, those that reach `owner` do so together."""
    if not inputs:
        return []
    configs = get_config_list(config, len(inputs))
    step = configs[0].get("max_concurrency") or len(inputs)
    outputs: list[Any] = []
    for first in range(0, len(inputs), step):
        some = slice(first, first + step)
        outputs += await _together(owner, ask, inputs[some], configs[some])
        error = next((output for output in outputs if isinstance(output, BaseException)), None)
        if error is not None and not return_exceptions:
            raise error
    return outputs


async def _together(owner: object, ask: Ask, inputs: list[Any], configs: list[RunnableConfig]) -> list[Any]:
    """The output or the error of each input."""
    meeting = Meeting(len(inputs))
    seats = [Seat(meeting, owner) for _ in inputs]

    async def one(seat: Seat, given: Any, config: RunnableConfig) -> Any:
        _seat.set(seat)  # in this task's own context
        try:
            return await ask(given, config)
        finally:
            seat.leave()

    tasks = [asyncio.ensure_future(one(*item)) for item in zip(seats, inputs, configs, strict=True)]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        meeting.cancel()
        for seat, task in zip(seats, tasks, strict=True):
            if not seat.waiting:
                task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen: the cancellation is what the caller hears of
        raise
    return [task.exception() or task.result() for task in tasks]


def in_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a loop in a thread of its own, so that it may be done within a running loop too."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def main() -> T:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(copy_context().run, asyncio.run, main())
        try:
            return done.result()
        except BaseException:  # Ctrl-C: the work ends at its next interval, and then the thread
            loop, task = begun.result()
            if task is not None and not done.done():
                with suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)
            raise
