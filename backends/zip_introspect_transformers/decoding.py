"""The model's forward passes: prompts in shared batches, and intervals of steps without a look at the results."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from zip_introspect.errors import HeadError, ModelLoadError
from zip_introspect.heads.readout import Readout
from zip_introspect_transformers.cache.states import PaddedCache, State, new_cache, tolerates_padding, upload
from zip_introspect_transformers.fused import FusedStep
from zip_introspect_transformers.reading import TorchHead, Watched
from zip_introspect_transformers.sampling import TorchSampler, token_confidences
from zip_introspect_transformers.snapshot import Snapshot


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Let torch compute with so many threads of the CPU, within; None leaves their number alone."""
    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(eq=False)
class Span:
    """What some steps did, still on the device."""

    tokens: Tensor
    """(rows, steps) int32; beyond a row's `count` it is meaningless."""
    joint: Tensor
    """(rows, steps, cells) float32: the joint's logits after tokens[:, step]."""
    hidden: Tensor
    """(rows, steps, hidden size), where hidden states are kept: after tokens[:, step]."""
    sums: Tensor
    """(rows, hidden size) float32, where they are read: the sum of those after the prompt and each token since."""
    confidences: Tensor
    """(rows, steps, 2) float32, or of size 0 where no row asks for them: as `Advanced.confidences`."""
    count: Tensor
    """(rows,) int32: tokens drawn."""
    broken: Tensor
    """(rows,) bool: the logits after the last token drawn were not finite."""
    alive: Tensor
    """(rows,) bool: neither ended nor broken."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one row drew, in numpy."""

    tokens: NDArray[np.int32]
    joint: NDArray[np.float32]
    """(tokens, cells): row i is after tokens[i]; the last is meaningless where the row has ended."""
    hidden: NDArray[np.float32]
    """(tokens, hidden size), likewise; of size 0 where they are not kept."""
    confidences: NDArray[np.float32]
    """(tokens, 2); of size 0 where no row of the batch asks for them."""
    broken: bool


