"""Rungs of a chat model's ladder: Runnables, asked with LangChain's messages, each in a run below the ladder's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableLambda
from langchain_core.runnables.base import coerce_to_runnable
from langchain_core.runnables.config import patch_config

from langchain_zip_introspect.settings import Settled
from langchain_zip_introspect.streaming import EVENT_NAME
from zip_introspect.errors import ConfigError, EscalationError
from zip_introspect.escalation.bounds import Bounds, HeldByItself, HeldByItsRungs
from zip_introspect.escalation.models import SIDE_BY_SIDE, HandedOut, Model
from zip_introspect.escalation.plan import Call
from zip_introspect.escalation.policy import EscalationPolicy
from zip_introspect.escalation.reply import Reply
from zip_introspect.escalation.rung import Rung
from zip_introspect.events import HandedOn
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.prompts import Prompt
from zip_introspect.result import GenerationResult
from zip_introspect.threads import in_thread, within

if TYPE_CHECKING:
    from langchain_zip_introspect.chat import ChatIntrospective


@dataclass(frozen=True, slots=True)
class Conversation:
    """What every model of a ladder is asked, and within which run."""

    given: LanguageModelInput
    run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun
    config: RunnableConfig
    kwargs: dict[str, Any]
    """The caller's settings, for the first model."""
    threads: bool = False
    """Whether Runnables are asked in threads, since the event loop is soon closed."""


class RunnableModel(Model):
    """A Runnable that knows nothing of budgets; its chunks are handed out as they come."""

    at_once: int | None = SIDE_BY_SIDE

    def __init__(self, runnable: Runnable[Any, Any], name: str) -> None:
        self.runnable, self.name = runnable, name

    def ask(self, call: Call, prompt: Prompt, settings: Conversation) -> Reply:
        config, limits = self._announced(call, settings), self.limits(call, settings)
        output = within(lambda: self.runnable.invoke(settings.given, config, **limits), self.patience(call))
        return _reply(call, output)

    async def aask(self, call: Call, prompt: Prompt, settings: Conversation) -> Reply:
        config, limits, patience = await self._aannounced(call, settings), self.limits(call, settings), self.patience
        async with asyncio.timeout(patience(call)):
            if self.in_thread(call, settings):
                work = in_thread(lambda: self.runnable.invoke(settings.given, config, **limits))
                output = await asyncio.wrap_future(work)
            else:
                output = await self.runnable.ainvoke(settings.given, config, **limits)
        return _reply(call, output)

    def stream(self, call: Call, prompt: Prompt, settings: Conversation) -> Generator[Any, None, None]:
        if self.is_judged(call):
            yield self.ask(call, prompt, settings)
            return
        heard = _Heard()
        chunks = self.runnable.stream(settings.given, self._announced(call, settings))
        with heard.guard():
            try:
                for chunk in chunks:
                    yield from heard.pieces(chunk)
            finally:
                getattr(chunks, "close", lambda: None)()
            reply = heard.reply(call)
        yield reply

    async def astream(self, call: Call, prompt: Prompt, settings: Conversation) -> AsyncGenerator[Any, None]:
        if self.is_judged(call):
            yield await self.aask(call, prompt, settings)
            return
        heard = _Heard()
        config = await self._aannounced(call, settings)
        with heard.guard():
            async with aclosing(cast(Any, self.runnable.astream(settings.given, config))) as chunks:
                async for chunk in chunks:
                    for piece in heard.pieces(chunk):
                        yield piece
            reply = heard.reply(call)
        yield reply

    def limits(self, call: Call, settings: Conversation) -> dict[str, Any]:
        """What it is called with beside the conversation."""
        return {}

    def patience(self, call: Call) -> float | None:
        """Seconds after which it is left behind."""
        return call.timeout

    def in_thread(self, call: Call, settings: Conversation) -> bool:
        """Whether it is asked in a thread: one that is not `async` by itself could not be left behind in a loop."""
        return settings.threads or (call.timeout is not None and not _native(self.runnable))

    def is_judged(self, call: Call) -> bool:
        """Whether nothing may be handed out yet: it has to prove its confidence, or may be left for its slowness."""
        return call.timeout is not None

    def child(self, call: Call, settings: Conversation) -> RunnableConfig:
        """The config to ask it with."""
        return patch_config(settings.config, callbacks=settings.run.get_child(f"rung:{call.place}"))

    def _announced(self, call: Call, settings: Conversation) -> RunnableConfig:
        """Say who is asked, if it is not the first; the config to ask it with."""
        config = self.child(call, settings)
        if call.reason:
            dispatch_custom_event(EVENT_NAME, HandedOn(0, call.rung.name, call.reason).to_dict(), config=config)
        return config

    async def _aannounced(self, call: Call, settings: Conversation) -> RunnableConfig:
        config = self.child(call, settings)
        if call.reason:
            await adispatch_custom_event(EVENT_NAME, HandedOn(0, call.rung.name, call.reason).to_dict(), config=config)
        return config


class _Judged(RunnableModel):
    """A chat model of ours: it keeps to a budget by itself, and its answer has to prove its confidence."""

    bounds: Bounds = HeldByItself()
    knows_confidence = True
    at_once = None

    def __init__(self, runnable: Runnable[Any, Any], name: str, settled: Settled) -> None:
        super().__init__(runnable, name)
        self.llm, self._own, self._total = settled.llm, settled.budget, settled.total

    def limits(self, call: Call, settings: Conversation) -> dict[str, Any]:
        if call.place == 0:  # its budget is the ladder's
            return {**settings.kwargs, "budget": call.budget}
        return {"budget": call.budget.within(self._own), "total_budget": self._total}

    def patience(self, call: Call) -> float | None:
        return None

    def in_thread(self, call: Call, settings: Conversation) -> bool:
        return False

    def is_judged(self, call: Call) -> bool:
        return True


