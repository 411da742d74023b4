"""How llama.cpp's tokenizer encodes, for `zip_introspect.encoding`; the chat template is the file's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jinja2.exceptions import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from zip_introspect import encoding
from zip_introspect.backend import Message
from zip_introspect.errors import ModelLoadError
from zip_introspect_llama_cpp.model import Model


class PromptEncoder(encoding.PromptEncoder):
    """Encodes prompts with a model's own vocabulary. `reserved` ids never come out of a prompt's text."""

    def __init__(self, model: Model, reserved: Collection[int]) -> None:
        self._model = model
        special = {*model.special_ids, *reserved}
        super().__init__(model.template, special | model.unused_ids, map(model.spelling, special))
        self._formatter: Jinja2ChatFormatter | None = None
        if model.template:
            try:
                self._formatter = Jinja2ChatFormatter(
                    model.template, eos_token=model.spelling(model.eos), bos_token=model.spelling(model.bos)
                )
            except TemplateError as error:
                raise ModelLoadError(f"the chat template of {model.path} is not valid Jinja: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        if self._formatter is None:
            raise AssertionError("asked to render without a template")
        try:
            # The formatter renders in a sandbox; a template of an untrusted file can fail, but not act.
            return str(self._formatter(messages=[dict(message) for message in messages]).prompt)
        except Exception as error:
            raise encoding.refused(messages, error) from error

    def with_specials(self, text: str) -> list[int]:
        return self._model.tokenize(text, add_special=False, parse_special=True)

    def plain(self, text: str) -> list[int]:
        return self._model.tokenize(text, add_special=False, parse_special=False)

    def bare(self, text: str) -> list[int]:
        ids = self._model.tokenize(text, add_special=True, parse_special=False)
        body = self.plain(text)
        safe = self.as_text(text)
        if safe == body:
            return ids
        for start in range(len(ids) - len(body) + 1):
            if ids[start : start + len(body)] == body:
                return [*ids[:start], *safe, *ids[start + len(body) :]]
        return safe
