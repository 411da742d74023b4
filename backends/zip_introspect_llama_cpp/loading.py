"""A GGUF file opened by llama.cpp: its weights, its vocabulary and what it says of itself."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp
from gguf import GGUFReader, TokenType
from gguf.constants import Keys

from zip_introspect.backend.detokenization import text_of
from zip_introspect.errors import BackendError, ModelLoadError
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect_llama_cpp import fingerprint, gguf_file
from zip_introspect_llama_cpp.gguf_file import value
from zip_introspect_llama_cpp.options import LlamaCppOptions

_NO_TOKEN = llama_cpp.LLAMA_TOKEN_ATTR_UNUSED
_SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_ERROR = 4  # ggml's log level; 3 is a warning


class _Log:
    """llama.cpp's log, which belongs to the process: errors are kept for messages, all else is dropped."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=20)
        self._lock = threading.Lock()
        self._callback = llama_cpp.llama_log_callback(self._take)

    def listen(self) -> None:
        """Forget the lines so far, and take what comes."""
        self.forget()
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def forget(self) -> None:
        """Forget the lines so far."""
        self._lines.clear()

    def said(self) -> str:
        """The errors since they were last forgotten, in one line."""
        with self._lock:
            return "; ".join(line for line in self._lines if line)[:600] or "llama.cpp gives no reason"

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if level == _ERROR:
            with self._lock:
                self._lines.append(" ".join(text.decode("utf-8", "replace").split()))


LOG = _Log()


