"""TextIntrospective: a text model, string in and string out, that says how sure it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import BaseMessage, RemoveMessage, get_buffer_string
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import ChatPromptValue, ImagePromptValue, PromptValue
from langchain_core.runnables import RunnableConfig

from langchain_zip_introspect.concurrency import ConcurrentBatch, run_closed
from langchain_zip_introspect.contents import legible, plain
from langchain_zip_introspect.messages import metadata, usage
from langchain_zip_introspect.settings import CALL_KWARGS, Settled
from langchain_zip_introspect.shared_models import Wanted
from langchain_zip_introspect.streaming import Piece, aiterate, apieces, kept, pieces, scoped
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.result import GenerationResult


class TextIntrospective(ConcurrentBatch, BaseLLM):
    """A text model over an `IntrospectiveLLM`, for completion-style chains.

    A generation's `generation_info` holds what a chat message's `response_metadata` does, and `usage_metadata`.

    Raises:
        ZipIntrospectError: as `ChatIntrospective`.
    """

    chat: bool = False
    """Whether the text goes through the chat template, as one message of the user's. A completion does not; a model
    that was trained on its template, as the embedded one was, answers only so."""

    @property
    def _llm_type(self) -> str:
        return "zip-introspect"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self.identity

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It is: where the model came from is written, not the model."""
        return True

    call_kwargs: ClassVar[frozenset[str]] = CALL_KWARGS | {"chat"}

    def _called(self, wanted: Wanted, llm: IntrospectiveLLM, given: Mapping[str, Any]) -> Settled:
        return replace(super()._called(wanted, llm, given), chat=given.get("chat", self.chat))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of any part of a conversation, written down as this model is asked with it.

        What it would refuse to read counts nothing; tools are passed over, as by LangChain's own models.
        """
        written = [
            message.model_copy(update={"content": legible(message)})
            for message in messages
            if not isinstance(message, RemoveMessage)
        ]
        if self.custom_get_token_ids is not None or not written:
            return super().get_num_tokens_from_messages(written)
        call = self.call(None, {})
        return call.llm.count_tokens(get_buffer_string(written), config=call.config, chat=call.chat)

    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        """LangChain's own text of a conversation would pass over images and the like; here they are refused."""
        value = super()._convert_input(model_input)
        if not isinstance(value, (ChatPromptValue, ImagePromptValue)):
            return value
        return ChatPromptValue(messages=[plain(*item) for item in enumerate(value.to_messages())])

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """Complete a text in pieces. Closing or cancelling it stops the model at its next interval."""
        await self.acall(None, {})
        scope = scoped(config, self.callbacks, self.tags, self.metadata)
        chunks = super().astream(input, scope.config, stop=stop, **kwargs)
        async with aclosing(aiterate(scope, cast(AsyncGenerator[str, None], chunks))) as own:
            async for chunk in own:
                yield chunk

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Complete many texts together, beside the event loop."""
        await self.acall(None, {})  # open before LangChain asks for its traces' parameters
        return await super().agenerate(*args, **kwargs)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self.call(stop, kwargs)
        return _llm_result(call.llm.batch(prompts, **call.settings), call.model)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = await self.acall(stop, kwargs)
        async with run_closed(run_manager):
            return _llm_result(await call.llm.abatch(prompts, **call.settings), call.model)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        call = self.call(stop, kwargs)
        for piece in pieces(call, prompt, run_manager):
            chunk = _chunk(piece, call.model)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        return kept(self._achunks(prompt, stop, run_manager, **kwargs))

    async def _achunks(
        self, prompt: str, stop: list[str] | None, run_manager: AsyncCallbackManagerForLLMRun | None, **kwargs: Any
    ) -> AsyncGenerator[GenerationChunk, None]:
        call = await self.acall(stop, kwargs)
        async with aclosing(apieces(call, prompt, run_manager)) as found:
            async for piece in found:
                chunk = _chunk(piece, call.model)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return cast(LangSmithParams, self.trace_params(super()._get_ls_params(stop, **kwargs), stop, kwargs))


def _info(result: GenerationResult, model: str) -> dict[str, Any]:
    return {**metadata(result, model), "usage_metadata": usage(result)}


def _llm_result(results: list[GenerationResult], model: str) -> LLMResult:
    return LLMResult(
        generations=[[Generation(text=result.text, generation_info=_info(result, model))] for result in results]
    )


def _chunk(piece: Piece, model: str) -> GenerationChunk:
    if piece.result is not None:
        return GenerationChunk(text=piece.text, generation_info=_info(piece.result, model))
    return GenerationChunk(text=piece.text, generation_info={"introspection": {"running": [piece.running]}})
