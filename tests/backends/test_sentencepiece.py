"""A SentencePiece vocabulary under llama.cpp: the contract, and the text that transformers reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends import sentencepiece
from tests.backends.conftest import Exported
from zip_introspect.testing.conformance import BackendConformance
from zip_introspect_transformers.text import TokenText

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

from gguf import GGUFReader, GGUFWriter, TokenType
from gguf.constants import Keys

from zip_introspect_llama_cpp import LlamaCppBackend, gguf_file

CODE = "def add(a, b):\n    return a + b"


def with_sentence_pieces(source: Path, target: Path) -> Path:
    """A copy of a GGUF file with the small vocabulary in place of its own."""
    reader = GGUFReader(source)
    rows = len(gguf_file.value(reader, Keys.Tokenizer.LIST))
    writer = GGUFWriter(target, arch=gguf_file.value(reader, Keys.General.ARCHITECTURE))
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "tokenizer.")) or field.name == Keys.General.ARCHITECTURE:
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    texts = sentencepiece.tokens(rows)
    kinds = [
        TokenType.CONTROL
        if text in sentencepiece.CONTROL[1:]
        else TokenType.BYTE
        if text in sentencepiece.BYTES
        else TokenType.NORMAL
        for text in texts[: -sentencepiece.RESERVED]
    ]
    kinds[0] = TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    # The merges in their order: the higher a score, the earlier two tokens become one.
    merged = {"".join(pair): -1.0 - place for place, pair in enumerate(sentencepiece.MERGES)}
    writer.add_token_scores([merged.get(text, -1000.0) for text in texts])
    writer.add_token_types([*kinds, *[TokenType.CONTROL] * sentencepiece.RESERVED])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(True)
    writer.add_add_bos_token(False)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.fixture(scope="module")
def pieces(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppBackend]:
    target = tmp_path_factory.mktemp("pieces") / "pieces.gguf"
    backend = LlamaCppBackend.open(with_sentence_pieces(exported("llama"), target), threads=1, cells=1024)
    yield backend
    backend.close()


class TestConformance(BackendConformance):
    special_spellings = ("<s>", "</s>", "<reserved_0>")

    @pytest.fixture
    def backend(self, pieces: LlamaCppBackend) -> LlamaCppBackend:
        return pieces


def test_a_continuation_keeps_the_spaces_it_begins_with(pieces: LlamaCppBackend) -> None:
    for tokens, text in sentencepiece.CONTINUATIONS.items():
        assert pieces.decode(sentencepiece.ids(*tokens)) == text


def test_code_keeps_its_indentation_wherever_it_is_continued(pieces: LlamaCppBackend) -> None:
    whole = sentencepiece.tokenizer("llama").encode(CODE, add_special_tokens=False)
    assert pieces.encode(CODE, chat=False) == whole
    for cut in range(len(whole) + 1):
        assert pieces.decode(whole[:cut]) + pieces.decode(whole[cut:]) == f" {CODE}"


@pytest.mark.parametrize("kind", ["llama", "gemma", "bytes_then_metaspace"])
def test_both_backends_read_tokens_alike(kind: str, pieces: LlamaCppBackend) -> None:
    reading = TokenText(sentencepiece.tokenizer(kind))

    @given(st.lists(st.integers(0, sentencepiece.ROWS - 1), max_size=20))
    def alike(tokens: list[int]) -> None:
        assert reading.decode(tokens) == pieces.decode(tokens)

    alike()
