"""The one mapping between LangChain's world and ours: messages to prompts, results to messages and generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, cast

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.prompt_values import PromptValue, StringPromptValue

from langchain_zip_introspect.contents import read
from langchain_zip_introspect.settings import PROVIDER
from zip_introspect.errors import PromptError
from zip_introspect.prompts import Message, Prompt
from zip_introspect.result import Decision, GenerationResult, Outlook, SampleResult, Usage


class Running(TypedDict):
    """What was expected of a sample while it was streamed."""

    tokens: int
    confidence: float
    expected_remaining_tokens: float


class SampleSummary(TypedDict):
    """One sample, without its text and tokens."""

    number: int
    tokens: int
    value: float | None
    status: str
    answer: str | None
    chosen: bool


class DecisionSummary(TypedDict):
    """One decision, without its numbers; samples are named by their numbers."""

    index: int
    tokens: int
    started: list[int]
    continued: list[int]
    paused: list[int]
    resumed: list[int]
    dropped: list[int]
    finished: list[int]
    stop: str | None
    reason: str
    tokens_saved: float | None


class Introspection(TypedDict, total=False):
    """`response_metadata["introspection"]` of a message: plain JSON data. See `GenerationResult` for the meanings."""

    answer: str | None
    confidence: float
    confidence_source: str | None
    complete: bool
    """Whether the text was written to its end."""
    expected_confidence: float | None
    """Of one sample at the prompt, before a token was generated; None from a model without a head."""
    expected_remaining_tokens: float | None
    """The same sample's expected length."""
    samples: list[SampleSummary]
    decisions: list[DecisionSummary]
    strategy: str
    selection: str
    seed: int
    finish_reason: str
    stop_reason: str
    stop_detail: str
    depth: int
    seconds: float
    cost: float | None
    calibrated_confidence: float | None
    warnings: list[str]
    escalation: dict[str, Any] | None
    running: list[Running]
    """Only where a single sample was streamed: one entry a chunk."""


def to_prompt(messages: Sequence[BaseMessage]) -> list[Message]:
    """A conversation for the chat template.

    Raises:
        PromptError: a message or a block in it that is refused by `contents.RULES`, named by its place.
    """
    return [read(place, message) for place, message in enumerate(messages)]


def prompt_of(value: str | PromptValue | Sequence[BaseMessage]) -> Prompt:
    """A prompt from anything a LangChain model takes.

    Raises:
        PromptError: as `to_prompt`.
    """
    if isinstance(value, StringPromptValue):
        return value.text
    if isinstance(value, PromptValue):
        return to_prompt(value.to_messages())
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        raise PromptError(f"the input is {value!r}; expected a string, a prompt value or a list of messages")
    return to_prompt(convert_to_messages(value))


def introspection(result: GenerationResult) -> Introspection:
    """What a result says beside its text."""
    return Introspection(
        answer=result.answer,
        confidence=result.confidence,
        confidence_source=result.confidence_source,
        complete=result.complete,
        expected_confidence=result.expected.value if result.expected else None,
        expected_remaining_tokens=result.expected.remaining if result.expected else None,
        samples=[_sample(sample, sample.number == result.chosen) for sample in result.samples],
        decisions=[_decision(decision) for decision in result.decisions],
        strategy=result.strategy,
        selection=result.selection,
        seed=result.seed,
        finish_reason=result.finish_reason,
        stop_reason=result.stop_reason,
        stop_detail=result.stop_detail,
        depth=result.usage.depth,
        seconds=result.usage.seconds,
        cost=result.usage.cost,
        calibrated_confidence=result.calibrated_confidence,
        warnings=list(result.warnings),
        escalation=result.escalation.to_dict() if result.escalation else None,
    )


def running(tokens: int, outlook: Outlook) -> Running:
    """A point of the trace of a stream."""
    return Running(tokens=tokens, confidence=outlook.value, expected_remaining_tokens=outlook.remaining)


def metadata(result: GenerationResult, model: str) -> dict[str, Any]:
    """A message's `response_metadata`."""
    return {
        "model_name": model,
        "model_provider": PROVIDER,
        "finish_reason": result.finish_reason,
        "introspection": introspection(result),
    }


def usage(result: GenerationResult) -> UsageMetadata:
    """Every token of every sample; the details tell the chosen one's share."""
    return usage_of(result.usage)


def usage_of(spent: Usage) -> UsageMetadata:
    """LangChain's account of what was spent; the details tell the chosen sample's share."""
    taken_over = InputTokenDetails(cache_read=spent.cached_tokens)
    details = {"chosen": spent.chosen_tokens, "unchosen": spent.generated_tokens - spent.chosen_tokens}
    return UsageMetadata(
        input_tokens=spent.prompt_tokens,
        output_tokens=spent.generated_tokens,
        total_tokens=spent.prompt_tokens + spent.generated_tokens,
        input_token_details=taken_over,
        output_token_details=cast(Any, details),  # LangChain allows keys of a provider's own
    )


def to_message(result: GenerationResult, model: str) -> AIMessage:
    """The answer as a message; what was thought before it lies beside it."""
    thought = result.thought.text if result.thought else ""
    return AIMessage(
        result.text,
        additional_kwargs=reasoning(thought),
        response_metadata=metadata(result, model),
        usage_metadata=usage(result),
    )


def reasoning(thought: str) -> dict[str, str]:
    """A thought, or a piece of one, where LangChain looks for it: `message.content_blocks` shows it as reasoning."""
    return {"reasoning_content": thought} if thought else {}


def _sample(sample: SampleResult, chosen: bool) -> SampleSummary:
    return SampleSummary(
        number=sample.number,
        tokens=sample.tokens,
        value=sample.value,
        status=sample.status,
        answer=sample.answer,
        chosen=chosen,
    )


def _decision(decision: Decision) -> DecisionSummary:
    return DecisionSummary(
        index=decision.index,
        tokens=decision.tokens,
        started=list(decision.started),
        continued=list(decision.continued),
        paused=list(decision.paused),
        resumed=list(decision.resumed),
        dropped=list(decision.dropped),
        finished=list(decision.finished),
        stop=decision.stop,
        reason=decision.reason,
        tokens_saved=decision.tokens_saved,
    )
