"""Chat templates as what they are: programs of somebody else's, which see the contents and may do anything with them.

A template is shown the contents as they are. What it made of them is then checked: that the last user message can be
heard in the text, and which of the text's special tokens the template itself wrote. The others are a user's spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from zip_introspect.backend import Message
from zip_introspect.errors import PromptError

_PROBES = ("quartzsphinx", "vexingjudge")
"""Texts that a template can write in capitals or trim, but not make by itself."""
_PRIVATE = 0xE000
"""Where Unicode's private use begins: letters of no language, in no case."""


class Render(Protocol):
    """Calls a template. What it raises is the template's own."""

    def __call__(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, options: Mapping[str, Any]
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """A template's text for a conversation."""

    text: str
    specials: tuple[tuple[int, int], ...]
    """Begin and end of each special token that the template wrote, in order; what else spells one is a user's."""


class Spellings:
    """The texts that tokenizers take for special tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        longest_first = sorted({text for text in texts if text}, key=lambda text: (-len(text), text))
        pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self.exact, self._any_case = re.compile(pattern), re.compile(pattern, re.IGNORECASE)
        self._first = frozenset("".join(text[0].lower() + text[0].upper() for text in longest_first))
        self._harmless = next(letter for letter in map(chr, range(ord("x"), 0x10FFFF)) if letter not in self._first)

    def names(self, text: str) -> list[str]:
        """The special tokens that a text spells, in order."""
        return self.exact.findall(text)

    def begun(self, text: str) -> bool:
        """Whether a text holds a character with which a special token begins."""
        return not self._first.isdisjoint(text)

    def without(self, text: str) -> str:
        """A text of the same length in which no special token begins."""
        return "".join(self._harmless if letter in self._first else letter for letter in text)

    def found(self, text: str) -> Iterable[tuple[int, str]]:
        """Place and kind of every spelling in a text, in small or capital letters, those within others too."""
        start = 0
        while match := self._any_case.search(text, start):
            yield match.start(), match.group().casefold()
            start = match.start() + 1

    def halves(self, text: str) -> list[str]:
        """A text cut within every spelling."""
        ends = [0]
        while match := self.exact.search(text, ends[-1]):
            ends.append(match.start() + 1)
        return [text[start:end] for start, end in pairwise([*ends, len(text)]) if start < end]

    def broken(self, text: str, mark: str, kinds: set[str]) -> str:
        """A text with a mark within every spelling of these kinds."""
        places = [place + 1 for place, kind in self.found(text) if kind in kinds]
        ends = [0, *places, len(text)]
        return mark.join(text[start:end] for start, end in pairwise(ends))


class ChatTemplate:
    """One model's template.

    Args:
        source: its text.
        render: calls it.
        spellings: of the special tokens.
    """

    def __init__(self, source: str, render: Render, spellings: Spellings) -> None:
        self._source, self._call, self._spellings = source, render, spellings
        self._parted: dict[str, bool] = {}

    def render(self, messages: Sequence[Message], options: Mapping[str, Any]) -> Rendered:
        """The text of a conversation, up to where the answer begins.

        Raises:
            PromptError: the template refuses the messages, leaves the last one out, or makes such use of a text that
                spells a special token that the template's own cannot be told from it.
        """
        text = self._text(messages, options)
        self._check_heard(messages, options, text)
        spans = tuple(match.span() for match in self._spellings.exact.finditer(text))
        if not any(map(self._spellings.begun, [message["content"] for message in messages] + _texts(options))):
            return Rendered(text, spans)
        own = self._spellings.names(self._changed(messages, options, self._spellings.without))
        if self._spellings.names(text) == own:
            return Rendered(text, spans)
        return self._told_apart(messages, options, text, own)

    def closing(self) -> str | None:
        """The special token that follows an assistant's words at once; None where none does, or where it opens turns.

        With it the model was taught to end its answers, whatever else its files say.
        """
        question, answer = _PROBES
        turns = [Message(role="user", content=question), Message(role="assistant", content=answer)]
        try:
            shut, opened = (self._text(turns, {}, add_generation_prompt=more) for more in (False, True))
        except PromptError:
            return None
        before, _, rest = shut.partition(question)
        between, said, after = rest.partition(answer)
        found = self._spellings.exact.match(after)
        if not said or found is None:
            return None
        openers = {*self._spellings.names(before)[-1:], *self._spellings.names(between)[-1:]}
        openers.update(self._spellings.names(opened.removeprefix(shut)) if opened.startswith(shut) else ())
        return None if found.group() in openers else found.group()

    def _text(
        self, messages: Sequence[Message], options: Mapping[str, Any], *, add_generation_prompt: bool = True
    ) -> str:
        formed = [
            {**message, "content": _formed(message["content"], self._takes_parts(message["role"]))}
            for message in messages
        ]
        return self._checked(formed, options, add_generation_prompt)

    def _checked(self, formed: list[dict[str, Any]], options: Mapping[str, Any], add_generation_prompt: bool) -> str:
        try:
            return self._call(formed, add_generation_prompt=add_generation_prompt, options=options)
        except Exception as error:  # a template can fail in any way that Python can
            roles = ", ".join(message["role"] for message in formed)
            raise PromptError(
                f"the model's chat template refuses these messages (roles {roles}): {error}. "
                f"Expected turns that it knows, such as user and assistant in alternation."
            ) from error

    def _takes_parts(self, role: str) -> bool:
        """Whether the template wants a role's content as a list of parts, as those of models that see images do."""
        role = role if role in ("system", "assistant") else "user"
        if role not in self._parted:
            as_text, as_parts = (self._hears(role, parts) for parts in (False, True))
            self._parted[role] = as_parts and not as_text
        return self._parted[role]

    def _hears(self, role: str, parts: bool) -> bool:
        probe, other = _PROBES
        turns = [{"role": role, "content": _formed(probe, parts)}]
        if role != "user":
            around = {"role": "user", "content": _formed(other, self._takes_parts("user"))}
            turns = [*[around] * (role == "assistant"), *turns, around]
        try:
            heard = self._checked(turns, {}, True).casefold()
        except PromptError:
            return False
        return probe in heard and not re.search(r"""['"]type['"]: """, heard)  # a list written out as Python does

    def _check_heard(self, messages: Sequence[Message], options: Mapping[str, Any], text: str) -> None:
        """Refuse a text that would be the same whatever the user had asked."""
        *before, last = messages
        other = "".join(
            letter if letter.isspace() else "y" if letter in "xX" else "x" for letter in last["content"]
        )  # as long, and with the same space: what only counts characters hears nothing
        try:
            unheard = self._text([*before, Message(role=last["role"], content=other)], options) == text
        except PromptError:
            return  # another content is refused, so this one was looked at
        if unheard:
            raise PromptError(
                f"the model's chat template leaves the last user message out: {last['content'][:80]!r} or any other "
                f"text gives the same prompt. Expected a template that writes the content of user messages; open the "
                f"model with a template that does, or pass chat=False."
            )

    def _told_apart(
        self, messages: Sequence[Message], options: Mapping[str, Any], text: str, own: list[str]
    ) -> Rendered:
        """Find the template's own special tokens: a mark within each of the others does not change what it writes."""
        contents = [message["content"] for message in messages] + _texts(options)
        taken = set("".join([self._source, text, *contents]))
        mark = next(mark for mark in map(chr, range(_PRIVATE, 0x110000)) if mark not in taken)
        kinds = {kind for content in contents for _, kind in self._spellings.found(content)}

        def marked(kinds: set[str]) -> str | None:
            try:
                found = self._changed(messages, options, lambda content: self._spellings.broken(content, mark, kinds))
            except PromptError:
                return None
            return found if found.replace(mark, "") == text else None

        broken = marked(kinds)
        if broken is None:  # the template looks for one of them itself, such as the end of an answer's reasoning
            broken = marked({kind for kind in kinds if marked({kind}) is not None})
        if broken is None or self._spellings.names(broken) != own:
            raise PromptError(
                f"a message spells a special token of the model ({', '.join(sorted(kinds)) or 'after a change'}), and "
                f"the chat template changes it so that it cannot be told from the template's own. Write it differently."
            )
        spans = tuple(
            (match.start() - before, match.end() - before)
            for match in self._spellings.exact.finditer(broken)
            for before in [broken.count(mark, 0, match.start())]
        )
        return Rendered(text, spans)

    def _changed(self, messages: Sequence[Message], options: Mapping[str, Any], change: Callable[[str], str]) -> str:
        changed = [Message(role=message["role"], content=change(message["content"])) for message in messages]
        return self._text(changed, {name: _mapped(value, change) for name, value in options.items()})


def _formed(content: str, parts: bool) -> Any:
    return [{"type": "text", "text": content}] if parts else content


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with its texts changed; names stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, change) for name, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list | tuple) else value


def _texts(value: Any) -> list[str]:
    """The texts of JSON."""
    found: list[str] = []

    def take(text: str) -> str:
        found.append(text)
        return text

    _mapped(value, take)
    return found
