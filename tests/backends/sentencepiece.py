"""A small SentencePiece vocabulary with byte fallback, as fast tokenizers of several kinds."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
ROWS = 384
RESERVED = 64
CONTROL = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MERGES = (
    *((SPACE * size, SPACE * size) for size in (1, 2)),
    *((SPACE, letter) for letter in "abdr"),
    ("d", "e"),
    ("de", "f"),
    (SPACE, "def"),
    ("r", "e"),
    ("t", "u"),
    ("tu", "r"),
    ("tur", "n"),
    ("re", "turn"),
)
LETTERS = "abcdefghijklmnoprstu(),+:=é"
PIECES = (SPACE, *LETTERS, *("".join(pair) for pair in MERGES))

DECODERS = {
    # As of Llama 2 and Mistral, of Gemma, and of a conversion with bytes before the spaces.
    "llama": decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
    "gemma": decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]),
    "bytes_then_metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(SPACE, "always")]),
    # Without bytes, as of T5: its tokens have no bytes of their own to be read by.
    "metaspace": decoders.Metaspace(SPACE, "always"),
}

CONTINUATIONS = {
    (SPACE * 4, "return"): "    return",
    (SPACE + "a",): " a",
    (SPACE,): " ",
    ("<s>", SPACE + "a", "</s>"): " a",
    ("re", "turn"): "return",
}
"""What tokens say that follow a prompt."""


def tokens(rows: int) -> list[str]:
    """The vocabulary, filled up to so many rows, the reserved ones last."""
    known = [*CONTROL, *BYTES, *PIECES]
    filler = [f"filler{number}" for number in range(rows - len(known) - RESERVED)]
    return [*known, *filler, *(f"<reserved_{number}>" for number in range(RESERVED))]


def tokenizer(kind: str, rows: int = ROWS) -> PreTrainedTokenizerFast:
    """A fast tokenizer with one of `DECODERS`."""
    vocabulary = {text: number for number, text in enumerate(tokens(rows))}
    made = Tokenizer(models.BPE(vocabulary, list(MERGES), byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.decoder = DECODERS[kind]
    special = [*CONTROL, *tokens(rows)[-RESERVED:]]
    made.add_special_tokens([AddedToken(text, special=True) for text in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def ids(*texts: str) -> list[int]:
    """The ids of tokens by their spellings."""
    return [tokens(ROWS).index(text) for text in texts]
