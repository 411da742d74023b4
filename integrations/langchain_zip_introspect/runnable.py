"""IntrospectiveRunnable: a prompt in, the full typed result out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, RunnableSerializable

from langchain_zip_introspect.concurrency import ConcurrentBatch
from langchain_zip_introspect.messages import prompt_of
from langchain_zip_introspect.settings import IntrospectiveSettings
from langchain_zip_introspect.streaming import EVENT_NAME
from zip_introspect.events import SearchFailed, SearchFinished
from zip_introspect.result import GenerationResult

PromptInput = str | PromptValue | Sequence[BaseMessage]


class IntrospectiveRunnable(
    ConcurrentBatch, IntrospectiveSettings, RunnableSerializable[PromptInput, GenerationResult]
):
    """An `IntrospectiveLLM` as a Runnable: a string, prompt value or messages in, a `GenerationResult` out.

    Where callbacks listen, progress is dispatched to them as custom events named "zip_introspect".

    Raises:
        ZipIntrospectError: as `ChatIntrospective`.
    """

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It is: where the model came from is written, not the model."""
        return True

    def invoke(self, input: PromptInput, config: RunnableConfig | None = None, **kwargs: Any) -> GenerationResult:
        """Answer a prompt."""
        return self._call_with_config(self._answer, input, config, **kwargs)

    async def ainvoke(
        self, input: PromptInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> GenerationResult:
        """`invoke` beside the event loop. Cancelling stops the model at its next interval."""
        return await self._acall_with_config(self._aanswer, input, config, **kwargs)

    def _answer(
        self, value: PromptInput, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> GenerationResult:
        call, prompt = self.call(None, kwargs), prompt_of(value)
        if not run_manager.handlers:
            return call.llm.generate(prompt, **call.settings)
        for event in call.llm.stream(prompt, **call.settings):
            if isinstance(event, SearchFinished):
                return event.result
            if not isinstance(event, SearchFailed):
                dispatch_custom_event(EVENT_NAME, event.to_dict(), config=config)
        raise AssertionError("a search ends with its result or an error")

    async def _aanswer(
        self, value: PromptInput, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> GenerationResult:
        call, prompt = await self.acall(None, kwargs), prompt_of(value)
        if not run_manager.handlers:
            return await call.llm.agenerate(prompt, **call.settings)
        result: GenerationResult | None = None
        async for event in call.llm.astream(prompt, **call.settings):
            if isinstance(event, SearchFinished):
                result = event.result
            elif not isinstance(event, SearchFailed):
                await adispatch_custom_event(EVENT_NAME, event.to_dict(), config=config)
        assert result is not None, "a search ends with its result or an error"
        return result
