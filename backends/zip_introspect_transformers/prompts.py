"""How a transformers tokenizer encodes, for `zip_introspect.backend.encoding`."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from zip_introspect.backend import encoding

Encode = Callable[[str], list[int]]


class TransformersPromptEncoder(encoding.PromptEncoder):
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
        self._special = _calling(tokenizer)
        self._plain: Encode | None = None
        self._making = threading.Lock()
        super().__init__(
            template.get("default") if isinstance(template, dict) else template,
            spelled,
            opening=_before(around, alone),
            bos=tokenizer.bos_token_id,
            ends=() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,),
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
        with self._making:  # few prompts need it
            self._plain = self._plain or self._calling_plain()
        return self._plain(text)

    def added(self, tokens: Collection[int]) -> dict[str, int]:
        known = self._tokenizer.added_tokens_decoder
        return {known[token].content: token for token in tokens if token in known and not known[token].special}

    def _calling_plain(self) -> Encode:
        if not self._tokenizer.is_fast:
            return lambda text: self._special(text, split_special_tokens=True)
        return _encoding(_plain_twin(self._tokenizer.backend_tokenizer, self._forbidden))


def _calling(tokenizer: PreTrainedTokenizerBase) -> Callable[..., list[int]]:
    """How to encode with special tokens; a call changes nothing."""
    if not tokenizer.is_fast:
        lock = threading.Lock()  # nobody knows what tokenizers in Python keep

        def slow(text: str, **settings: bool) -> list[int]:
            with lock:
                return list(tokenizer.encode(text, add_special_tokens=False, **settings))

        return slow
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = False
    return _encoding(fast)


def _encoding(backend: Tokenizer) -> Encode:
    return lambda text: list(backend.encode(text, add_special_tokens=False).ids)


def _plain_twin(fast: Tokenizer, special: Collection[int]) -> Tokenizer:
    """A tokenizer to which these tokens are text. It shares the vocabulary, of which a copy takes a second or more."""
    added = fast.get_added_tokens_decoder()
    twin = Tokenizer(fast.model)
    for part in ("normalizer", "pre_tokenizer"):
        if (shared := getattr(fast, part)) is not None:
            setattr(twin, part, shared)
    for is_text, run in groupby(sorted(added), special.__contains__):  # in runs: every call sorts all of them anew
        (twin.add_special_tokens if is_text else twin.add_tokens)([added[token] for token in run])
    if any(twin.token_to_id(known.content) != token for token, known in added.items()):  # numbered with gaps
        twin = copy.deepcopy(fast)
    twin.encode_special_tokens = True
    return twin


def _before(around: list[int], text: list[int]) -> list[int]:
    """What stands before a text in what a tokenizer makes of it."""
    for start in range(len(around) - len(text) + 1):
        if around[start : start + len(text)] == text:
            return around[:start]
    return []
