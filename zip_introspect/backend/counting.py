"""How many tokens a part of a conversation takes, where it need not be one that a model could be asked with.

- Messages that end in the user's words count as the prompt that the backend makes of them: with all that the chat
  template writes, up to where an answer begins.
- Others count as much as if a question followed, less that question's turn. Where the template does not let the user
  speak twice in a row, it cannot be told how much of this is the turn; then only the question itself is taken off.
- What the template refuses, several messages without a template among it, counts as the sum of its messages, each
  alone; one whose role the template refuses too, as if the user had said it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from zip_introspect.backend.contract import Backend
from zip_introspect.errors import PromptError
from zip_introspect.prompts import Message

_WORD = "a"
"""Stands for a question; tokenizers have it as one token."""


def count(
    backend: Backend, prompt: str | Sequence[Message], *, chat: bool = True, options: Mapping[str, Any] | None = None
) -> int:
    """Tokens of a text, or of messages; none of an empty one.

    Args:
        options: of the chat template.

    Raises:
        ConfigError: as `Backend.encode`.
    """
    if not prompt:
        return 0
    counter = _Counter(backend, chat, options)
    if isinstance(prompt, str):
        return counter.messages([_user(prompt)]) if chat else len(text_tokens(backend, prompt))
    return counter.messages(prompt)


def text_tokens(backend: Backend, text: str) -> list[int]:
    """Token ids of a text, without the chat template; of white space, those that it adds to a text before it."""
    if text.strip():
        return backend.encode(text, chat=False)
    before = backend.encode(_WORD, chat=False)
    return backend.encode(_WORD + text, chat=False)[len(before) :]


class _Counter:
    def __init__(self, backend: Backend, chat: bool, options: Mapping[str, Any] | None) -> None:
        self._backend, self._chat = backend, chat
        self._given = {"chat_template_kwargs": options} if options else {}

    def messages(self, messages: Sequence[Message]) -> int:
        with suppress(PromptError):
            return self._together(messages)
        return sum(self._alone(message) for message in messages)

    def _together(self, messages: Sequence[Message]) -> int:
        *before, last = messages
        if last["role"] != "user":
            return self._prompt([*messages, _user(_WORD)]) - self._turn()
        if not last["content"].strip():
            return self._prompt([*before, _user(last["content"] + _WORD)]) - 1
        return self._prompt(messages)

    def _alone(self, message: Message) -> int:
        for said in (message, _user(message["content"])):
            with suppress(PromptError):
                return self._together([said])
        return len(text_tokens(self._backend, message["content"]))

    def _turn(self) -> int:
        """What a question of one token takes, its turn's own tokens included where they can be told."""
        question = _user(_WORD)
        with suppress(PromptError):
            return self._prompt([question, question]) - self._prompt([question])
        return 1

    def _prompt(self, messages: Sequence[Message]) -> int:
        return len(self._backend.encode(list(messages), chat=self._chat, **self._given))


def _user(content: str) -> Message:
    return Message(role="user", content=content)