class LlamaModel:
    """Weights and vocabulary.

    Raises:
        ModelLoadError: llama.cpp refuses the file; the message holds its reason.
    """

    def __init__(self, path: Path, reader: GGUFReader, options: LlamaCppOptions) -> None:
        self.path = path
        self._reader = reader
        self._in_use = threading.RLock()  # taken again where a collection within a call frees this very model
        LOG.listen()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = options.gpu_layers
        params.load_mode = params.load_mode if options.mmap else 0
        params.check_tensors = True
        params.use_extra_bufts = options.resolved_repack()
        handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise ModelLoadError(
                f"llama.cpp cannot load {path}: {LOG.said()}. Expected a text model of an architecture that it "
                f"knows; export it again, or upgrade llama-cpp-python ({llama_cpp.__version__})."
            )
        self.handle = handle
        if llama_cpp.llama_model_has_encoder(handle):
            self.close()
            raise ModelLoadError(f"{path} is a model with an encoder; expected one that only goes on from its text")
        self.vocab = llama_cpp.llama_model_get_vocab(handle)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        # Where a file names none, llama.cpp assumes those of GPT-2, whatever these tokens are here.
        named_eos, named_bos = (
            value(reader, key) is not None for key in (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.BOS_ID)
        )
        self.eos = int(llama_cpp.llama_vocab_eos(self.vocab)) if named_eos else -1
        self.bos = int(llama_cpp.llama_vocab_bos(self.vocab)) if named_bos else -1
        assumed = -1 if named_eos else int(llama_cpp.llama_vocab_eos(self.vocab))
        taken = [
            token
            for token in range(self.vocab_size)
            if token != assumed and llama_cpp.llama_vocab_is_eog(self.vocab, token)
        ]
        self.eos_ids = self._meant(taken)
        begins = bool(llama_cpp.llama_vocab_get_add_bos(self.vocab))
        assumed_bos = int(llama_cpp.llama_vocab_bos(self.vocab))
        kinds = [int(llama_cpp.llama_vocab_get_attr(self.vocab, token)) for token in range(self.vocab_size)]
        self.special_ids = frozenset(token for token, kind in enumerate(kinds) if kind & _SPECIAL)
        self.unused_ids = frozenset(token for token, kind in enumerate(kinds) if kind & _NO_TOKEN)
        if begins and self.bos < 0 and assumed_bos in self.special_ids:
            self.bos = assumed_bos  # SentencePiece's own, which few files name
        unknown = [token for token, kind in enumerate(kinds) if kind & llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN]
        self.unknown = unknown[0] if unknown else None
        self.opening = (self.bos,) if begins and self.bos >= 0 else ()
        self.device = "gpu" if options.gpu_layers and llama_cpp.llama_supports_gpu_offload() else "cpu"
        self._pieces: dict[int, bytes] = {}

    def _meant(self, ends: list[int]) -> tuple[int, ...]:
        """Those of llama.cpp's ends that are some in the file: it guesses by spelling, HTML's `</s>` among others.

        Control tokens are, tokens that the file names, and those that the chat template writes.
        """
        kinds = value(self._reader, Keys.Tokenizer.TOKEN_TYPE)
        named = {value(self._reader, key) for key in gguf_file.ENDS}
        template = self.template or ""
        meant = (
            token
            for token in ends
            if kinds is None or kinds[token] == TokenType.CONTROL or token in named or self.spelling(token) in template
        )
        return tuple(meant) or tuple(ends)

    @property
    def architecture(self) -> str:
        """As GGUF names it."""
        return str(value(self._reader, Keys.General.ARCHITECTURE))

    @property
    def template(self) -> str | None:
        """The chat template, in Jinja."""
        template = value(self._reader, Keys.Tokenizer.CHAT_TEMPLATE)
        return str(template) if template else None

    @cached_property
    def file_type(self) -> str:
        """The type of most weights, such as f32 or q8_0."""
        sizes: dict[str, int] = {}
        for tensor in self._reader.tensors:
            kind = tensor.tensor_type.name.lower()
            sizes[kind] = sizes.get(kind, 0) + int(tensor.n_elements)
        return max(sizes, key=lambda kind: sizes[kind])

    @property
    def parameters(self) -> int:
        """How many weights."""
        return int(llama_cpp.llama_model_n_params(self.handle))

    @property
    def context(self) -> int:
        """Tokens of the longest sequence that it was trained for."""
        return int(llama_cpp.llama_model_n_ctx_train(self.handle))

    @property
    def cuttable(self) -> int | None:
        """States of fewer tokens than this can be cut back to an earlier one; None is any state.

        Recurrent and hybrid states never can. Of a sliding window, llama.cpp gives cells away once it has moved past.
        """
        if llama_cpp.llama_model_is_recurrent(self.handle) or llama_cpp.llama_model_is_hybrid(self.handle):
            return 0
        return int(llama_cpp.llama_model_n_swa(self.handle)) or None

    @property
    def hidden_size(self) -> int:
        """Numbers of a hidden state."""
        return int(llama_cpp.llama_model_n_embd(self.handle))

    def fingerprint(self, token_ids: Sequence[int] | None = None) -> Fingerprint:
        """What tells this model from others."""
        layers = int(llama_cpp.llama_model_n_layer(self.handle))
        return fingerprint.taken(self._reader, self.architecture, layers, self.template, token_ids)

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return int(llama_cpp.llama_model_n_head(self.handle))

    def bytes_per_cell(self, bytes_per_number: float) -> int:
        """Memory of one token's keys and values, at the most."""
        layers, heads, width = (
            int(count(self.handle))
            for count in (llama_cpp.llama_model_n_layer, llama_cpp.llama_model_n_head, llama_cpp.llama_model_n_embd)
        )
        arch = self.architecture
        kept = value(self._reader, Keys.Attention.HEAD_COUNT_KV.format(arch=arch)) or heads
        heads_kept = sum(kept) if isinstance(kept, list) else layers * int(kept)
        lengths = (Keys.Attention.KEY_LENGTH, Keys.Attention.VALUE_LENGTH)
        numbers = sum(int(value(self._reader, key.format(arch=arch)) or width // max(heads, 1)) for key in lengths)
        return int(heads_kept * numbers * bytes_per_number)

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of a text, and nothing around it."""
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        with self._open():
            while True:
                buffer = (llama_cpp.llama_token * room)()
                count = llama_cpp.llama_tokenize(self.vocab, data, len(data), buffer, room, False, parse_special)
                if count >= 0:
                    return list(buffer[:count])
                room = -count

    def spelling(self, token: int) -> str:
        """A token's text, special or not; empty for -1, which is how llama.cpp says that there is none."""
        if token < 0:
            return ""
        text = llama_cpp.llama_vocab_get_text(self.vocab, token)
        return text.decode("utf-8", "replace") if text else ""

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        with self._open():
            return text_of(self.piece, tokens)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for, a space before a word among them; none for a special one."""
        if token not in self._pieces:
            with self._open():
                self._pieces[token] = self._read_piece(token)
        return self._pieces[token]

    def _read_piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = int(llama_cpp.llama_token_to_piece(self.vocab, int(token), buffer, room, 0, False))
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Keep the vocabulary from being freed by another thread while it is read."""
        with self._in_use:
            if not self.handle:
                raise BackendError("this backend is closed; open the model again")
            yield

    def close(self) -> None:
        """Free the weights, once no other thread reads the vocabulary."""
        with self._in_use:
            if self.handle:
                llama_cpp.llama_model_free(self.handle)
                self.handle = None
