"""Prompts to token ids, whatever the tokenizer: the template's special tokens are special, a user's text is text.

The rule of beginning, the same for every backend, with a chat template and without: where the tokenizer puts tokens
before a text (a begin-of-sequence token, as a rule), the prompt begins with them, once, whether or not the template
writes them too; where it puts none, a begin-of-sequence token that the template writes stays, once. What a tokenizer
puts behind a text, such as an end-of-sequence token, is left out: the model is to go on.

The rule of ending (`end_ids`): a text ends with any token that the model's files name as an end of sequence, and with
the one that closes an assistant's turn in the chat template.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from zip_introspect.backend.chat_template import ChatTemplate, Rendered
from zip_introspect.backend.spellings import Spellings
from zip_introspect.config import check_template_kwargs
from zip_introspect.errors import ConfigError, ModelLoadError, PromptError
from zip_introspect.prompts import Message, check_no_template, check_prompt

_RARE = "\U0010fffd\ue0b7\U00013000\U0001fae8"
"""Characters that a tokenizer is likely not to know, if there are any."""


class PromptEncoder(ABC):
    """Encodes prompts for one tokenizer; a backend says how its tokenizer and its chat template are called.

    Any number of threads may encode at once: nothing changes while they do, here or in a backend's methods.

    Args:
        template: the chat template's text; None where the model has none.
        specials: the ids of special and reserved tokens, by what spells them.
        never: further ids that never come out of a user's text.
        opening: the ids that the tokenizer puts before a text.
        bos: the begin-of-sequence token's id, which a template may write where the tokenizer puts nothing.
        ends: the ids that the tokenizer names as an end of sequence.
        unknown: the id of what the tokenizer does not know. Where there is such a thing, it is in no text's power to
            avoid; it never comes out of a text where it begins or ends sequences too.
    """

    def __init__(
        self,
        template: str | None,
        specials: Mapping[str, int],
        *,
        never: Collection[int] = (),
        opening: Sequence[int] = (),
        bos: int | None = None,
        ends: Collection[int] = (),
        unknown: int | None = None,
    ) -> None:
        self.opening, self.bos, self._unknown = tuple(opening), bos, unknown
        self._specials = {text: token for text, token in specials.items() if text}
        if template:
            self._specials |= self._markers(ChatTemplate(template, self.render, Spellings([])).written())
        self._forbidden = frozenset((*self._specials.values(), *specials.values(), *never))
        if unknown not in {bos, *ends} and unknown in self.with_specials(_RARE):
            self._forbidden -= {unknown}
        self._spellings = Spellings(self._specials)
        self._strips: dict[str, tuple[bool, bool]] = {}
        self.template = ChatTemplate(template, self.render, self._spellings) if template else None

    @abstractmethod
    def render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, options: Mapping[str, Any]) -> str:
        """The chat template's text for a conversation. It may raise what the template raises.

        Args:
            messages: with `role` and `content`, a string or a list of `{"type": "text", "text": ...}`.
            add_generation_prompt: whether the text goes on to where an assistant's words begin.
            options: further variables of the template.
        """

    @abstractmethod
    def with_specials(self, text: str) -> list[int]:
        """Token ids of a text, and nothing around it: what spells a special token is that token."""

    @abstractmethod
    def plain(self, text: str) -> list[int]:
        """As `with_specials`, but nothing in it is special, as far as the tokenizer can be told so."""

    @abstractmethod
    def added(self, tokens: Collection[int]) -> dict[str, int]:
        """Those of some tokens that the tokenizer takes whole out of any text and does not call special."""

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a prompt.

        Raises:
            PromptError: nothing to encode, malformed messages, messages that the template refuses or leaves out, or a
                text that cannot be kept from becoming a special token.
            ConfigError: template options of names that are not free, or where no template is applied.
        """
        check_prompt(prompt)
        options = dict(chat_template_kwargs or {})
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        if chat and self.template is not None:
            check_template_kwargs(options)
            return self._begun(self._of_rendered(self.template.render(messages, options)))
        reason = "the model has no chat template" if self.template is None else "chat is off"
        check_no_template(options, reason)
        if len(messages) > 1:
            raise PromptError(
                f"the prompt has {len(messages)} messages, but {reason}; expected one string or one message. "
                f"Join them into one text."
            )
        return self._begun(self.as_text(messages[0]["content"]))

    def spell(self, text: str) -> list[int]:
        """Token ids of a text that is not the beginning, in which what spells a special token is that token.

        Raises:
            ConfigError: there is none for a part of it.
        """
        ids = self._behind(text, self.with_specials)
        if not ids or self._unknown in ids:
            raise ConfigError(f"the tokenizer has no tokens for {text!r}; expected a text that the model can write")
        return ids

    def closing(self) -> int | None:
        """The token that closes an assistant's turn in the chat template, as `ChatTemplate.closing`."""
        found = None if self.template is None else self.template.closing()
        return None if found is None else self._specials[found]

    def as_text(self, text: str) -> list[int]:
        """Token ids of a user's text, in which nothing is special.

        Raises:
            PromptError: the tokenizer takes a part of it for a special token, however it is asked.
        """
        ids = self.with_specials(text)
        if self._forbidden.isdisjoint(ids) and not self._spellings.names(text):
            return ids
        ids = self.plain(text)
        if not self._forbidden.isdisjoint(ids):  # for tokenizers that would not listen: half a spelling is no token's
            first, *others = self._spellings.halves(text)
            ids = [*self.plain(first), *(token for half in others for token in self._behind(half, self.plain))]
        self._check_specials(ids, [])
        return ids

    def _of_rendered(self, rendered: Rendered) -> list[int]:
        text = rendered.text
        own = [text[start:end] for start, end in rendered.specials]
        if own == self._spellings.names(text):
            ids = self.with_specials(text)
            if self._special_ids(ids) == self._ids_of(own):
                return ids
        ids, start, before = [], 0, ""
        for (begin, end), name in zip([*rendered.specials, (len(text),) * 2], [*own, ""], strict=True):
            ids += self._run(text[start:begin], before, name)
            ids += [self._specials[name]] if name else []
            start, before = end, name
        self._check_specials(ids, own)
        return ids

    def _run(self, text: str, before: str, behind: str) -> list[int]:
        """The text between two special tokens, as it would be encoded with them."""
        text = text.lstrip() if before and self._strips_around(before)[1] else text
        text = text.rstrip() if behind and self._strips_around(behind)[0] else text
        if not text or not before or not self._differs_at_the_start:
            return self.as_text(text) if text else []
        return self._behind(text, self.as_text)

    def _behind(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """A text as it is encoded where it is not the beginning."""
        for guard in "\n", "a", "0":  # what only a beginning gets, such as SentencePiece's space, goes to the guard
            around, ids = encode(guard), encode(guard + text)
            if ids[: len(around)] == around:
                return ids[len(around) :]
        return encode(text)

    def _strips_around(self, special: str) -> tuple[bool, bool]:
        """Whether a special token swallows the space to its left and right, as those of some tokenizers do."""
        if special not in self._strips:
            ids = self.with_specials
            left, right = ids(f"a\n{special}") == ids(f"a{special}"), ids(f"{special}\na") == ids(f"{special}a")
            self._strips[special] = left, right
        return self._strips[special]

    @cached_property
    def _differs_at_the_start(self) -> bool:
        """Whether a text has other tokens behind a special token than it has alone."""
        special = next(iter(self._specials), "")
        return bool(special) and self.with_specials(f"{special}a")[1:] != self.with_specials("a")

    def _markers(self, written: str) -> dict[str, int]:
        """The added tokens by which a template marks turns, though the tokenizer does not call them special.

        Not those that come in pairs such as <think> and </think>: they mark a piece of somebody's words, and histories
        hold them as the model wrote them.
        """
        found = self.added(set(self.with_specials(written)))
        return {
            text: token
            for text, token in found.items()
            if _is_mark(text) and (other := _partner(text)) not in self.added(self.with_specials(other))
        }

    def _begun(self, ids: list[int]) -> list[int]:
        """The rule of beginning."""
        first = self.opening or ((self.bos,) if self.bos is not None else ())
        start = 0
        while first and tuple(ids[start : start + len(first)]) == first:
            start += len(first)
        if self.bos in self.opening:
            while ids[start : start + 1] == [self.bos]:
                start += 1
        return [*first, *ids[start:]] if self.opening or start else ids

    def _special_ids(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._forbidden]

    def _ids_of(self, names: Sequence[str]) -> list[int]:
        return self._special_ids([self._specials[name] for name in names])

    def _check_specials(self, ids: Sequence[int], own: Sequence[str]) -> None:
        if self._special_ids(ids) != self._ids_of(own):
            raise PromptError(
                "the tokenizer takes a part of the prompt for a special token, and there is no way to tell it that it "
                "is text. Write that part differently."
            )


def _is_mark(text: str) -> bool:
    """Whether a text is no word and no space, but a name in brackets of any kind."""
    bare = len(text) > 2 and not any(letter.isalnum() or letter.isspace() for letter in (text[0], text[-1]))
    return bare and any(map(str.isalnum, text))


def _partner(text: str) -> str:
    """</x> of <x>, and <x> of </x>."""
    return text[0] + text[2:] if text[1] == "/" else f"{text[0]}/{text[1:]}"


def end_ids(named: Mapping[str, Any], vocab_size: int) -> tuple[int, ...]:
    """The ids that end a text, rising: all that any source names.

    Args:
        named: what each source says: an id, a list of ids, or None; by the source's name, for messages.
        vocab_size: rows of the model's output head.

    Raises:
        ModelLoadError: what is not an id of the vocabulary, or no id at all.
    """
    found: set[int] = set()
    for source, said in named.items():
        for token in said if isinstance(said, list | tuple | set | frozenset) else [] if said is None else [said]:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
                raise ModelLoadError(
                    f"{source} names {token!r} as an end of sequence; expected ids from 0 to {vocab_size - 1}. "
                    f"Mend eos_token_id there."
                )
            found.add(token)
    if not found:
        raise ModelLoadError(
            f"the model names no end-of-sequence token in {', '.join(named)}, so no sample would ever finish. "
            f"Set eos_token_id in one of them."
        )
    return tuple(sorted(found))
