"""How llama.cpp's tokenizer encodes, for `zip_introspect.backend.encoding`; the chat template is the file's own."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import llama_cpp
from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zip_introspect.backend import encoding
from zip_introspect.errors import ModelLoadError
from zip_introspect.prompts import Message
from zip_introspect_llama_cpp.loading import LlamaModel

_NOW: ContextVar[datetime | None] = ContextVar("the time of the prompt being encoded", default=None)


class LlamaCppPromptEncoder(encoding.PromptEncoder):
    """Encodes prompts with a model's own vocabulary. `reserved` ids never come out of a prompt's text.

    Raises:
        ModelLoadError: the chat template is not Jinja.
    """

    def __init__(self, model: LlamaModel, reserved: Collection[int]) -> None:
        self._model = model
        if model.template:
            self._compiled = _compiled(model)
        special = sorted({*model.special_ids, *reserved})
        super().__init__(
            model.template,
            {model.spelling(token): token for token in special},
            never={*special, *model.unused_ids},
            opening=model.opening,
            bos=model.bos if model.bos >= 0 else None,
            ends=model.eos_ids,
            unknown=model.unknown,
        )

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """As `encoding.PromptEncoder.encode`; the template's clock stands still."""
        before = _NOW.set(datetime.now())
        try:
            return super().encode(prompt, chat=chat, chat_template_kwargs=chat_template_kwargs)
        finally:
            _NOW.reset(before)

    def render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, options: Mapping[str, Any]) -> str:
        given = {"tools": None, "documents": None, **options}
        return self._compiled.render(messages=messages, add_generation_prompt=add_generation_prompt, **given)

    def with_specials(self, text: str) -> list[int]:
        return self._model.tokenize(text, parse_special=True)

    def plain(self, text: str) -> list[int]:
        return self._model.tokenize(text, parse_special=False)

    def added(self, tokens: Collection[int]) -> dict[str, int]:
        attribute, vocab = llama_cpp.llama_vocab_get_attr, self._model.vocab
        return {
            self._model.spelling(token): token
            for token in tokens
            if attribute(vocab, token) & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        }


class _Generation(Extension):
    """`{% generation %}`, with which transformers marks an assistant's words for training: its body, as it is."""

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compiled(model: LlamaModel) -> Template:
    """A model's template with what transformers, for which templates are written, gives them.

    It renders in a sandbox: a template of an untrusted file can fail, but not act.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise,
        strftime_now=_strftime_now,
        bos_token=model.spelling(model.bos),
        eos_token=model.spelling(model.eos),
    )
    try:
        return environment.from_string(model.template or "")
    except TemplateError as error:
        raise ModelLoadError(f"the chat template of {model.path} is not valid Jinja: {error}") from error


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return (_NOW.get() or datetime.now()).strftime(pattern)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
