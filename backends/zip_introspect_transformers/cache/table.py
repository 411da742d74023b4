"""The sequences of a backend and the states they share: assembling batches, shrinking, evicting, recomputing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from zip_introspect.backend.contract import SequenceId
from zip_introspect.backend.sequences import Sample, Sequences
from zip_introspect.errors import BackendError
from zip_introspect_transformers.cache.states import State, join, joinable
from zip_introspect_transformers.decoding import Decoder


@dataclass(eq=False)
class Row(Sample):
    """A sample, and the row of a state that remembers it."""

    state: State | None = None
    """None once evicted: recomputed from the tokens when it is needed."""
    row: int = 0


def place(samples: Sequence[Row], state: State) -> None:
    """Let the rows of a state be these samples'."""
    for row, sample in enumerate(samples):
        sample.state, sample.row = state, row


class SequenceTable(Sequences[Row]):
    """All unreleased sequences. Rows of a state are shared by forks until somebody advances."""

    def __init__(self, decoder: Decoder, max_sequences: int | None, max_state_bytes: int | None) -> None:
        super().__init__(max_sequences)
        self._decoder = decoder
        self._max_state_bytes = max_state_bytes

    def release(self, sequences: Iterable[SequenceId]) -> None:
        """Forget sequences, unknown ones passed over."""
        states = {id(sample.state): sample.state for sample in self.pop(sequences)}
        for state in states.values():
            if state is not None:
                self._shrink(state)

    def compute(self, samples: Iterable[Row]) -> None:
        """Compute the states of samples from their tokens, equal ones once."""
        alike: dict[tuple[int, ...], list[Row]] = {}
        for sample in samples:
            alike.setdefault(tuple(sample.tokens), []).append(sample)
        distinct = list(alike)
        for numbers, state in self._decoder.prefill(distinct):
            for row, number in enumerate(numbers):
                for sample in alike[distinct[number]]:
                    sample.state, sample.row = state, row

    def reserved_logits(self, samples: Sequence[Row], first: int, last: int) -> list[NDArray[np.float32]]:
        """Logits `first` to `last - 1` after each sample's last token; NaN where any logit is not finite."""
        states = {id(sample.state): sample.state for sample in samples if sample.state is not None}
        if not states:
            return []
        parts = [
            state.logits[:, first:last].where(state.logits.isfinite().all(-1, keepdim=True), torch.nan)
            for state in states.values()
        ]
        offsets = dict(zip(states, np.cumsum([0, *(len(part) for part in parts)]), strict=False))
        rows = torch.cat(parts).cpu().numpy()
        return [rows[offsets[id(sample.state)] + sample.row].copy() for sample in samples]

    def batches(self, samples: Sequence[Row]) -> list[tuple[State, list[Row]]]:
        """States that hold these samples alone, one batch if that can be, each with its rows' samples.

        A state whose rows are these samples and nobody else's is used as it is.
        """
        self.compute(sample for sample in samples if sample.state is None)
        members: dict[int, list[Row]] = {}
        for sample in samples:
            members.setdefault(id(sample.state), []).append(sample)
        users = Counter(id(sample.state) for sample in self)
        parts: list[tuple[State, list[Row]]] = []
        for identity, group in members.items():
            rows, state = [sample.row for sample in group], group[0].state
            if state is None:
                raise AssertionError("a state that was just computed is missing")
            if users[identity] == len(group) == len(state.lengths) == len(set(rows)):
                parts.append((state, sorted(group, key=lambda sample: sample.row)))
            else:
                parts.append((state.select(rows), group))
                place(group, parts[-1][0])
                self._shrink(state)
        if len(parts) > 1 and joinable(state for state, _ in parts):
            joined = join([state for state, _ in parts], self._decoder.config)
            parts = [(joined, [sample for _, group in parts for sample in group])]
            place(parts[0][1], joined)
        return parts

    def pause(self, sequences: Iterable[SequenceId]) -> None:
        """Let the states of sequences be evicted, should memory ask for it."""
        for sample in [self[sequence] for sequence in sequences]:
            sample.paused = True
        self.evict()

    def evict(self) -> None:
        """Drop the least recently used states that nobody is advancing, until the rest fits `max_state_bytes`."""
        if self._max_state_bytes is None:
            return
        groups: dict[int, list[Row]] = {}
        for sample in self:
            if sample.state is not None:
                groups.setdefault(id(sample.state), []).append(sample)
        idle = [group for group in groups.values() if all(sample.idle for sample in group)]
        idle.sort(key=lambda group: max(sample.last_used for sample in group))
        sizes = [group[0].state.nbytes if group[0].state else 0 for group in idle]
        total = sum(sizes)
        for group, size in zip(idle, sizes, strict=True):
            if total <= self._max_state_bytes:
                return
            total -= size
            for sample in group:
                sample.state = None

    def forget_states(self) -> None:
        """Drop all states, of a model that is another now: the tokens are enough to go on from."""
        for sample in self:
            sample.state = None

    @contextmanager
    def recovering(self, samples: Sequence[Row]) -> Iterator[None]:
        """After a failure the states may be half advanced: forget them, the tokens are enough to go on from."""
        try:
            yield
        except BaseException as error:
            touched = {id(sample.state) for sample in samples}
            for sample in (*self, *samples):
                if id(sample.state) in touched:
                    sample.state = None
            if isinstance(error, torch.OutOfMemoryError):
                raise BackendError(
                    f"out of memory on {self._decoder.device} with {len(samples)} sequences at once. No token was "
                    f"lost. Advance fewer at a time, or open the model with a smaller prefill_tokens or "
                    f"max_state_bytes."
                ) from error
            raise

    def _shrink(self, state: State) -> None:
        """Copy out the rows of a state that are still somebody's, where they are half of it or fewer."""
        holders = [sample for sample in self if sample.state is state]
        used = sorted({sample.row for sample in holders})
        if used and 2 * len(used) <= len(state.lengths):
            smaller = state.select(used)
            for sample in holders:
                sample.state, sample.row = smaller, used.index(sample.row)
