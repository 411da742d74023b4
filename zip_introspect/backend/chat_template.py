"""Chat templates as what they are: programs of somebody else's, which see the contents and may do anything with them.

A template is shown the messages as they are, whatever keys they have. What it made of them is then checked: that the
last user message can be heard in the text, and which of the text's special tokens the template itself wrote. The others
are a user's spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

from zip_introspect.backend.spellings import Spellings
from zip_introspect.errors import PromptError
from zip_introspect.prompts import Message

_PROBES = ("quartzsphinx", "vexingjudge")
"""Texts that a template can write in capitals or trim, but not make by itself."""
_TURNS = [Message(role=role, content=text) for role, text in zip(("user", "assistant"), _PROBES, strict=True)]
_CHANGING = re.compile(r"strftime_now|\brandom\b")
"""What templates write that is another thing the next time."""
_TRIES = 3
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


class ChatTemplate:
    """One model's template.

    Args:
        source: its text.
        render: calls it.
        spellings: of the special tokens.
    """

    def __init__(self, source: str, render: Render, spellings: Spellings) -> None:
        self._source, self._call, self._spellings = source, render, spellings
        self._changes = bool(_CHANGING.search(source))
        self._parted: dict[str, bool] = {}

    def render(self, messages: Sequence[Message], options: Mapping[str, Any]) -> Rendered:
        """The text of a conversation, up to where the answer begins.

        Raises:
            PromptError: the template refuses the messages, leaves the last one out, or makes such use of a text that
                spells a special token that the template's own cannot be told from it.
        """
        self._check_names(messages, options)
        rendered, fault = self._attempt(messages, options)
        if not self._changes:
            return _result(rendered, fault)
        for _ in range(_TRIES):  # what is compared has to be of one moment
            if self._text(messages, options) == rendered.text:
                return _result(rendered, fault)
            rendered, fault = self._attempt(messages, options)
        if fault is not None:
            raise PromptError(
                f"the model's chat template writes another text at every call, as with a clock, so that nothing can be "
                f"compared: {fault}"
            ) from fault
        return rendered

    def _attempt(self, messages: Sequence[Message], options: Mapping[str, Any]) -> tuple[Rendered, PromptError | None]:
        """A rendering, and what speaks against it."""
        text = self._text(messages, options)
        rendered = Rendered(text, tuple(match.span() for match in self._spellings.exact.finditer(text)))
        try:
            self._check_heard(messages, options, text)
            if any(map(self._spellings.begun, _texts([*messages, options]))):
                own = self._spellings.names(self._changed(messages, options, self._spellings.without))
                if self._spellings.names(text) != own:
                    rendered = self._told_apart(messages, options, text, own)
        except PromptError as fault:
            return rendered, fault
        return rendered, None

    def closing(self) -> str | None:
        """The special token that follows an assistant's words at once; None where none does, or where it opens turns.

        With it the model was taught to end its answers, whatever else its files say.
        """
        question, answer = _PROBES
        try:
            shut, opened = (self._text(_TURNS, {}, add_generation_prompt=more) for more in (False, True))
        except PromptError:
            return None
        before, _, rest = shut.partition(question)
        between, said, after = rest.partition(answer)
        found = self._spellings.exact.match(after.lstrip())
        if not said or found is None:
            return None
        names = self._spellings.names
        prompted = opened.removeprefix(shut) if opened.startswith(shut) else ""
        openers = {*names(before)[-1:], *names(between)[-1:]}
        if shuts := self._spellings.exact.match(between.lstrip()):  # what closes the user's turn opens none
            has_header = between.lstrip()[shuts.end() :].strip()
            openers -= {shuts.group()} if has_header and (prompted or shuts.group() not in names(before)) else set()
        return None if found.group() in openers.union(names(prompted)) else found.group()

    def written(self) -> str:
        """What the template may write: its source, and what it makes of one question with and without an answer."""
        made = [self._source]
        for turns, prompted in ((_TURNS[:1], True), (_TURNS, False), (_TURNS, True)):
            try:
                made.append(self._text(turns, {}, add_generation_prompt=prompted))
            except PromptError:  # a template that takes no such turns is looked at as it stands
                continue
        return "\n".join(made)

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
            heard = self._text([*before, _with_content(last, other)], options)
            unheard = heard == text
            if len(heard) != len(text):  # it has cut something away: perhaps all of it
                nothing = self._text([*before, _with_content(last, "")], options)
                unheard = "".join(nothing.split()) == "".join(text.split())
        except PromptError:
            return  # another content is refused, so this one was looked at
        if unheard:
            raise PromptError(
                f"the model's chat template leaves the last user message out: {last['content'][:80]!r} gives "
                f"the same prompt as another text, or as none. Expected a template that writes the content of user "
                f"messages; open the model with a template that does, or pass chat=False."
            )

    def _told_apart(
        self, messages: Sequence[Message], options: Mapping[str, Any], text: str, own: list[str]
    ) -> Rendered:
        """Find the template's own special tokens: a mark within each of the others does not change what it writes."""
        contents = _texts([*messages, options])
        taken = set("".join([self._source, text, *contents]))
        mark = next(mark for mark in map(chr, range(_PRIVATE, 0x110000)) if mark not in taken)
        spelled = set[str]().union(*map(self._spellings.kinds, contents))
        kinds = spelled & self._spellings.kinds(text)

        def marked(kinds: set[str], *, late: bool = False) -> str | None:
            def change(content: str) -> str:
                return self._spellings.broken(content, mark, kinds, late=late)

            try:
                found = self._changed(messages, options, change)
            except PromptError:
                return None
            return found if found.replace(mark, "") == text else None

        broken = marked(kinds) or marked(kinds, late=True)
        if broken is None:  # the template looks for one of them itself, such as the end of an answer's reasoning
            mine = self._spellings.kinds(self._written)
            broken = marked(kinds - {kind for kind in kinds & mine if marked({kind}) is None})
        if broken is None or self._spellings.names(broken) != own:
            raise PromptError(
                f"a message spells a special token of the model ({', '.join(sorted(spelled)) or 'after a change'}), "
                f"and the chat template changes it so that it cannot be told from the template's own. Write it "
                f"differently."
            )
        return Rendered(text, tuple(_without_marks(broken, mark, self._spellings)))

    @cached_property
    def _written(self) -> str:
        return self.written()

    def _changed(self, messages: Sequence[Message], options: Mapping[str, Any], change: Callable[[str], str]) -> str:
        changed = [cast("Message", {**_mapped(dict(message), change), "role": message["role"]}) for message in messages]
        return self._text(changed, _mapped(options, change))

    def _check_names(self, messages: Sequence[Message], options: Mapping[str, Any]) -> None:
        """Refuse what cannot be changed to see what becomes of it, since templates know things by it."""
        for what, names in (
            ("role", [message["role"] for message in messages]),
            ("key", _names([*messages, options])),
        ):
            for name in names:
                if self._spellings.threatens(name):
                    raise PromptError(
                        f"the {what} {name[:80]!r} spells a special token of the model, or begins one; expected a name "
                        f"without. Only what stands in texts can be kept apart from the chat template's own."
                    )


def _result(rendered: Rendered, fault: PromptError | None) -> Rendered:
    if fault is not None:
        raise fault
    return rendered


def _without_marks(text: str, mark: str, spellings: Spellings) -> Iterator[tuple[int, int]]:
    """Begin and end of the special tokens in a text, where they are once the marks are taken out."""
    marks = last = 0
    for match in spellings.exact.finditer(text):
        marks, last = marks + text.count(mark, last, match.start()), match.start()
        yield match.start() - marks, match.end() - marks


def _with_content(message: Message, content: str) -> Message:
    return cast("Message", {**message, "content": content})


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


def _names(value: Any) -> Iterator[str]:
    """The names of JSON."""
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _names(item)
    if isinstance(value, Mapping):
        yield from map(str, value)
