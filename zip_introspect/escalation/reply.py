"""What a model of a ladder says, whatever form it gives to it.

Nothing of LangChain is imported: its messages are known by their attributes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zip_introspect.answers.extraction import AnswerExtractor, canonical, default_extractor, extract
from zip_introspect.errors import EscalationError
from zip_introspect.result import GenerationResult, Record, Usage

NOTHING_USED = Usage(prompt_tokens=0, generated_tokens=0, chosen_tokens=0, depth=0, seconds=0.0)


@dataclass(frozen=True, slots=True)
class Reply(Record):
    """What a model of a ladder said. Functions that know more than a text return one of these."""

    text: str
    answer: str | None = None
    """The short answer; None leaves it to the rung's extractor."""
    confidence: float | None = None
    """How likely it is to be right; None where nobody knows."""
    usage: Usage = field(default=NOTHING_USED)
    complete: bool = True
    """False for a text that was cut."""
    handed_on: bool = False
    """Whether it stopped before its end, since a stronger model is worth more."""
    tokens_saved: float | None = None
    samples: int = 0
    """How many it started."""
    reason: str = ""
    """Why it stopped."""
    result: GenerationResult | None = None
    """Everything, where a search of ours made it."""
    message: Any = None
    """What the model returned, where that was a message."""

    @classmethod
    def of(cls, output: Any, extractor: AnswerExtractor = default_extractor) -> Reply:
        """From whatever a model returned: a reply, a result, a message, text or a number.

        Raises:
            EscalationError: anything else, or no text at all.
        """
        if isinstance(output, GenerationResult):
            return cls._of_result(output)
        if isinstance(output, Reply):
            reply = output
        elif isinstance(output, str) or (isinstance(output, numbers.Real) and not isinstance(output, bool)):
            reply = cls(str(output))
        elif hasattr(output, "content"):
            reply = cls._of_message(output)
        else:
            raise EscalationError(
                f"it returned a {type(output).__name__}; expected text, a number, a message or a Reply"
            )
        if reply.complete and not reply.text.strip() and not getattr(output, "tool_calls", None):
            raise EscalationError("it returned no text")
        if not isinstance(reply.usage, Usage):
            raise EscalationError(f"it returned the usage {repr(reply.usage)[:80]}; expected a Usage")
        sure = reply.confidence
        if sure is not None and not (isinstance(sure, numbers.Real) and math.isfinite(sure)):
            raise EscalationError(f"it returned a confidence of {sure!r}; expected a finite number, or None")
        answer = reply.answer
        if answer is not None and not isinstance(answer, str):
            raise EscalationError(f"it returned the answer {repr(answer)[:80]}; expected text, or None")
        found = extract(extractor, reply.text) if answer is None else canonical(answer) or None
        return replace(reply, answer=found)

    @classmethod
    def _of_result(cls, result: GenerationResult) -> Reply:
        last = result.decisions[-1] if result.decisions else None
        return cls(
            text=result.text,
            answer=result.answer,
            confidence=result.confidence,
            usage=result.usage,
            complete=result.complete,
            handed_on=result.finish_reason == "handed_on",
            tokens_saved=last.tokens_saved if last else None,
            samples=len(result.samples),
            reason=result.stop_detail,
            result=result,
        )

    @classmethod
    def _of_message(cls, message: Any) -> Reply:
        """A chat message as LangChain has it: `text` or `content`, `usage_metadata`, `response_metadata`."""
        text = getattr(message, "text", None)
        text = text if isinstance(text, str) else message.content
        if not isinstance(text, str):
            raise EscalationError(f"its message holds a {type(text).__name__}; expected text")
        used, about = _mapping(message, "usage_metadata"), _mapping(message, "response_metadata")
        own = about.get("introspection")
        own = own if isinstance(own, Mapping) else {}
        confidence = own.get("confidence")
        tokens = int(used.get("output_tokens") or 0)
        details = used.get("output_token_details") or {}
        finish = own.get("finish_reason", "stop")
        last = (own.get("decisions") or [{}])[-1]
        return cls(
            text=text,
            message=message,
            answer=own.get("answer"),
            confidence=confidence if isinstance(confidence, int | float) else None,
            usage=Usage(
                prompt_tokens=int(used.get("input_tokens") or 0),
                generated_tokens=tokens,
                chosen_tokens=int(details.get("chosen", tokens)),
                depth=own.get("depth", 0),
                seconds=own.get("seconds", 0.0),
                cost=own.get("cost"),
                cached_tokens=int((used.get("input_token_details") or {}).get("cache_read") or 0),
            ),
            samples=len(own.get("samples", ())),
            complete=own.get("complete", finish == "stop"),
            handed_on=finish == "handed_on",
            tokens_saved=last.get("tokens_saved"),
            reason=own.get("stop_detail", ""),
        )


def _mapping(message: Any, name: str) -> Mapping[str, Any]:
    value = getattr(message, name, None)
    return value if isinstance(value, Mapping) else {}
