"""Prompts to token ids: the chat template's own special tokens are special, what a user writes is text."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from zip_introspect.backend import Message
from zip_introspect.errors import PromptError


class PromptEncoder:
    """Encodes prompts for one tokenizer. `forbidden` ids (the reserved ones) never come out of a prompt's text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, forbidden: Collection[int]) -> None:
        self._tokenizer = tokenizer
        reserved = [item for item in forbidden if item < len(tokenizer)]
        self._forbidden = {*tokenizer.all_special_ids, *reserved}
        self._forbidden |= {item for item, token in tokenizer.added_tokens_decoder.items() if token.special}
        spellings = {str(text) for text in tokenizer.convert_ids_to_tokens(sorted(self._forbidden)) if text}
        longest_first = sorted(spellings, key=lambda text: (-len(text), text))
        self._spelling = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def encode(self, prompt: str | Sequence[Message], *, chat: bool) -> list[int]:
        """Token ids of a prompt.

        Raises:
            PromptError: nothing to encode, malformed messages, or messages that the template refuses.
        """
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        _check(messages)
        if chat and self._tokenizer.chat_template:
            return self._encode_chat(messages)
        if len(messages) > 1:
            raise PromptError(
                f"the prompt has {len(messages)} messages, but "
                + ("chat is off" if self._tokenizer.chat_template else "the model has no chat template")
                + "; expected one string or one message. Join them into one text."
            )
        return self._encode_bare(messages[0]["content"])

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        contents = [message["content"] for message in messages]
        if not any(map(self._spells_special, contents)):
            return self._special_allowed(self._render(messages))
        # Joined and encoded at once, a content's spelling of a special token would become that token.
        marks = self._marks(len(contents))
        rendered = self._render(
            [Message(role=message["role"], content=mark) for message, mark in zip(messages, marks, strict=True)]
        )
        content_of = dict(zip(marks, contents, strict=True))
        ids: list[int] = []
        for piece in re.split("(" + "|".join(map(re.escape, marks)) + ")", rendered):
            if piece:
                ids += self._as_text(content_of[piece]) if piece in content_of else self._special_allowed(piece)
        return ids

    def _encode_bare(self, text: str) -> list[int]:
        if not self._spells_special(text):
            return list(self._tokenizer.encode(text))
        # What the tokenizer puts around a text (a beginning-of-sequence token, say) is learnt from a harmless one.
        probe = list(self._tokenizer.encode("a", add_special_tokens=False))
        around = list(self._tokenizer.encode("a"))
        for start in range(len(around) - len(probe) + 1):
            if around[start : start + len(probe)] == probe:
                return [*around[:start], *self._as_text(text), *around[start + len(probe) :]]
        return self._as_text(text)

    def _render(self, messages: Sequence[Message]) -> str:
        plain: list[dict[str, str]] = [dict(message) for message in messages]  # type: ignore[arg-type]
        try:
            return str(self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise PromptError(
                f"the model's chat template refuses these messages (roles {roles}): {error}. "
                f"Expected turns that it knows, such as user and assistant in alternation."
            ) from error

    def _special_allowed(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _as_text(self, text: str) -> list[int]:
        ids = list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        if self._spelling is None or self._forbidden.isdisjoint(ids):
            return ids
        # A tokenizer that ignores the option cannot take half a spelling for the token.
        ids = []
        start = 0
        while found := self._spelling.search(text, start):
            cut = found.start() + 1
            ids += self._special_allowed(text[start:cut])
            start = cut
        return ids + (self._special_allowed(text[start:]) if text[start:] else [])

    def _spells_special(self, text: str) -> bool:
        return self._spelling is not None and self._spelling.search(text) is not None

    def _marks(self, count: int) -> list[str]:
        template, nonce = str(self._tokenizer.chat_template), 0
        while f"Content{nonce}Of" in template:
            nonce += 1
        return [f"Content{nonce}Of{index}End" for index in range(count)]


def _check(messages: Sequence[Any]) -> None:
    if not messages:
        raise PromptError("the prompt has no messages; expected a text or at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise PromptError(
                f"message {number} is {message!r}; expected a mapping with the strings 'role' and 'content', "
                f"such as {{'role': 'user', 'content': 'Solve 3*x+5=35'}}"
            )
    if not any(message["content"].strip() for message in messages):
        raise PromptError("the prompt is empty; expected a text to answer")