class IntrospectiveModel(_Judged):
    """A `ChatIntrospective`, bound or not."""

    @property
    def expects(self) -> bool:  # type: ignore[override]  # of the model that is open
        return self.llm.has_head

    def threshold(self, policy: EscalationPolicy) -> float | None:
        return policy.threshold(self.llm.calibration)

    def limits(self, call: Call, settings: Conversation) -> dict[str, Any]:
        return {**super().limits(call, settings), "hand_on": call.hand_on}

    def child(self, call: Call, settings: Conversation) -> RunnableConfig:
        config = super().child(call, settings)
        config["tags"] = [*config.get("tags", []), "nostream"]  # LangGraph does not show what is still to be judged
        return config


class NestedChat(_Judged):
    """An `EscalatingChat` within another one, bound or not."""

    def __init__(self, runnable: Runnable[Any, Any], name: str, settled: Settled, rungs: tuple[Rung, ...]) -> None:
        super().__init__(runnable, name, settled)
        self.bounds = HeldByItsRungs(rungs)

    def threshold(self, policy: EscalationPolicy) -> float | None:
        return policy.threshold(None)


def rung_of(given: Any, chat: type[ChatIntrospective]) -> Rung:
    """A rung from what `with_escalation` takes, asked with messages.

    Raises:
        ConfigError: nothing that can be asked.
    """
    rung = given if isinstance(given, Rung) else Rung(given)
    if isinstance(rung.model, IntrospectiveLLM):
        runnable: Runnable[Any, Any] = chat(llm=rung.model)
    else:
        try:
            runnable = coerce_to_runnable(rung.model)
        except TypeError as error:
            raise ConfigError(
                f"a rung's model is {rung.model!r}; expected an IntrospectiveLLM, a Runnable or a function of the "
                f"messages"
            ) from error
    bound: Any = runnable
    kwargs: dict[str, Any] = {}
    while isinstance(bound, RunnableBinding):
        bound, kwargs = bound.bound, {**bound.kwargs, **kwargs}
    adapter = getattr(bound, "as_rung_model", None)
    model = RunnableModel(runnable, rung.name) if adapter is None else adapter(runnable, rung.name, kwargs)
    return replace(rung, model=model)


class _Heard:
    """The chunks of a model that is streamed, and whether any of its text or tool calls has been handed out."""

    def __init__(self) -> None:
        self._chunks: list[AIMessageChunk] = []
        self._blank: list[AIMessageChunk] = []
        """Pieces without a word so far: a model that says nothing else may still be passed over."""
        self._whole: Reply | GenerationResult | None = None
        self._handed_out = False

    def pieces(self, chunk: Any) -> Generator[AIMessageChunk, None, None]:
        """Keep a chunk; the piece of it to hand out, unless its confidence is still to be judged."""
        if isinstance(chunk, Reply | GenerationResult) and not self._chunks:
            self._whole = chunk
            return
        piece = as_chunk(chunk)
        self._chunks.append(piece)
        if "introspection" in piece.response_metadata and not self._handed_out:
            return
        # The last chunk of all tells these, for the whole ladder.
        self._blank.append(
            piece.model_copy(update={"chunk_position": None, "response_metadata": {}, "usage_metadata": None})
        )
        if self._handed_out or piece.text.strip() or piece.tool_call_chunks:
            self._handed_out = True
            yield from self._blank
            self._blank.clear()

    @contextlib.contextmanager
    def guard(self) -> Generator[None, None, None]:
        """Let an error within be everyone's, once something has been handed out: it cannot be taken back."""
        try:
            yield
        except Exception as error:
            if self._handed_out:
                raise HandedOut(error) from error
            raise

    def reply(self, call: Call) -> Reply:
        """What all chunks say; what has been handed out is not judged any more."""
        if self._whole is not None and not self._chunks:
            return _reply(call, self._whole)
        if not self._chunks:
            raise EscalationError("it returned nothing")
        whole = self._chunks[0]
        for chunk in self._chunks[1:]:
            whole = whole + chunk
        reply = _reply(call, message_chunk_to_message(whole))
        return reply if not self._handed_out else replace(reply, confidence=None, complete=True, handed_on=False)


def as_chunk(output: Any) -> AIMessageChunk:
    """Whatever a Runnable returns or streams, as a chunk of a message."""
    if isinstance(output, AIMessageChunk):
        return output
    if isinstance(output, AIMessage):
        return AIMessageChunk(**output.model_dump(exclude={"type"}))
    if isinstance(output, BaseMessage):
        return AIMessageChunk(content=output.content)
    return AIMessageChunk(content=Reply.of(output).text if not isinstance(output, str) else output)


def _reply(call: Call, output: Any) -> Reply:
    reply = Reply.of(output, call.rung.extractor)
    return replace(reply, message=output if isinstance(output, AIMessage) else AIMessage(reply.text))


def _native(runnable: Runnable[Any, Any]) -> bool:
    """Whether it is `async` by itself, and so can be left at once."""
    if isinstance(runnable, RunnableLambda):
        return hasattr(runnable, "afunc")
    return type(runnable).ainvoke is not Runnable.ainvoke