class Decoder:
    """Runs one model. All that it remembers of sequences is in the `State` it is given."""

    def __init__(self, model: PreTrainedModel, reading: Readout, eos: Sequence[int], prefill_tokens: int) -> None:
        self.model, self.reading = model, reading
        self.config = model.config.get_text_config(decoder=True)
        self._first, self._last = reading.reserved.start, reading.reserved.stop
        self._eos_ids = list(eos)
        self._filler = int(eos[0]) if eos else 0
        self.prefill_tokens = prefill_tokens
        self._exact_lengths = not tolerates_padding(self.config)
        parameters = inspect.signature(model.forward).parameters
        if "past_key_values" not in parameters:
            raise ModelLoadError(
                f"{type(model).__name__} keeps its state in a way of its own; expected a model whose forward takes "
                f"past_key_values, as attention, convolution and linear-attention models of transformers do"
            )
        self._takes_positions = "position_ids" in parameters
        self._watched: Watched | None = None
        if reading.hidden:
            if (output := model.get_output_embeddings()) is None:
                raise HeadError(f"{type(model).__name__} has no output head of its own, whose input a head could read")
            self._watched = Watched(output)
        self._keeps = "logits_to_keep" in parameters
        self._adopt()
        self.follow()

    def _adopt(self) -> None:
        """Note where the model lies."""
        self.device = self.model.device
        self._head = None if self.reading.head is None else TorchHead(self.reading.head, self.device)
        self.looks = self.device.type == "cpu"
        """Whether the host may look at results in mid-interval, for it waits for nothing by that."""
        self._eos = torch.tensor(self._eos_ids, dtype=torch.long, device=self.device)
        self._fused: FusedStep | None = None
        self._step: FusedStep | None = None
        """The fused step, where the next steps can take it."""
        self._tried = False  # whether the model has a fused step is not asked while somebody listens in on its modules
        self._seen = Snapshot(self.model)

    def follow(self) -> bool:
        """Take the model as it is now, before a call of the backend's.

        Returns:
            whether it was changed since: moved, cast, or with other modules or weights. States of before are of no
            use then.
        """
        changed: bool = self._seen.changed
        if changed:
            self._adopt()
        hooked = self._seen.hooked
        if not self._tried and not hooked:
            self._fused, self._tried = FusedStep.of(self.model), True
            self._seen = Snapshot(self.model)  # a step lays weights behind one another
        self._step = None if hooked else self._fused
        return changed

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], State]]:
        """States of prompts, several a batch; with each, the numbers of the prompts that are its rows."""
        for group in self._groups([len(prompt) for prompt in prompts]):
            lengths = [len(prompts[number]) for number in group]
            width = max(lengths)
            ids = np.full((len(group), width), self._filler, dtype=np.int64)
            for row, number in enumerate(group):
                ids[row, width - lengths[row] :] = prompts[number]
            state = State(new_cache(self.config), lengths, 0, torch.empty(0, device=self.device))
            columns = np.arange(width)[None, :] - (width - np.array(lengths))[:, None]
            mask = upload(columns >= 0, self.device) if min(lengths) < width else None
            positions = upload(columns.clip(0), self.device)
            state.logits, state.hidden = self._forward(upload(ids, self.device), state.cache, mask, positions)
            state.width = width
            yield group, state

    @torch.inference_mode()
    def extend(self, state: State, tokens: Sequence[Sequence[int]], sums: Tensor | None = None) -> None:
        """Let the rows of a state read as many further tokens each, shape (rows, n), in place.

        Args:
            sums: (rows, hidden size), to which the hidden states after these tokens are added.
        """
        ids = upload(np.array(tokens, dtype=np.int64), self.device)
        # A model that folds its past into a state takes several tokens at once from nothing only.
        parts = ids.split(1, dim=1) if self._exact_lengths else (ids,)
        for part in parts:
            count = part.shape[1]
            mask = state.padding_mask(count) if state.padded else None
            columns = np.array(state.lengths)[:, None] + np.arange(count)[None, :]
            state.cache.padded = mask is not None
            kept = 1 if sums is None else count
            state.logits, state.hidden = self._forward(part, state.cache, mask, upload(columns, self.device), kept)
            if sums is not None and self._watched is not None:
                sums += self._watched.seen().sum(1, dtype=torch.float32)
            state.width += count
            state.lengths = [length + count for length in state.lengths]

    @torch.inference_mode()
    def after_prompts(self, state: State) -> Tensor:
        """(rows, cells + 1 + hidden size) float32: the joint's logits, whether all logits are finite, what is kept."""
        return self._said(state, state.hidden.float())

    @torch.inference_mode()
    def read_further(
        self, state: State, tokens: Sequence[Sequence[int]], sums: Tensor | None, counts: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Let the rows of a state read as many given tokens each, in place.

        Args:
            sums: (rows, hidden size) of the hidden states after the prompt and each token since, where they are read.
            counts: of how many.

        Returns:
            what is said after the last token, as `after_prompts`, and the sums then.
        """
        if sums is None:
            self.extend(state, tokens)
            return self._said(state, state.hidden.float()), None
        self.extend(state, tokens, sums)
        lengths = upload(np.array(counts, np.float32) + len(tokens[0]), self.device)
        return self._said(state, sums / lengths[:, None]), sums

    def _said(self, state: State, means: Tensor) -> Tensor:
        finite = state.logits.isfinite().all(-1, keepdim=True).float()
        hidden = state.hidden.float()
        joint = self._head(hidden, means) if self._head else state.logits[:, self._first : self._last]
        return torch.cat((joint, finite, hidden if self.reading.keep else hidden[:, :0]), -1)

    @torch.inference_mode()
    def run(
        self,
        state: State,
        sampler: TorchSampler,
        uniforms: Tensor,
        alive: Tensor,
        sums: Tensor,
        counts: Tensor,
        confident: bool = False,
    ) -> Span:
        """Advance a state's rows in place by as many steps as `uniforms` (rows, steps) has columns.

        Args:
            sums: (rows, hidden size) of the hidden states after the prompt and each token since, of size 0 where none
                are read; counts (rows, 1): of how many.
            confident: whether some row asks for the confidences of its tokens.

        Rows that end go on with filler tokens that nobody reads, so that the host need not know. On the CPU, where
        knowing is free, the loop stops once every row has ended.
        """
        (rows, steps), width = uniforms.shape, state.width
        tokens = torch.zeros((rows, steps), dtype=torch.int32, device=self.device)
        cells = 0 if self._head else self._last - self._first
        reserved = torch.zeros((rows, steps, cells), device=self.device)
        hidden = torch.zeros((rows, steps, sums.shape[-1]), device=self.device, dtype=self.model.dtype)
        confidences = torch.zeros((rows, steps, 2 if confident else 0), device=self.device)
        count = torch.zeros(rows, dtype=torch.int32, device=self.device)
        broken = torch.zeros(rows, dtype=torch.bool, device=self.device)
        mask = state.padding_mask(steps) if state.padded else None
        positions = upload(np.array(state.lengths)[:, None], self.device)
        state.cache.padded = mask is not None
        forward = self._forward if self._step is None else self._step
        for step in range(steps):
            allowed = state.logits.clone()
            allowed[:, self._first : self._last] = -torch.inf
            drawn = sampler.draw(allowed, uniforms[:, step]).where(alive, self._filler)
            tokens[:, step] = drawn
            if confident:
                confidences[:, step] = token_confidences(allowed, drawn, self._last - self._first)
            count += alive
            alive = alive & ~(drawn[:, None] == self._eos).any(-1)
            if self.looks and not alive.any():
                break
            seen = None if mask is None else mask[:, : state.width + 1]
            state.logits, state.hidden = forward(drawn[:, None], state.cache, seen, positions + step)
            state.width += 1
            if self.reading.hidden:
                hidden[:, step] = state.hidden
            if cells:
                reserved[:, step] = state.logits[:, self._first : self._last]
            broken |= alive & ~state.logits.isfinite().all(-1)
            alive = alive & ~broken
        state.lengths = [length + state.width - width for length in state.lengths]
        joint = reserved
        if self.reading.hidden:
            running = sums[:, None] + hidden.cumsum(1, dtype=torch.float32)
            sums = running[:, state.width - width - 1] if state.width > width else sums
            if self._head:
                means = running / (counts[:, None] + torch.arange(1, steps + 1, device=self.device)[:, None])
                joint = self._head(hidden.float(), means)
        kept = hidden if self.reading.keep else hidden[:, :, :0]
        return Span(tokens, joint, kept, sums, confidences, count, broken, alive)

    def to_host(self, spans: Sequence[Span]) -> list[list[Drawn]]:
        """Bring spans down in one transfer, one `Drawn` a row; integers travel as the bits of floats."""
        parts = [
            part.to(torch.float32) if part.dtype == torch.bool else part.view(torch.float32)
            for span in spans
            for part in (span.tokens, span.joint, span.hidden.float(), span.confidences, span.count, span.broken)
        ]
        flat = torch.cat([part.flatten() for part in parts]).cpu().numpy()
        arrays = iter(np.split(flat, np.cumsum([part.numel() for part in parts])[:-1]))
        return [
            _rows(
                next(arrays).view(np.int32).reshape(tuple(span.tokens.shape)),
                next(arrays).reshape(tuple(span.joint.shape)),
                next(arrays).reshape(tuple(span.hidden.shape)),
                next(arrays).reshape(tuple(span.confidences.shape)),
                next(arrays).view(np.int32),
                next(arrays),
            )
            for span in spans
        ]

    def _groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Prompts of like lengths, within the token limit; of equal lengths where padding would enter a state."""
        group: list[int] = []
        for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
            longest = lengths[group[0]] if group else lengths[number]
            alike = lengths[number] == longest if self._exact_lengths else 2 * lengths[number] >= longest
            if group and (not alike or (len(group) + 1) * longest > self.prefill_tokens):
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    def _forward(
        self, ids: Tensor, cache: PaddedCache, mask: Tensor | None, positions: Tensor, kept: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Logits (rows, V) in float32 at the last column, and the hidden states there, where they are read.

        Args:
            kept: columns whose hidden states are to be seen, the last ones.
        """
        further: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
        if self._keeps:
            further["logits_to_keep"] = kept
        with self._watched.watching() if self._watched else nullcontext():
            output = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **further)
        logits: Tensor = output.logits[:, -1].float()
        return logits, self._watched.last() if self._watched else logits[:, :0]


def _rows(
    tokens: NDArray[np.int32],
    joint: NDArray[np.float32],
    hidden: NDArray[np.float32],
    confidences: NDArray[np.float32],
    count: NDArray[np.int32],
    broken: NDArray[np.float32],
) -> list[Drawn]:
    return [
        Drawn(tokens[row, :drawn], joint[row, :drawn], hidden[row, :drawn], confidences[row, :drawn], bool(broken[row]))
        for row, drawn in enumerate(count.tolist())
    ]
