"""What generated tokens say: the same text from every kind of tokenizer, whole and piece by piece."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.backends import sentencepiece
from zip_introspect_transformers.text import TokenText

RUNS = st.lists(st.integers(0, 383), max_size=20)


@cache
def reading(kind: str) -> TokenText:
    return TokenText(sentencepiece.tokenizer(kind))


@pytest.mark.parametrize("kind", sentencepiece.DECODERS)
def test_a_continuation_keeps_the_spaces_it_begins_with(kind: str) -> None:
    for tokens, text in sentencepiece.CONTINUATIONS.items():
        assert reading(kind).decode(sentencepiece.ids(*tokens)) == text


@given(tokens=RUNS, sizes=st.lists(st.integers(1, 5), max_size=20))
@pytest.mark.parametrize("kind", sentencepiece.DECODERS)
def test_the_pieces_of_a_stream_are_the_text(kind: str, tokens: list[int], sizes: list[int]) -> None:
    left, seen = list(tokens), ""
    stream = reading(kind).stream()
    for size in sizes:
        seen += stream.step(left[:size])
        del left[:size]
    assert seen + stream.step(left) + stream.end() == reading(kind).decode(tokens)


@given(st.text("ab def\nreturn(),+é€🙂日"))
@pytest.mark.parametrize("kind", ["llama", "gemma", "bytes_then_metaspace"])
def test_what_is_whole_is_read_as_the_tokenizer_reads_it(kind: str, text: str) -> None:
    tokenizer = sentencepiece.tokenizer(kind)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert reading(kind).decode(tokens) == (f" {text}" if tokens else "")
    assert reading(kind).decode(tokens).lstrip(" ") == tokenizer.decode(tokens).lstrip(" ")  # type: ignore[union-attr]


@given(st.lists(st.integers(0, 383), max_size=20))
def test_byte_level_text_is_the_tokenizers_own(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> None:
    assert TokenText(tokenizer).decode(tokens) == tokenizer.decode(tokens, skip_special_tokens=True)


def test_added_tokens_are_text_and_special_ones_are_not() -> None:
    made = Tokenizer(models.BPE({character: n for n, character in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("日本 語", special=False)])
    made.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")
    tokens = tokenizer.encode("<think>é日本 語<|end|>x", add_special_tokens=False)
    assert TokenText(tokenizer).decode(tokens) == "<think>é日本 語x"
    assert TokenText(tokenizer).decode([10**6, *tokens]) == "<think>é日本 語x", "a row without a token says nothing"


def test_word_pieces_are_read_beside_what_they_follow() -> None:
    words = ["[UNK]", "a", "##b", "##.", "c", "."]
    made = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    words_read = TokenText(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]"))
    tokens = [1, 2, 4, 5, 1]
    stream = words_read.stream()
    assert words_read.decode(tokens) == " ab c. a"
    assert "".join([*(stream.step([token]) for token in tokens), stream.end()]) == " ab c. a"
