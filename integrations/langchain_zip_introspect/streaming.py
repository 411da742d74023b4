"""From a search's events to pieces of text that never change, and to LangChain's custom events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from langchain_zip_introspect.messages import Running, running
from langchain_zip_introspect.settings import Settled
from zip_introspect.events import Event, SampleAdvanced, SearchFailed, SearchFinished
from zip_introspect.prompts import Prompt
from zip_introspect.result import GenerationResult

EVENT_NAME = "zip_introspect"
"""Of the custom events that report progress; their data is an event of `zip_introspect.events` as a dict."""

T = TypeVar("T")


def settled(text: str, stops: tuple[str, ...]) -> int:
    """How much of a growing text will not change: all but half a character, and what may begin a stop string."""
    length = len(text.rstrip("\ufffd"))
    return min((_before_half(text[:length], stop) for stop in stops), default=length)


@dataclass(slots=True)
class Piece:
    """A piece of an answer's text; the last one brings the result."""

    text: str
    running: Running | None = None
    result: GenerationResult | None = None
    thinking: str = ""
    """A piece of what was thought before the answer."""


class Pieces:
    """Turns events into pieces: as the text comes where there is one sample, else all of it when it is chosen."""

    def __init__(self, call: Settled) -> None:
        self._stops = call.config.stop
        self._live = call.one_sample
        self._sent = self._thought = 0
        """Characters of the text, and of the thought before it, that were given."""

    def read(self, event: Event) -> Piece | None:
        """The piece that an event brings, if it does."""
        if isinstance(event, SearchFinished):
            thought = event.result.thought.text if event.result.thought else ""
            return Piece(event.result.text[self._sent :], result=event.result, thinking=thought[self._thought :])
        if not self._live or not isinstance(event, SampleAdvanced):
            return None
        end = max(self._sent, settled(event.text, self._stops))
        text, self._sent = event.text[self._sent : end], end
        thinking = (event.thinking or "")[self._thought :]
        self._thought += len(thinking)
        return Piece(text, running(event.tokens, event.outlook) if event.outlook else None, thinking=thinking)


@dataclass(slots=True)
class Scope:
    """A call of a chat model, seen from within: LangChain does not tell `_stream` which run it belongs to."""

    config: RunnableConfig
    callbacks: Callbacks
    tags: list[str] | None
    metadata: dict[str, Any] | None
    chunks: AsyncGenerator[Any, None] | None = None


_scope: ContextVar[Scope | None] = ContextVar("langchain_zip_introspect_scope", default=None)


def scoped(
    config: RunnableConfig | None, callbacks: Callbacks, tags: list[str] | None, metadata: dict[str, Any] | None
) -> Scope:
    """The scope of a call; its run gets an id beforehand, so that its events can name it."""
    config = ensure_config(config)
    if config.get("run_id") is None:
        config["run_id"] = uuid7()
    return Scope(config, callbacks, tags, metadata)


@contextmanager
def inside(scope: Scope) -> Iterator[None]:
    """Let `_stream` and `_astream` know their scope."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def iterate(scope: Scope, chunks: Iterator[T]) -> Iterator[T]:
    """Chunks made in a scope that the consumer of this does not see."""
    while True:
        with inside(scope):
            try:
                chunk = next(chunks)
            except StopIteration:
                return
        yield chunk


async def aiterate(scope: Scope, chunks: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """`iterate`; whoever leaves it early leaves nothing running."""
    try:
        async with aclosing(chunks):
            while True:
                with inside(scope):
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
                yield chunk
    finally:
        if scope.chunks is not None:
            await scope.chunks.aclose()


def kept(chunks: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """What `_astream` makes: its scope closes it, where LangChain would leave that to the garbage collector."""
    if (scope := _scope.get()) is not None:
        scope.chunks = chunks
    return chunks


def pieces(call: Settled, prompt: Prompt, run: CallbackManagerForLLMRun | None) -> Iterator[Piece]:
    """Stream a prompt and report progress to the run's callbacks."""
    reader = Pieces(call)
    events = call.llm.stream(prompt, **call.stream_settings)
    manager, run_id = _listeners(run, CallbackManager)
    try:
        for event in events:
            if (piece := reader.read(event)) is not None:
                yield piece
            elif manager is not None and (data := _report(call, event)) is not None:
                manager.on_custom_event(EVENT_NAME, data, run_id=run_id)
    finally:
        events.close()


async def apieces(
    call: Settled, prompt: Prompt, run: AsyncCallbackManagerForLLMRun | None
) -> AsyncGenerator[Piece, None]:
    """`pieces`, with the work beside the event loop."""
    reader = Pieces(call)
    events = cast(AsyncGenerator[Event, None], call.llm.astream(prompt, **call.stream_settings))
    manager, run_id = _listeners(run, AsyncCallbackManager)
    async with aclosing(events):
        async for event in events:
            if (piece := reader.read(event)) is not None:
                yield piece
            elif manager is not None and (data := _report(call, event)) is not None:
                await manager.on_custom_event(EVENT_NAME, data, run_id=run_id)


M = TypeVar("M", CallbackManager, AsyncCallbackManager)


def _listeners(
    run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None, kind: type[M]
) -> tuple[M | None, Any]:
    """Who hears of progress, and the run it belongs to."""
    if run is not None:
        return kind(handlers=run.handlers, tags=run.tags, metadata=run.metadata), run.run_id
    if (scope := _scope.get()) is None:
        return None, None
    config = scope.config
    manager = kind.configure(
        config.get("callbacks"),
        scope.callbacks,
        inheritable_tags=config.get("tags"),
        local_tags=scope.tags,
        inheritable_metadata=config.get("metadata"),
        local_metadata=scope.metadata,
    )
    return manager, config.get("run_id")


def _report(call: Settled, event: Event) -> dict[str, Any] | None:
    """An event's data; None for those that the chunks of the answer tell already."""
    if call.one_sample or isinstance(event, (SearchFinished, SearchFailed)):
        return None
    return event.to_dict()


def _before_half(text: str, stop: str) -> int:
    """Where the longest end of the text begins that is a beginning of the stop string."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return len(text) - length
    return len(text)
