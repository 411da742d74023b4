"""What this model reads of a conversation: a rule for every type of message and of content block that LangChain knows.

What is text is read. What a model did on its way to its text is left out: its reasoning, and the tools that its
provider ran. What an answer may hang on and this model cannot take is refused: images, and tools that the chain ran.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.block_translators import get_translator

from zip_introspect.errors import PromptError
from zip_introspect.prompts import Message

Rule = Literal["read", "left out", "refused"]

RULES: dict[str, Rule] = {
    "text": "read",
    "text-plain": "read",
    "reasoning": "left out",
    "server_tool_call": "left out",
    "server_tool_call_chunk": "left out",
    "server_tool_result": "left out",
    "tool_call": "refused",
    "tool_call_chunk": "refused",
    "invalid_tool_call": "refused",
    "image": "refused",
    "audio": "refused",
    "video": "refused",
    "file": "refused",
    "non_standard": "refused",
    # Annotations of a text.
    "citation": "left out",
    "non_standard_annotation": "left out",
    # Providers' own blocks, where LangChain translates them for no provider or for their own alone.
    "input_text": "read",
    "output_text": "read",
    "refusal": "read",
    "thinking": "left out",
    "redacted_thinking": "left out",
    "reasoning_content": "left out",
    "server_tool_use": "left out",
    "cachePoint": "left out",
}
"""By the type of a block; what has no rule is refused. `text-plain` is read where the block holds the text itself."""

ROLES: dict[type[BaseMessage], str | None] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ChatMessage: "",
    ToolMessage: None,
    FunctionMessage: None,
    RemoveMessage: None,
}
"""The template's role of each type of message: "" is the message's own, and None is refused."""

_TOOL_CALLS = frozenset({"tool_call", "tool_call_chunk", "invalid_tool_call"})


@dataclass(frozen=True, slots=True)
class Part:
    """One block of a message."""

    kind: str
    rule: Rule
    text: str = ""
    document: bool = False
    """Whether it stands apart from what is beside it."""


def read(place: int, message: BaseMessage) -> Message:
    """A message for the chat template.

    Args:
        place: in the conversation, for errors.

    Raises:
        PromptError: a type of message, or a block, that is refused.
    """
    role = _role(message)
    if role is None:
        raise PromptError(
            f"message {place} is a {type(message).__name__}; expected a SystemMessage, HumanMessage, AIMessage or "
            f"ChatMessage. Leave it out, or write what it says into a message of the user's."
        )
    if any(_tool_calls(message)):
        raise PromptError(
            f"message {place} is an {type(message).__name__} with tool calls; this model knows no tools. Leave out "
            f"tool calls and their results, or write what they said into a message of the user's."
        )
    return Message(role=role, content=_text(place, message))


def plain(place: int, message: BaseMessage) -> BaseMessage:
    """A message for LangChain to write down as text: its content as `read` reads it. Tools are text there too.

    Raises:
        PromptError: a block that is refused.
    """
    return message.model_copy(update={"content": _text(place, message, passing=_TOOL_CALLS)})


def legible(message: BaseMessage) -> str:
    """The text of a message, whatever else it holds."""
    return _joined(list(_parts(message)))


def countable(messages: Sequence[BaseMessage]) -> list[Message]:
    """Messages to count the tokens of, those that are refused among them: their text, and tool calls as JSON."""
    counted = []
    for message in messages:
        if isinstance(message, RemoveMessage):
            continue
        role = _role(message)
        calls = [json.dumps(call, default=str, ensure_ascii=False) for call in _tool_calls(message)]
        text = legible(message)
        content = "\n".join([text, *calls] if text else calls)
        counted.append(Message(role=message.type if role is None else role, content=content))
    return counted


def _role(message: BaseMessage) -> str | None:
    role = next((role for kind, role in ROLES.items() if isinstance(message, kind)), None)
    return message.role if role == "" and isinstance(message, ChatMessage) else role


def _tool_calls(message: BaseMessage) -> Iterator[Any]:
    if isinstance(message, AIMessage):
        for call in (*message.tool_calls, *message.invalid_tool_calls):
            yield {"name": call["name"], "args": call["args"]}
    if older := message.additional_kwargs.get("function_call"):
        yield older


def _text(place: int, message: BaseMessage, passing: frozenset[str] = frozenset()) -> str:
    parts = list(_parts(message))
    for part in parts:
        if part.rule == "refused" and part.kind not in passing:
            raise PromptError(
                f"message {place}, a {type(message).__name__}, holds a block of type {part.kind!r}; expected text: "
                f"this model reads nothing else. Leave the block out, or describe it in words."
            )
    return _joined(parts)


def _parts(message: BaseMessage) -> Iterator[Part]:
    if isinstance(message.content, str):
        yield Part("text", "read", message.content)
        return
    for item in message.content:
        if isinstance(item, str):
            yield Part("text", "read", item)
        else:
            for block in _standard(item, message):
                yield _part(block)


def _standard(block: dict[str, Any], message: BaseMessage) -> list[dict[str, Any]]:
    """A block in LangChain's own form, as far as it or the provider's translator knows it.

    One by one, since translators pass over what they do not expect, text among it.
    """
    blocks: list[Any] = list(HumanMessage([block]).content_blocks)
    provider = message.response_metadata.get("model_provider")
    if all(item["type"] == "non_standard" for item in blocks) and provider and (known := get_translator(provider)):
        alone = AIMessage([block], response_metadata={"model_provider": provider})
        with contextlib.suppress(AttributeError, KeyError, NotImplementedError, TypeError, ValueError):  # malformed
            blocks = list(known["translate_content"](alone)) or blocks
    return blocks


def _part(block: dict[str, Any]) -> Part:
    kind = str(block["type"])
    while kind == "non_standard" and isinstance(block.get("value"), dict):
        block = block["value"]
        kind = str(block.get("type") or next(iter(block), "non_standard"))
    rule = RULES.get(kind, "refused")
    if rule != "read":
        return Part(kind, rule)
    text = block.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        return Part(kind, "refused")
    if kind != "text-plain":
        return Part(kind, rule, text)
    about = [block.get(name) or block.get("extras", {}).get(name) for name in ("title", "context")]
    return Part(kind, rule, "\n".join([*(item for item in about if isinstance(item, str)), text]), document=True)


def _joined(parts: Sequence[Part]) -> str:
    """The text of a message: blocks one after another as they are, documents in paragraphs of their own."""
    text, apart = "", False
    for part in parts:
        if part.text:
            text += "\n\n" if text and (apart or part.document) else ""
            text, apart = text + part.text, part.document
    return text
