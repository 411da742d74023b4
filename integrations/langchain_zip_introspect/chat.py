"""ChatIntrospective: a chat model that says how sure it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, NoReturn, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_zip_introspect.concurrency import ConcurrentBatch, run_closed
from langchain_zip_introspect.contents import countable
from langchain_zip_introspect.escalating import EscalatingChat
from langchain_zip_introspect.messages import metadata, reasoning, to_message, to_prompt, usage
from langchain_zip_introspect.rungs import IntrospectiveModel
from langchain_zip_introspect.streaming import Piece, Scope, aiterate, apieces, inside, iterate, kept, pieces, scoped
from zip_introspect.errors import ConfigError
from zip_introspect.escalation.policy import EscalationPolicy
from zip_introspect.result import GenerationResult


class ChatIntrospective(ConcurrentBatch, BaseChatModel):
    """A chat model over an `IntrospectiveLLM`, opened by name or given with `llm=`.

    A message's `response_metadata["introspection"]` holds what the model knows of its answer (`Introspection`), and its
    `usage_metadata` counts every token of every sample. With one sample (`strategy="single"` or `max_samples=1`),
    `stream` yields text as it comes, each chunk with its running confidence; with several, progress arrives as custom
    events named "zip_introspect" (`astream_events`), and the answer in one chunk when it is chosen.

    Raises:
        ConfigError, BudgetError, ModelLoadError, BackendNotInstalledError: when it is made, as
            `IntrospectiveSettings` says; a call with bad settings raises the same.
        PromptError: when it is asked: no question, messages of other types than text, or too long.
    """

    @property
    def _llm_type(self) -> str:
        return "zip-introspect-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.identity

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It is: where the model came from is written, not the model."""
        return True

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of any part of a conversation, as `IntrospectiveLLM.count_tokens` counts them.

        What the model would refuse to read is counted too: tool calls as JSON, their results as they are. Of images and
        the like there is nothing to count. Tools are refused as by `bind_tools`.
        """
        if tools:
            self.bind_tools(tools)
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages)
        call = self.call(None, {})
        return call.llm.count_tokens(countable(messages), config=call.config)

    def with_escalation(
        self, *stronger: Any, policy: EscalationPolicy | None = None, **criteria: Any
    ) -> EscalatingChat:
        """A chat model that hands on what this one is not sure of: `chat.with_escalation(big, min_confidence=0.7)`.

        Args:
            stronger: Runnables, functions or `IntrospectiveLLM`s, weakest first; a `Rung` around one says more of it.
            policy: when to hand on; or its fields as `criteria`.

        Raises:
            ConfigError, CalibrationError: as `Ladder`; a policy and criteria together.
        """
        if policy is not None and criteria:
            raise ConfigError(f"policy and {', '.join(criteria)} were given; expected one or the other")
        return EscalatingChat(chat=self, stronger=list(stronger), policy=policy or EscalationPolicy(**criteria))

    def as_rung_model(self, runnable: Runnable[Any, Any], name: str, kwargs: dict[str, Any]) -> IntrospectiveModel:
        """How a ladder asks it; `runnable` is this, with `kwargs` bound to it."""
        return IntrospectiveModel(runnable, name, self.call(None, kwargs))

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> NoReturn:
        """Refuse tools.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "this model calls no tools. Give the tools to a stronger model, or call them in the chain around this one "
            "and write what they return into the user's message."
        )

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer a conversation."""
        scope = self._scope(config)
        with inside(scope):
            return super().invoke(input, scope.config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """`invoke` beside the event loop. Cancelling stops the model at its next interval."""
        scope = self._scope(config)
        with inside(scope):
            return await super().ainvoke(input, scope.config, stop=stop, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer a conversation in chunks. Closing it stops the model."""
        scope = self._scope(config)
        yield from iterate(scope, super().stream(input, scope.config, stop=stop, **kwargs))

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """`stream` beside the event loop. Closing or cancelling it stops the model at its next interval."""
        await self.acall(None, {})
        scope = self._scope(config)
        chunks = super().astream(input, scope.config, stop=stop, **kwargs)
        async with aclosing(aiterate(scope, cast(AsyncGenerator[AIMessageChunk, None], chunks))) as own:
            async for chunk in own:
                yield chunk

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Answer many conversations together, beside the event loop."""
        await self.acall(None, {})  # open before LangChain asks for its traces' parameters
        return await super().agenerate(*args, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self.call(stop, kwargs)
        return _chat_result(call.llm.generate(to_prompt(messages), **call.settings), call.model)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, prompt = await self.acall(stop, kwargs), to_prompt(messages)
        async with run_closed(run_manager):
            return _chat_result(await call.llm.agenerate(prompt, **call.settings), call.model)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self.call(stop, kwargs)
        for piece in pieces(call, to_prompt(messages), run_manager):
            yield _chunk(piece, call.model)

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        return kept(self._achunks(messages, stop, run_manager, **kwargs))

    async def _achunks(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        call, prompt = await self.acall(stop, kwargs), to_prompt(messages)
        async with aclosing(apieces(call, prompt, run_manager)) as found:
            async for piece in found:
                yield _chunk(piece, call.model)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return cast(LangSmithParams, self.trace_params(super()._get_ls_params(stop, **kwargs), stop, kwargs))

    def _scope(self, config: RunnableConfig | None) -> Scope:
        return scoped(config, self.callbacks, self.tags, self.metadata)


def _chat_result(result: GenerationResult, model: str) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=to_message(result, model))])


def _chunk(piece: Piece, model: str) -> ChatGenerationChunk:
    if piece.result is not None:
        message = AIMessageChunk(
            content=piece.text,
            additional_kwargs=reasoning(piece.thinking),
            response_metadata=metadata(piece.result, model),
            usage_metadata=usage(piece.result),
            chunk_position="last",
        )
    else:
        message = AIMessageChunk(
            content=piece.text,
            additional_kwargs=reasoning(piece.thinking),
            response_metadata={"introspection": {"running": [piece.running]}},
        )
    return ChatGenerationChunk(message=message)
