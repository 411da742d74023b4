"""Prompts to token ids, whatever the tokenizer: the template's special tokens are special, a user's text is text."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence

from zip_introspect.backend import Message
from zip_introspect.errors import PromptError
from zip_introspect.prompts import check_prompt


class PromptEncoder(ABC):
    """Encodes prompts for one tokenizer; a backend says how its tokenizer and its chat template are called.

    Args:
        template: the chat template's text; None where the model has none.
        forbidden: ids that never come out of a user's text: special and reserved ones.
        spellings: the texts that some tokenizers take for those ids.
    """

    def __init__(self, template: str | None, forbidden: Collection[int], spellings: Iterable[str]) -> None:
        self.template = template
        self._forbidden = frozenset(forbidden)
        longest_first = sorted({text for text in spellings if text}, key=lambda text: (-len(text), text))
        self._spelling = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    @abstractmethod
    def render(self, messages: Sequence[Message]) -> str:
        """The chat template's text for a conversation, up to where the answer begins.

        Raises:
            PromptError: the template refuses the messages; see `refused`.
        """

    @abstractmethod
    def with_specials(self, text: str) -> list[int]:
        """Token ids of a template's text: what spells a special token is that token."""

    @abstractmethod
    def plain(self, text: str) -> list[int]:
        """Token ids of a user's text: nothing in it is special, as far as the tokenizer can be told so."""

    @abstractmethod
    def bare(self, text: str) -> list[int]:
        """Token ids of a text without a template, with what the tokenizer puts around a text."""

    def encode(self, prompt: str | Sequence[Message], *, chat: bool) -> list[int]:
        """Token ids of a prompt.

        Raises:
            PromptError: nothing to encode, malformed messages, or messages that the template refuses.
        """
        check_prompt(prompt)
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        if chat and self.template:
            return self._encode_chat(messages)
        if len(messages) > 1:
            raise PromptError(
                f"the prompt has {len(messages)} messages, but "
                + ("chat is off" if self.template else "the model has no chat template")
                + "; expected one string or one message. Join them into one text."
            )
        return self.bare(messages[0]["content"])

    def as_text(self, text: str) -> list[int]:
        """`plain`, and for tokenizers that would not listen half a spelling at a time, which is no token's."""
        ids = self.plain(text)
        if self._spelling is None or self._forbidden.isdisjoint(ids):
            return ids
        ids = []
        start = 0
        while found := self._spelling.search(text, start):
            cut = found.start() + 1
            ids += self.plain(text[start:cut])
            start = cut
        return ids + (self.plain(text[start:]) if text[start:] else [])

    def spells_special(self, text: str) -> bool:
        """Whether a text holds the spelling of a special token."""
        return self._spelling is not None and self._spelling.search(text) is not None

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        contents = [message["content"] for message in messages]
        if not any(map(self.spells_special, contents)):
            return self.with_specials(self.render(messages))
        # Joined and encoded at once, a content's spelling of a special token would become that token.
        marks = self._marks(len(contents))
        rendered = self.render(
            [Message(role=message["role"], content=mark) for message, mark in zip(messages, marks, strict=True)]
        )
        content_of = dict(zip(marks, contents, strict=True))
        ids: list[int] = []
        for piece in re.split("(" + "|".join(map(re.escape, marks)) + ")", rendered):
            if piece:
                ids += self.as_text(content_of[piece]) if piece in content_of else self.with_specials(piece)
        return ids

    def _marks(self, count: int) -> list[str]:
        nonce = 0
        while f"Content{nonce}Of" in (self.template or ""):
            nonce += 1
        return [f"Content{nonce}Of{index}End" for index in range(count)]


def refused(messages: Sequence[Message], error: Exception) -> PromptError:
    """What to raise where a chat template refuses a conversation."""
    roles = ", ".join(message["role"] for message in messages)
    return PromptError(
        f"the model's chat template refuses these messages (roles {roles}): {error}. "
        f"Expected turns that it knows, such as user and assistant in alternation."
    )
