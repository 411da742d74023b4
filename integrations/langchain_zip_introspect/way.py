"""One question on its way up a ladder of Runnables: what came back, and the message that is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message

from langchain_zip_introspect.messages import usage_of
from zip_introspect.errors import EscalationError
from zip_introspect.escalation.plan import Call, Climb, Outcome
from zip_introspect.escalation.policy import Reply

_OF_THE_FIRST = ("expected_confidence", "expected_remaining_tokens", "strategy", "selection", "seed")


@dataclass(slots=True)
class Way:
    """A climb, and the messages that came back."""

    climb: Climb
    messages: dict[int, AIMessage] = field(default_factory=dict)
    chunks: list[AIMessageChunk] = field(default_factory=list)
    """Of the model that is being streamed."""
    streamed: bool = False
    """Whether text or tool calls of it have been handed out."""

    def heard(self, call: Call, output: Any) -> Reply:
        """Keep what a model returned; the reply it makes."""
        reply = Reply.of(output, call.rung.extractor)
        self.messages[call.place] = output if isinstance(output, AIMessage) else AIMessage(reply.text)
        return reply

    def piece(self, chunk: Any) -> AIMessageChunk | None:
        """Keep a chunk of a model; the piece to hand out, unless its confidence is still to be judged."""
        piece = _as_chunk(chunk)
        self.chunks.append(piece)
        if "introspection" in piece.response_metadata and not self.streamed:
            return None
        self.streamed = self.streamed or bool(piece.text or piece.tool_call_chunks)
        # The last chunk of all tells these, for the whole ladder.
        return piece.model_copy(update={"chunk_position": None, "response_metadata": {}, "usage_metadata": None})

    def heard_stream(self, call: Call) -> Reply:
        """`heard`, of the chunks that were kept; what has been handed out is not judged any more."""
        if not self.chunks:
            raise EscalationError("it returned nothing")
        whole = self.chunks[0]
        for chunk in self.chunks[1:]:
            whole = whole + chunk
        reply = self.heard(call, message_chunk_to_message(whole))
        return reply if not self.streamed else replace(reply, confidence=None, complete=True, handed_on=False)

    def message(self) -> AIMessage:
        """The final message.

        Raises:
            EscalationError: as `EscalatingChat`.
        """
        outcome = self.climb.outcome()
        chosen = AIMessage("") if outcome.place is None else self.messages[outcome.place]
        about = {**chosen.response_metadata, "introspection": self._introspection(outcome, chosen)}
        spent = usage_of(outcome.usage)
        about["finish_reason"] = about["introspection"]["finish_reason"]
        message = chosen.model_copy(update={"response_metadata": about, "usage_metadata": spent})
        if outcome.raises:
            raise EscalationError(outcome.trouble or "", message if outcome.place is not None else None)
        return message

    def last(self) -> AIMessageChunk:
        """The last chunk: all of the answer, or where that was streamed, what there is to say of it.

        Raises:
            EscalationError: as `EscalatingChat`.
        """
        message = self.message()
        if self.streamed:
            return AIMessageChunk(
                content="",
                response_metadata=message.response_metadata,
                usage_metadata=message.usage_metadata,
                chunk_position="last",
            )
        return _as_chunk(message).model_copy(update={"chunk_position": "last"})

    def _introspection(self, outcome: Outcome, chosen: AIMessage) -> dict[str, Any]:
        own = dict(chosen.response_metadata.get("introspection") or {})
        first = self.messages[0].response_metadata.get("introspection", {}) if 0 in self.messages else {}
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


def _as_chunk(output: Any) -> AIMessageChunk:
    if isinstance(output, AIMessageChunk):
        return output
    if isinstance(output, AIMessage):
        return AIMessageChunk(**output.model_dump(exclude={"type"}))
    if isinstance(output, BaseMessage):
        return AIMessageChunk(content=output.content)
    return AIMessageChunk(content=Reply.of(output).text if not isinstance(output, str) else output)
