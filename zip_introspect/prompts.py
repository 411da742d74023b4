"""What may be asked, checked before a model is bothered with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from zip_introspect.errors import ConfigError, PromptError


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str


Prompt = str | Sequence[Message]
"""A question, or a conversation that ends in one."""


def check_prompt(prompt: Prompt) -> None:
    """Refuse what holds no question.

    Raises:
        PromptError: empty or blank text, text that is not Unicode, messages of another shape, or a last one that is not
            the user's.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise PromptError(f"the prompt is {prompt!r}, empty or only white space; expected text to answer")
        _check_unicode(prompt, "the prompt")
        return
    if not isinstance(prompt, (list, tuple)) or not prompt:
        raise PromptError(f"the prompt is {prompt!r}; expected a string, or a list of messages with role and content")
    for place, message in enumerate(prompt):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise PromptError(f"message {place} is {message!r}; expected {{'role': ..., 'content': ...}}, both strings")
        for name, value in message.items():
            _check_unicode(_as_json(name, value, place), f"{name!r} of message {place}")
    if prompt[-1]["role"] != "user":
        raise PromptError(
            f"the last message is from {prompt[-1]['role']!r}; expected the user's: there is no question to answer"
        )
    if not prompt[-1]["content"].strip():
        raise PromptError("the last message has no content; expected text to answer")


def _as_json(name: Any, value: Any, place: int) -> str:
    """A key of a message and its value, as chat templates take them."""
    try:
        if not isinstance(name, str):
            raise TypeError(f"a key is {name!r}")
        return name + (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(
            f"{name!r} of message {place} is not JSON ({error}); expected texts, numbers, booleans, lists and objects"
        ) from error


def _check_unicode(text: str, what: str) -> None:
    """Refuse half a surrogate pair, as it comes of files that are read with another encoding than theirs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{what} holds {text[error.start]!r} at character {error.start}, half of a surrogate pair; expected "
            f"Unicode text. Read its source in the encoding that it was written in."
        ) from None


def check_batch(prompts: Sequence[Prompt]) -> None:
    """Refuse one string where many prompts are expected.

    Raises:
        PromptError: a string.
    """
    if isinstance(prompts, str):
        raise PromptError("batch was given one string; expected a list of prompts. Use generate for a single one.")


def check_no_template(options: Mapping[str, Any] | None, reason: str) -> None:
    """Refuse options for a chat template that is not applied.

    Args:
        reason: why it is not.

    Raises:
        ConfigError: there are options.
    """
    if options:
        raise ConfigError(
            f"chat_template_kwargs names {', '.join(map(repr, options))}, but {reason}; expected none without a chat "
            f"template. Leave them out, or ask with the template."
        )
