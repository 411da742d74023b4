"""What a transformers tokenizer's tokens say after a text.

`tokenizers.decoders.DecodeStream` does not do for this: it strips the first space, keeps the last half character for
itself, and fails where a byte that is no UTF-8 follows one that is ("Invalid prefix encountered").
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from zip_introspect.backend.detokenization import ByteStream, TextStream, WindowStream, text_of

_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
_BYTE_TOKENS = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
_EACH_TOKEN_ITS_OWN = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
"""Decoders that read every token by itself, but for the bytes and for what is stripped at the beginning."""


class TokenText:
    """Text of a tokenizer's tokens, special ones left out; see `Backend.decode` for the rule."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._start = self._harmless()
        self._start_text = self._plain(self._start)
        self._pieces: dict[int, bytes] = {}
        self._bytes = self._reader()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that follow a prompt."""
        return self._after_start(tokens) if self._bytes is None else text_of(self._piece, tokens)

    def stream(self) -> TextStream:
        """`decode` piece by piece."""
        return WindowStream(self._after_start) if self._bytes is None else ByteStream(self._piece)

    def _plain(self, tokens: Sequence[int]) -> str:
        ids = [int(token) for token in tokens]
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _harmless(self) -> list[int]:
        """Tokens of a text to decode others behind, so that it is their space that gets stripped."""
        for character in string.ascii_letters + string.digits + string.punctuation:
            tokens = list(self._tokenizer.encode(character, add_special_tokens=False))
            if self._plain(tokens).strip() == character:
                return tokens
        return []

    def _after_start(self, tokens: Sequence[int]) -> str:
        return self._plain([*self._start, *tokens])[len(self._start_text) :]

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            if self._bytes is None:
                raise AssertionError("asked for the bytes of a token of a vocabulary without them")
            said = bool(self._after_start([token]))  # special tokens say nothing, nor do rows without a token
            self._pieces[token] = self._bytes(int(token)) if said else b""
        return self._pieces[token]

    def _reader(self) -> Callable[[int], bytes] | None:
        """How a token's bytes are read; None where its text depends on what is beside it."""
        kinds = _decoders(self._tokenizer)
        if kinds and kinds <= {"ByteLevel", "Fuse"}:
            return self._of_byte_level
        if "ByteFallback" in kinds and kinds <= _EACH_TOKEN_ITS_OWN:
            return self._of_byte_fallback
        return None

    def _of_byte_level(self, token: int) -> bytes:
        spelling = str(self._tokenizer.convert_ids_to_tokens(token))
        found = [_BYTE_OF.get(character) for character in spelling]
        known = [byte for byte in found if byte is not None]
        return bytes(known) if len(known) == len(found) else spelling.encode("utf-8", "replace")

    def _of_byte_fallback(self, token: int) -> bytes:
        spelling = str(self._tokenizer.convert_ids_to_tokens(token))
        return _BYTE_TOKENS.get(spelling) or self._after_start([token]).encode("utf-8", "replace")


def _decoders(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The kinds of decoders of a fast tokenizer; none of a slow one."""
    decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return set()
    told = json.loads(decoder.__getstate__())
    return {str(item["type"]) for item in told.get("decoders", [told])}
