"""EscalatingChat: a chat model that answers what it is sure of, and stronger Runnables for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableLambda, RunnableSerializable
from langchain_core.runnables.base import coerce_to_runnable
from langchain_core.runnables.config import patch_config
from pydantic import ConfigDict, PrivateAttr

from langchain_zip_introspect.concurrency import at_once, in_loop
from langchain_zip_introspect.messages import to_prompt
from langchain_zip_introspect.settings import Settled
from langchain_zip_introspect.streaming import EVENT_NAME
from langchain_zip_introspect.way import Way
from zip_introspect.errors import PromptError
from zip_introspect.escalation.drivers import in_thread, watching, within
from zip_introspect.escalation.ladder import Ladder
from zip_introspect.escalation.plan import Call
from zip_introspect.escalation.policy import EscalationPolicy, Rung
from zip_introspect.events import HandedOn
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.prompts import Prompt

if TYPE_CHECKING:
    from langchain_zip_introspect.chat import ChatIntrospective


class EscalatingChat(RunnableSerializable[LanguageModelInput, AIMessage]):
    """A ladder of Runnables, as `ChatIntrospective.with_escalation` makes it. In and out it is a chat model.

    Every model that is asked is a run of its own below this one's, with its own callbacks and traces. The message's
    `response_metadata["introspection"]["escalation"]` says who was asked and why, and `usage_metadata` counts the
    tokens of all of them. The chat model's budget is that of the whole ladder.

    `batch` asks the chat model about all inputs together, and stronger ones beside each other. `stream` yields a
    stronger model's chunks as they come; an answer that has yet to prove its confidence comes in one piece, after it
    has. Where the question is handed on, a custom event "zip_introspect" of kind "handed_on" says so.

    Raises:
        ConfigError, CalibrationError: when it is made, as `Ladder`.
        PromptError, ConfigError, BudgetError: when it is asked: bad input, before any model runs.
        EscalationError: no model answered, or with `otherwise="raise"`, none was sure enough; `partial` is the message
            with the best answer.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    chat: Any
    """The `ChatIntrospective` that is asked first."""
    stronger: list[Any]
    """Runnables, functions, `IntrospectiveLLM`s, or a `Rung` around one of these; weakest first."""
    policy: EscalationPolicy

    _ladder: Ladder = PrivateAttr()
    _runnables: list[Runnable[Any, Any]] = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self._build()

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__({**state, "__pydantic_private__": {}})
        self._build()

    def _build(self) -> None:
        rungs = [given if isinstance(given, Rung) else Rung(given) for given in (self.chat, *self.stronger)]
        self._runnables = [_runnable(rung.model, type(self.chat)) for rung in rungs]
        first, *stronger = (_known(*pair, type(self.chat)) for pair in zip(rungs, self._runnables, strict=True))
        self._ladder = Ladder(first, *stronger, policy=self.policy)

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Answer a conversation. Keyword arguments are the chat model's."""
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """`invoke` beside the event loop. Cancelling it stops the model that is being asked."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Answer a conversation in chunks."""
        chunks = self._transform_stream_with_config(iter([input]), self._stream, config, **kwargs)
        yield from cast(Iterator[AIMessageChunk], chunks)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """`stream` beside the event loop."""

        async def inputs() -> AsyncIterator[LanguageModelInput]:
            yield input

        chunks = self._atransform_stream_with_config(inputs(), self._astream, config, **kwargs)
        async with aclosing(cast(Any, chunks)) as found:
            async for chunk in found:
                yield chunk

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """`abatch`, with stronger models asked in threads rather than on an event loop that soon is closed."""
        self.chat.call(None, kwargs)

        async def ask(given: LanguageModelInput, own: RunnableConfig) -> AIMessage:
            return await self._acall_with_config(partial(self._ainvoke, threads=True), given, own, **kwargs)

        return in_loop(lambda: at_once(ask, inputs, config, return_exceptions))

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer many inputs beside each other, at most the config's `max_concurrency` at once if it gives one.

        Args:
            return_exceptions: put the error of an input in its place instead of raising the first one.
        """
        await self.chat.acall(None, kwargs)
        return await at_once(lambda *item: self.ainvoke(*item, **kwargs), inputs, config, return_exceptions)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """As the chat model counts; so `trim_messages` can be given this as its counter."""
        return int(self.chat.get_num_tokens_from_messages(messages, tools))

    def get_num_tokens(self, text: str) -> int:
        """As the chat model counts."""
        return int(self.chat.get_num_tokens(text))

    def _invoke(
        self, given: LanguageModelInput, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> AIMessage:
        way = self._way(given, self.chat.call(None, kwargs))
        while call := way.climb.next():
            self._ask(way, call, given, _announced(call, run_manager, config), kwargs)
        return way.message()

    async def _ainvoke(
        self,
        given: LanguageModelInput,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        threads: bool = False,
        **kwargs: Any,
    ) -> AIMessage:
        way = self._way(given, await self.chat.acall(None, kwargs))
        while call := way.climb.next():
            await self._aask(way, call, given, await _aannounced(call, run_manager, config), kwargs, threads)
        return way.message()

    def _stream(
        self,
        inputs: Iterator[LanguageModelInput],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[AIMessage]:
        given = next(inputs)
        way = self._way(given, self.chat.call(None, kwargs))
        while call := way.climb.next():
            child = _announced(call, run_manager, config)
            if not self._streams(call):
                self._ask(way, call, given, child, kwargs)
                continue
            with watching(way.climb, call, final=lambda: way.streamed) as watch:
                way.chunks = []
                for chunk in self._runnables[call.place].stream(given, child):
                    if (piece := way.piece(chunk)) is not None:
                        yield piece
                watch.reply = way.heard_stream(call)
        yield way.last()

    async def _astream(
        self,
        inputs: AsyncIterator[LanguageModelInput],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessage]:
        given = await anext(inputs)
        way = self._way(given, await self.chat.acall(None, kwargs))
        while call := way.climb.next():
            child = await _aannounced(call, run_manager, config)
            if not self._streams(call):
                await self._aask(way, call, given, child, kwargs)
                continue
            with watching(way.climb, call, final=lambda: way.streamed) as watch:
                way.chunks = []
                async with aclosing(cast(Any, self._runnables[call.place].astream(given, child))) as chunks:
                    async for chunk in chunks:
                        if (piece := way.piece(chunk)) is not None:
                            yield piece
                watch.reply = way.heard_stream(call)
        yield way.last()

    def _ask(
        self, way: Way, call: Call, given: LanguageModelInput, config: RunnableConfig, kwargs: dict[str, Any]
    ) -> None:
        runnable = self._runnables[call.place]
        with watching(way.climb, call) as watch:
            output = within(lambda: runnable.invoke(given, config, **self._limits(call, kwargs)), _patience(call))
            watch.reply = way.heard(call, output)

    async def _aask(
        self,
        way: Way,
        call: Call,
        given: LanguageModelInput,
        config: RunnableConfig,
        kwargs: dict[str, Any],
        threads: bool = False,
    ) -> None:
        runnable = self._runnables[call.place]
        limits = self._limits(call, kwargs)
        with watching(way.climb, call) as watch:
            if not call.rung.introspective and (threads or (call.timeout is not None and not _native(runnable))):
                async with asyncio.timeout(call.timeout):
                    output = await asyncio.wrap_future(in_thread(lambda: runnable.invoke(given, config)))
            else:
                async with asyncio.timeout(_patience(call)):
                    output = await runnable.ainvoke(given, config, **limits)
            watch.reply = way.heard(call, output)

    def _streams(self, call: Call) -> bool:
        """Whether chunks may be handed out: the model need not prove its confidence, nor be left for its slowness."""
        judged = call.rung.introspective or isinstance(self._runnables[call.place], EscalatingChat)
        return not judged and call.timeout is None

    def _limits(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a model is called with, beside the input: ours hold the budget themselves, and their own too."""
        if not call.rung.introspective:
            return {}
        budget = call.budget
        if call.place:
            budget = budget.within(_settled(self._runnables[call.place]).budget)
        return {**(kwargs if call.place == 0 else {}), "budget": budget, "hand_on": call.hand_on}

    def _way(self, given: LanguageModelInput, settled: Settled) -> Way:
        return Way(self._ladder.climb(_prompt(self.chat, given), settled.budget))


