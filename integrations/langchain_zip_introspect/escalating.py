"""EscalatingChat: a chat model that answers what it is sure of, and stronger Runnables for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, PrivateAttr

from langchain_zip_introspect.concurrency import at_once
from langchain_zip_introspect.messages import to_message, to_prompt, usage_of
from langchain_zip_introspect.rungs import Conversation, NestedChat, as_chunk, rung_of
from langchain_zip_introspect.settings import Settled
from zip_introspect.errors import EscalationError, PromptError
from zip_introspect.escalation import drivers
from zip_introspect.escalation.ladder import Ladder, check_not_shared
from zip_introspect.escalation.plan import Flow, Outcome
from zip_introspect.escalation.policy import EscalationPolicy
from zip_introspect.escalation.reply import Reply
from zip_introspect.prompts import Prompt
from zip_introspect.threads import in_loop

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

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self._build()

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__({**state, "__pydantic_private__": {}})
        self._build()

    def _build(self) -> None:
        first, *stronger = (rung_of(given, type(self.chat)) for given in (self.chat, *self.stronger))
        self._ladder = Ladder(first, *stronger, policy=self.policy)

    def as_rung_model(self, runnable: Runnable[Any, Any], name: str, kwargs: dict[str, Any]) -> NestedChat:
        """How another ladder asks it; `runnable` is this, with `kwargs` bound to it."""
        return NestedChat(runnable, name, self.chat.call(None, kwargs), self._ladder.rungs)

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
        prompt, flow = self._asked(given, self.chat.call(None, kwargs))
        return _message(drivers.drive(flow, prompt, Conversation(given, run_manager, config, kwargs)))

    async def _ainvoke(
        self,
        given: LanguageModelInput,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        threads: bool = False,
        **kwargs: Any,
    ) -> AIMessage:
        prompt, flow = self._asked(given, await self.chat.acall(None, kwargs))
        return _message(await drivers.adrive(flow, prompt, Conversation(given, run_manager, config, kwargs, threads)))

    def _stream(
        self,
        inputs: Iterator[LanguageModelInput],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[AIMessage]:
        given, reader = next(inputs), _Reader()
        prompt, flow = self._asked(given, self.chat.call(None, kwargs))
        with closing(drivers.stream(flow, prompt, Conversation(given, run_manager, config, kwargs))) as items:
            for item in items:
                if (chunk := reader.read(item)) is not None:
                    yield chunk

    async def _astream(
        self,
        inputs: AsyncIterator[LanguageModelInput],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessage]:
        given, reader = await anext(inputs), _Reader()
        prompt, flow = self._asked(given, await self.chat.acall(None, kwargs))
        async with aclosing(drivers.astream(flow, prompt, Conversation(given, run_manager, config, kwargs))) as items:
            async for item in items:
                if (chunk := reader.read(item)) is not None:
                    yield chunk

    def _asked(self, given: LanguageModelInput, settled: Settled) -> tuple[Prompt, Flow]:
        prompt = _prompt(self.chat, given)
        check_not_shared(settled.total)
        return prompt, self._ladder.plan(prompt, settled.budget).flow()


def _prompt(chat: ChatIntrospective, given: LanguageModelInput) -> Prompt:
    """What reward functions see: our messages, or as text what the first model cannot read but others may."""
    if isinstance(given, str):
        return given
    value = chat._convert_input(given)
    try:
        return to_prompt(value.to_messages())
    except PromptError:
        return value.to_string()


class _Reader:
    """Turns what a ladder tells into chunks: a model's own, and the last one."""

    def __init__(self) -> None:
        self._handed_out = False

    def read(self, item: Any) -> AIMessageChunk | None:
        """The chunk that an item brings, if it does.

        Raises:
            EscalationError: as `EscalatingChat`.
        """
        if isinstance(item, AIMessageChunk):
            self._handed_out = self._handed_out or bool(item.text or item.tool_call_chunks)
            return item
        return self._last(_message(item)) if isinstance(item, Outcome) else None

    def _last(self, message: AIMessage) -> AIMessageChunk:
        """All of the answer, or where that was streamed, what there is to say of it."""
        if not self._handed_out:
            return as_chunk(message).model_copy(update={"chunk_position": "last"})
        return AIMessageChunk(
            content="",
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )


_OF_THE_FIRST = ("expected_confidence", "expected_remaining_tokens", "strategy", "selection", "seed")


def _message(outcome: Outcome) -> AIMessage:
    """The final message.

    Raises:
        EscalationError: as `EscalatingChat`.
    """
    chosen = AIMessage("") if outcome.reply is None else _said(outcome, outcome.reply)
    about = {**chosen.response_metadata, "introspection": _introspection(outcome, chosen)}
    about["finish_reason"] = about["introspection"]["finish_reason"]
    spent = usage_of(outcome.usage)
    message = chosen.model_copy(update={"response_metadata": about, "usage_metadata": spent})
    if outcome.raises:
        raise EscalationError(outcome.trouble or "", message if outcome.reply is not None else None)
    return message


def _said(outcome: Outcome, reply: Reply) -> AIMessage:
    """A reply as the message that it was; of a model that broke, what it had."""
    if isinstance(reply.message, AIMessage):
        return reply.message
    who = outcome.escalation.target if outcome.escalation else None
    return AIMessage(reply.text) if reply.result is None else to_message(reply.result, who or "")


def _introspection(outcome: Outcome, chosen: AIMessage) -> dict[str, Any]:
    own = dict(chosen.response_metadata.get("introspection") or {})
    first = {} if outcome.first is None else _said(outcome, outcome.first).response_metadata.get("introspection", {})
    finish = own.get("finish_reason", "stop")
    if outcome.reply is None:
        finish = "error" if outcome.raises else "abstained"
    elif outcome.out_of_budget:
        finish = "budget"
    troubles = [] if outcome.trouble is None else [outcome.trouble]
    return {
        **{name: first[name] for name in _OF_THE_FIRST if name in first},
        **own,
        "answer": None if outcome.reply is None else outcome.reply.answer,
        "confidence": outcome.confidence,
        "finish_reason": finish,
        "depth": outcome.usage.depth,
        "seconds": outcome.usage.seconds,
        "cost": outcome.usage.cost,
        "warnings": [*own.get("warnings", []), *troubles],
        "escalation": None if outcome.escalation is None else outcome.escalation.to_dict(),
    }
