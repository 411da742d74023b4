"""How a transformers tokenizer encodes, for `zip_introspect.encoding`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from zip_introspect import encoding
from zip_introspect.backend import Message


class PromptEncoder(encoding.PromptEncoder):
    """Encodes prompts for one tokenizer. `forbidden` ids (the reserved ones) never come out of a prompt's text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, forbidden: Collection[int]) -> None:
        self._tokenizer = tokenizer
        special = {*tokenizer.all_special_ids, *(item for item in forbidden if item < len(tokenizer))}
        special |= {item for item, token in tokenizer.added_tokens_decoder.items() if token.special}
        spellings = [str(text) for text in tokenizer.convert_ids_to_tokens(sorted(special)) if text]
        template = tokenizer.chat_template
        super().__init__(str(template) if template else None, special, spellings)

    def render(self, messages: Sequence[Message]) -> str:
        plain: list[dict[str, Any]] = [{**message} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise encoding.refused(messages, error) from error

    def with_specials(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def bare(self, text: str) -> list[int]:
        if not self.spells_special(text):
            return list(self._tokenizer.encode(text))
        # What the tokenizer puts around a text (a beginning-of-sequence token, say) is learnt from a harmless one.
        probe = list(self._tokenizer.encode("a", add_special_tokens=False))
        around = list(self._tokenizer.encode("a"))
        for start in range(len(around) - len(probe) + 1):
            if around[start : start + len(probe)] == probe:
                return [*around[:start], *self.as_text(text), *around[start + len(probe) :]]
        return self.as_text(text)
