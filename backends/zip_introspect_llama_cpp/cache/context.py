"""A llama.cpp context: one set of cells for all sequences, one call for all their next tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import BackendError, HeadError, ModelLoadError
from zip_introspect_llama_cpp.loading import LOG, LlamaModel
from zip_introspect_llama_cpp.options import CacheType, LlamaCppOptions, free_memory

_TYPES: dict[CacheType, tuple[int, float]] = {
    "f32": (llama_cpp.GGML_TYPE_F32, 4),
    "f16": (llama_cpp.GGML_TYPE_F16, 2),
    "q8_0": (llama_cpp.GGML_TYPE_Q8_0, 34 / 32),
}
_PAD = 256
# As a plain number: a ctypes pointer takes as long to make as all else of a step.
_logits_address, _hidden_address = (
    ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(ctypes.cast(function, ctypes.c_void_p).value or 0)
    for function in (llama_cpp.llama_get_logits, llama_cpp.llama_get_embeddings)
)
_NO_ROOM = 1  # what llama_decode returns when there are too few cells


FEW = 1024
"""Cells of one sequence beside which fused attention is the faster one on a CPU."""


class Context:
    """Cells, slots (llama.cpp's sequence ids) and the buffers of logits and hidden states.

    Args:
        hidden: whether the last hidden states are read too, behind the final norm.

    Raises:
        BackendError: llama.cpp cannot make it, most often for want of memory.
    """

    def __init__(self, model: LlamaModel, options: LlamaCppOptions, *, hidden: bool = False) -> None:
        self.hidden_size = model.hidden_size if hidden else 0
        cache = options.cache_type or ("f32" if model.file_type == "f32" else "f16")
        kind, size = _TYPES[cache]
        longest = min(model.context, options.max_context or model.context)
        wanted = options.resolved_cells(longest, model.bytes_per_cell(size))
        wanted = -(-wanted // _PAD) * _PAD  # llama.cpp pads too, but takes other limits from what it was given
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = wanted, options.slots
        params.n_batch = max(options.batch_size, options.slots)
        params.n_ubatch = min(params.n_ubatch, params.n_batch)
        params.n_outputs_max = min(options.slots, params.n_batch)
        params.n_threads = params.n_threads_batch = options.resolved_threads()
        params.type_k = params.type_v = kind
        params.kv_unified = True  # samples of one prompt share its cells
        params.no_perf = True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        scores = model.heads * wanted * params.n_ubatch * 4  # bytes, of a batch's attention to all cells
        # On a CPU, fused attention computes few tokens beside many cells two to six times as slowly, and beside few
        # cells a tenth faster.
        slower = model.device == "cpu" and cache == "f16" and longest > FEW and scores <= free_memory() // 4
        if options.flash_attention is not None or cache == "f32" or slower:
            params.flash_attn_type = int(options.flash_attention or False)
        memory = wanted * model.bytes_per_cell(size)
        if model.device == "cpu" and memory > free_memory():
            raise BackendError(
                f"{wanted} cells of {model.path} take {memory >> 20} MiB, and {free_memory() >> 20} MiB of memory are "
                f"free. Open the model with fewer cells."
            )
        LOG.listen()
        self._handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise BackendError(
                f"llama.cpp cannot make a context of {wanted} cells ({memory >> 20} MiB) for {model.path}: "
                f"{LOG.said()}. Open the model with fewer cells, slots or gpu_layers."
            )
        if not llama_cpp.llama_get_memory(self._handle):
            self.close()
            raise ModelLoadError(f"{model.path} keeps no state from token to token; expected a model that writes text")
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self.vocab_size = model.vocab_size
        self.cells = int(llama_cpp.llama_n_ctx(self._handle))
        self.max_context = min(longest, self.cells)
        self.slots = options.slots
        self.batch_size = int(llama_cpp.llama_n_batch(self._handle))
        self._fill_batch()

    def _fill_batch(self) -> None:
        """A llama_batch over arrays of ours, made once: writing a step is four assignments to slices."""
        size = self.batch_size
        self._tokens, self._positions, self._slots = (np.zeros(size, np.int32) for _ in range(3))
        self._ones, self._wanted = np.ones(size, np.int32), np.zeros(size, np.int8)
        self._places = (self._slots.ctypes.data + np.arange(size) * self._slots.itemsize).astype(np.uintp)
        batch = self._batch = llama_cpp.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._ones),
            ("seq_id", self._places),
            ("logits", self._wanted),
        ):
            kind = dict(llama_cpp.llama_batch._fields_)[name]
            setattr(batch, name, ctypes.cast(array.ctypes.data, kind))
        self._seats = self._positions[:0]
        self._views: dict[int, NDArray[np.float32]] = {}

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        slots: NDArray[np.int32],
        wanted: NDArray[np.bool_] | bool,
    ) -> NDArray[np.float32]:
        """Compute tokens at their positions of their slots, at most `batch_size` of them.

        Args:
            wanted: whether a token's logits are asked for.

        Returns:
            shape (wanted tokens, V): a view of llama.cpp's buffer in the order of the tokens, good until the next call.

        Raises:
            BackendError: out of cells, or a failure of llama.cpp's.
        """
        count, rows = len(tokens), int(np.broadcast_to(wanted, len(tokens)).sum())
        if not self._handle:
            raise BackendError("this backend is closed; open the model again")
        if count > self.batch_size or rows > self.slots:
            raise BackendError(
                f"{count} tokens and {rows} rows of logits were asked for in one call; expected at most "
                f"{self.batch_size} and {self.slots}"
            )
        self._tokens[:count], self._positions[:count], self._slots[:count] = tokens, positions, slots
        self._wanted[:count] = wanted
        self._batch.n_tokens = count
        LOG.forget()
        self._compute()
        return self._logits(rows)

    def check_hidden(self, architecture: str) -> None:
        """Compute a token, to see whether logits and hidden states come together.

        Raises:
            HeadError: they do not.
        """
        first, wanted = np.zeros(1, np.int32), np.ones(1, np.bool_)
        self.read_hidden(True)
        found = self.decode(first, first, first, wanted).any() and self.hidden(1).any()
        self.clear()
        if not found:
            self.close()
            raise HeadError(
                f"of {architecture} models llama.cpp gives no logits beside its hidden states, so a head cannot be "
                f"laid over them here. Open the checkpoint with the transformers backend, or attach the head to it."
            )

    def read_hidden(self, wanted: bool) -> None:
        """Whether the next calls give hidden states. llama.cpp then takes every token of them for one that is asked
        for."""
        if self.hidden_size and self._handle:
            llama_cpp.llama_set_embeddings(self._handle, wanted)

    def hidden(self, rows: int) -> NDArray[np.float32]:
        """The hidden states behind the logits of the last call, shape (rows, hidden size): a view, as those are."""
        return self._rows(_hidden_address(self._handle), rows, self.hidden_size)

    def seat(self, slots: NDArray[np.int32], positions: NDArray[np.int32]) -> None:
        """Say whose next tokens `step` computes, and where; good until the next call of `decode` or `seat`."""
        count = len(slots)
        self._slots[:count], self._positions[:count], self._wanted[:count] = slots, positions, True
        self._seats = self._positions[:count]
        self._batch.n_tokens = count
        LOG.forget()

    def step(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Compute one token of every seated slot; returns and raises as `decode`."""
        self._tokens[: len(tokens)] = tokens
        self._compute()
        self._seats += 1
        return self._logits(len(tokens))

    def _compute(self) -> None:
        status = llama_cpp.llama_decode(self._handle, self._batch)
        if status:
            count = self._batch.n_tokens
            reason = f"no room for {count} tokens in {self.cells} cells" if status == _NO_ROOM else LOG.said()
            raise BackendError(
                f"llama.cpp failed to compute {count} tokens (status {status}: {reason}). No token was lost. "
                f"Advance fewer at a time, or open the model with more cells."
            )

    def _logits(self, rows: int) -> NDArray[np.float32]:
        """The rows of llama.cpp's buffer, which stays where it is from call to call as a rule."""
        return self._rows(_logits_address(self._handle), rows, self.vocab_size)

    def _rows(self, address: int, rows: int, width: int) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, width), np.float32)
        view = self._views.get(address)
        if view is None or view.shape != (rows, width):
            numbers = (ctypes.c_float * (rows * width)).from_address(address)
            if len(self._views) > 1:
                self._views.clear()
            view = self._views[address] = np.ctypeslib.as_array(numbers).reshape(rows, width)
        return view

    def share(self, source: int, target: int, length: int) -> None:
        """Let a slot hold the first `length` tokens of another; no cell is copied."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def forget(self, slot: int) -> None:
        """Empty a slot; cells that no other slot holds become free."""
        if self._handle:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def clear(self) -> None:
        """Empty every slot, and wipe the cells: what is not finite in them would reach others through the mask."""
        if self._handle:
            llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the cells."""
        if self._handle:
            llama_cpp.llama_free(self._handle)
            self._handle = None


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