def _runnable(model: Any, chat: type[ChatIntrospective]) -> Runnable[Any, Any]:
    if isinstance(model, IntrospectiveLLM):
        return chat(llm=model)
    return cast(Runnable[Any, Any], coerce_to_runnable(model))


def _known(rung: Rung, runnable: Runnable[Any, Any], chat: type[ChatIntrospective]) -> Rung:
    """A rung as a ladder knows it: of a chat model of ours, bound or not, the model within."""
    own = isinstance(runnable.bound if isinstance(runnable, RunnableBinding) else runnable, chat)
    return replace(rung, model=_settled(runnable).llm if own else runnable)


def _settled(runnable: Any) -> Settled:
    """How a chat model of ours would be asked, with what is bound to it."""
    if isinstance(runnable, RunnableBinding):
        return cast(Settled, cast(Any, runnable.bound).call(None, runnable.kwargs))
    return cast(Settled, runnable.call(None, {}))


def _native(runnable: Runnable[Any, Any]) -> bool:
    """Whether it is `async` by itself, and so can be left at once."""
    if isinstance(runnable, RunnableLambda):
        return hasattr(runnable, "afunc")
    return type(runnable).ainvoke is not Runnable.ainvoke


def _prompt(chat: ChatIntrospective, given: LanguageModelInput) -> Prompt:
    """What reward functions see: our messages, or as text what the first model cannot read but others may."""
    if isinstance(given, str):
        return given
    value = chat._convert_input(given)
    try:
        return to_prompt(value.to_messages())
    except PromptError:
        return value.to_string()


def _child(call: Call, callbacks: Any, config: RunnableConfig) -> RunnableConfig:
    """The config to ask a model with. LangGraph does not show as the answer what is still to be judged."""
    child = patch_config(config, callbacks=callbacks)
    if call.rung.introspective:
        child["tags"] = [*child.get("tags", []), "nostream"]
    return child


def _announced(call: Call, run_manager: CallbackManagerForChainRun, config: RunnableConfig) -> RunnableConfig:
    """Say who is asked, if it is not the first; the config to ask it with."""
    child = _child(call, run_manager.get_child(f"rung:{call.place}"), config)
    if call.reason:
        dispatch_custom_event(EVENT_NAME, HandedOn(0, call.rung.name, call.reason).to_dict(), config=child)
    return child


async def _aannounced(
    call: Call, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
) -> RunnableConfig:
    child = _child(call, run_manager.get_child(f"rung:{call.place}"), config)
    if call.reason:
        await adispatch_custom_event(EVENT_NAME, HandedOn(0, call.rung.name, call.reason).to_dict(), config=child)
    return child


def _patience(call: Call) -> float | None:
    return None if call.rung.introspective else call.timeout
