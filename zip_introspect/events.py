"""What a search reports while it runs. `stream` and `astream` yield these in order, `SearchFinished` last.

Events of several prompts interleave; `prompt` tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import ConfigDict, PlainSerializer

from zip_introspect.result import Decision, GenerationResult, Outlook, Record, SampleFinish


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class SearchStarted(Record):
    """The prompt has been read; nothing is generated yet."""

    prompt: int
    """Place of the prompt in its batch, from 0."""
    prompt_tokens: int
    expected: Outlook | None
    """Of one sample; None from a model without a head, as in the events that follow."""
    strategy: str
    kind: str = field(default="started", init=False)


@dataclass(frozen=True, slots=True)
class DecisionMade(Record):
    """A meta-action was chosen; the backend has not run it yet."""

    prompt: int
    decision: Decision
    kind: str = field(default="decision", init=False)


@dataclass(frozen=True, slots=True)
class SampleAdvanced(Record):
    """A sample grew by up to an interval of tokens."""

    prompt: int
    sample: int
    text: str
    """All of its text so far; a character whose bytes are not all there yet is left out. Without what it thinks before
    it answers, where that is told apart."""
    tokens: int
    outlook: Outlook | None
    thinking: str | None = None
    """All that it has thought so far; None where the model was not asked with `thinking`."""
    kind: str = field(default="advanced", init=False)


@dataclass(frozen=True, slots=True)
class SampleFinished(Record):
    """A sample came to its end."""

    prompt: int
    sample: int
    text: str
    tokens: int
    finish: SampleFinish
    value: float | None
    answer: str | None
    kind: str = field(default="sample_finished", init=False)


@dataclass(frozen=True, slots=True)
class HandedOn(Record):
    """A ladder asks its next model; that model's own events follow, if it has any."""

    prompt: int
    target: str
    reason: str
    kind: str = field(default="handed_on", init=False)


@dataclass(frozen=True, slots=True)
class SearchFinished(Record):
    """The outcome of a prompt."""

    prompt: int
    result: GenerationResult
    kind: str = field(default="finished", init=False)


@dataclass(frozen=True, slots=True)
class SearchFailed(Record):
    """A prompt of a batch failed; the others go on. `generate` and `stream` raise the error instead."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    prompt: int
    error: Annotated[BaseException, PlainSerializer(_said)]
    """As plain data, its type and message."""
    kind: str = field(default="failed", init=False)


Event = SearchStarted | DecisionMade | SampleAdvanced | SampleFinished | HandedOn | SearchFinished | SearchFailed
