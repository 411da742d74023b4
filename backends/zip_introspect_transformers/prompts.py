"""How a transformers tokenizer encodes, for `zip_introspect.encoding`."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from zip_introspect import encoding

Encode = Callable[[str], list[int]]


class PromptEncoder(encoding.PromptEncoder):
    """Encodes prompts for one tokenizer.

    Args:
        tokenizer: the encoder's own. What it is told here holds for good: transformers keeps settings of one call in
            the tokenizer that its callers share.
        reserved: ids that never come out of a prompt's text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reserved: Collection[int]) -> None:
        self._tokenizer = tokenizer
        special = {*tokenizer.all_special_ids, *(item for item in reserved if item < len(tokenizer))}
        special |= {item for item, token in tokenizer.added_tokens_decoder.items() if token.special}
        spelled = {str(tokenizer.convert_ids_to_tokens(item) or ""): item for item in sorted(special)}
        template = tokenizer.chat_template
        around, alone = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
        self._special, self._make_plain = _calls(tokenizer)
        self._plain: Encode | None = None
        self._making = threading.Lock()
        super().__init__(
            template.get("default") if isinstance(template, dict) else template,
            spelled,
            opening=_before(around, alone),
            bos=tokenizer.bos_token_id,
            unknown=tokenizer.unk_token_id,
        )

    def render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, options: Mapping[str, Any]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        )

    def with_specials(self, text: str) -> list[int]:
        return self._special(text)

    def plain(self, text: str) -> list[int]:
        with self._making:  # few prompts need it, and of a large vocabulary it takes a second
            self._plain = self._plain or self._make_plain()
        return self._plain(text)


def _calls(tokenizer: PreTrainedTokenizerBase) -> tuple[Encode, Callable[[], Encode]]:
    """How to encode with special tokens, and how to come by what encodes without; neither is changed by a call."""
    if not tokenizer.is_fast:
        lock = threading.Lock()  # nobody knows what tokenizers in Python keep

        def slow(text: str, **settings: bool) -> list[int]:
            with lock:
                return list(tokenizer.encode(text, add_special_tokens=False, **settings))

        return slow, lambda: lambda text: slow(text, split_special_tokens=True)

    def calling(backend: Any) -> Encode:
        return lambda text: list(backend.encode(text, add_special_tokens=False).ids)

    def plain() -> Encode:
        other = copy.deepcopy(fast)
        other.encode_special_tokens = True
        return calling(other)

    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = False
    return calling(fast), plain


def _before(around: list[int], text: list[int]) -> list[int]:
    """What stands before a text in what a tokenizer makes of it."""
    for start in range(len(around) - len(text) + 1):
        if around[start : start + len(text)] == text:
            return around[:start]
    return []
