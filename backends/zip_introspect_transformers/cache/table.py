"""The sequences of a backend and the states they share: assembling batches, shrinking, evicting, recomputing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zip_introspect.backend.contract import SequenceId
from zip_introspect.backend.prefixes import KeptPrompts, behind, longest
from zip_introspect.backend.sequences import Sample, Sequences
from zip_introspect.errors import BackendError
from zip_introspect_transformers.cache.states import State, cuttable, join, joinable
from zip_introspect_transformers.decoding import Decoder, Drawn

_STEP_COST = 8
"""Tokens that are read at once in the time of one that is read alone."""


@dataclass(eq=False)
class Row(Sample):
    """A sample, and the row of a state that remembers it."""

    state: State | None = None
    """None once evicted: recomputed from the tokens when it is needed."""
    row: int = 0
    taken_over: int = 0
    """Tokens whose state another one held when its own was computed."""
    sums: Tensor | None = None
    """(hidden size,) float32: of the hidden states after the prompt and each token since, where they are read."""


def place(samples: Sequence[Row], state: State) -> None:
    """Let the rows of a state be these samples'."""
    for row, sample in enumerate(samples):
        sample.state, sample.row = state, row


class SequenceTable(Sequences[Row]):
    """All unreleased sequences. Rows of a state are shared by forks until somebody advances.

    Args:
        kept: how many released prompts keep their states.
    """

    def __init__(self, decoder: Decoder, max_sequences: int | None, max_state_bytes: int | None, kept: int = 0) -> None:
        super().__init__(max_sequences)
        self._decoder = decoder
        self._max_state_bytes = max_state_bytes
        self._cuttable = cuttable(decoder.config)
        self.kept = KeptPrompts[Row](kept)

    def release(self, sequences: Iterable[SequenceId]) -> None:
        """Forget sequences, unknown ones passed over. Prompts may keep their states for others that begin alike."""
        gone = self.pop(sequences)
        for sample in gone:
            if sample.state is not None and self.kept.wants(sample):
                if len(sample.state.lengths) > 1:  # the other rows need not live on with it
                    sample.state, sample.row = sample.state.select([sample.row]), 0
                gone = [*gone, *self.kept.keep(sample)]
        for state in {id(sample.state): sample.state for sample in gone}.values():
            if state is not None:
                self._shrink(state)
        if self.kept:
            self.evict()

    def clear(self) -> None:
        super().clear()
        self.kept.clear()

    def compute(self, samples: Iterable[Row]) -> None:
        """Compute the states of samples from their tokens: equal ones once, and of alike ones what differs."""
        alike: dict[tuple[int, ...], list[Row]] = {}
        for sample in samples:
            alike.setdefault(tuple(sample.tokens), []).append(sample)
        distinct = wanted = [some[0] for some in alike.values()]
        while wanted:
            sources = [self._prefix(sample, distinct) for sample in wanted]
            later = [] if self._cuttable is not None else behind(wanted, [length for _, length in sources])
            now = [item for item in zip(wanted, sources, strict=True) if item[0] not in later]
            self._read([sample for sample, (source, _) in now if source is None])
            self._read_on([(sample, source, length) for sample, (source, length) in now if source is not None])
            wanted = later
        for first, *others in alike.values():
            for sample in others:
                sample.state, sample.row = first.state, first.row

    def _prefix(self, sample: Row, beside: Sequence[Row]) -> tuple[Row | None, int]:
        """Whose state begins with most of a sample's tokens, and with how many: one beside it in its call, too."""
        holders = [other for other in (*self, *self.kept, *beside) if other.state is not None and other is not sample]
        source, length = longest(sample.tokens, holders, self._cuttable)
        if self._cuttable == 0 and (len(sample.tokens) - length) * _STEP_COST > length:
            return None, 0  # such a state goes on token by token
        return source, length

    def _read(self, samples: Sequence[Row]) -> None:
        for numbers, state in self._decoder.prefill([sample.tokens for sample in samples]):
            for row, number in enumerate(numbers):
                samples[number].state, samples[number].row = state, row

    def _read_on(self, samples: Sequence[tuple[Row, Row, int]]) -> None:
        """Compute the states of samples from others' that begin alike, as many tokens of each where they share a batch.

        Rows end in the same column: who shares more than the others do takes over a little less of it.
        """
        for some in self._alike(samples):
            rest = max(len(sample.tokens) - length for sample, _, length in some)
            starts: list[State] = []
            for sample, source, _ in some:
                assert source.state is not None
                sample.taken_over = len(sample.tokens) - rest
                starts.append(source.state.prefix(source.row, sample.taken_over))
                self.kept.touch(source)
            state = join(starts, self._decoder.config)
            self._decoder.extend(state, [sample.tokens[-rest:] for sample, *_ in some])
            place([sample for sample, *_ in some], state)

    def _alike(self, samples: Sequence[tuple[Row, Row, int]]) -> Iterator[list[tuple[Row, Row, int]]]:
        """Those that share a batch: with as many tokens to read, or twice as many, where states can be cut back."""
        group: list[tuple[Row, Row, int]] = []
        for rest, sample, source, length in sorted(
            ((len(sample.tokens) - length, sample, source, length) for sample, source, length in samples),
            key=lambda item: item[0],
        ):
            least = len(group[0][0].tokens) - group[0][2] if group else rest
            fits = (len(group) + 1) * rest <= self._decoder.prefill_tokens
            shorter = any(len(other.tokens) <= rest for other, *_ in group)
            if group and (self._cuttable is not None or rest > 2 * least or shorter or not fits):
                yield group
                group = []
            group.append((sample, source, length))
        if group:
            yield group

    def after_prompts(self, samples: Sequence[Row], cells: int) -> list[tuple[NDArray[np.float32], ...] | None]:
        """The joint's logits and the kept hidden state after each prompt; None where any logit is not finite.

        The prompts have been computed just now; the sums of their hidden states begin here.
        """
        states = {id(sample.state): sample.state for sample in samples if sample.state is not None}
        if not states:
            return []
        parts = [self._decoder.after_prompts(state) for state in states.values()]
        if self._decoder.reading.hidden:
            for sample in samples:
                assert sample.state is not None
                sample.sums = sample.state.hidden[sample.row].float()
        offsets = dict(zip(states, np.cumsum([0, *(len(part) for part in parts)]), strict=False))
        rows = torch.cat(parts).cpu().numpy()
        found = [rows[offsets[id(sample.state)] + sample.row] for sample in samples]
        return [(row[:cells].copy(), row[cells + 1 :].copy()) if row[cells] else None for row in found]

    def read_further(self, samples: Sequence[Row], tokens: Sequence[Sequence[int]], cells: int) -> dict[int, Drawn]:
        """Let samples go on with given tokens; by id(), what the model says after the last of them alone."""
        given = {id(sample): some for sample, some in zip(samples, tokens, strict=True)}
        found: dict[int, Drawn] = {}
        for count in sorted({len(some) for some in tokens}):  # rows of a state end in the same column
            for state, rows in self.batches([sample for sample in samples if len(given[id(sample)]) == count]):
                sums = [sample.sums for sample in rows if sample.sums is not None]
                after, sums_after = self._decoder.read_further(
                    state,
                    [given[id(sample)] for sample in rows],
                    torch.stack(sums) if sums else None,
                    [sample.step + 1 for sample in rows],
                )
                for row, (sample, said) in enumerate(zip(rows, after.cpu().numpy(), strict=True)):
                    ids = np.array(given[id(sample)], np.int32)
                    joint, hidden = said[None, :cells].copy(), said[None, cells + 1 :].copy()
                    found[id(sample)] = Drawn(ids, joint, hidden, np.zeros((0, 2), np.float32), broken=not said[cells])
                    sample.sums = None if sums_after is None else sums_after[row]
        return found

    def batches(self, samples: Sequence[Row]) -> list[tuple[State, list[Row]]]:
        """States that hold these samples alone, one batch if that can be, each with its rows' samples.

        A state whose rows are these samples and nobody else's is used as it is.
        """
        self.compute(sample for sample in samples if sample.state is None)
        members: dict[int, list[Row]] = {}
        for sample in samples:
            members.setdefault(id(sample.state), []).append(sample)
        users = Counter(id(sample.state) for sample in (*self, *self.kept))
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
        """Drop the least recently used states that nobody is advancing, until the rest fits `max_state_bytes`.

        Prompts that are only kept go first.
        """
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
        while self.kept and total + sum(sample.state.nbytes for sample in self.kept if sample.state) > (
            self._max_state_bytes
        ):
            self.kept.pop()
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
        self.kept.clear()

    @contextmanager
    def recovering(self, samples: Sequence[Row]) -> Iterator[None]:
        """After a failure the states may be half advanced: forget them, the tokens are enough to go on from."""
        sums = [sample.sums for sample in samples]
        try:
            yield
        except BaseException as error:
            for sample, before in zip(samples, sums, strict=True):
                sample.sums = before
            touched = {id(sample.state) for sample in samples}
            for sample in (*self, *samples):
                if id(sample.state) in touched:
                    sample.state = None
            for sample in [sample for sample in self.kept if id(sample.state) in touched]:
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
        holders = [sample for sample in (*self, *self.kept) if sample.state is state]
        used = sorted({sample.row for sample in holders})
        if used and 2 * len(used) <= len(state.lengths):
            smaller = state.select(used)
            for sample in holders:
                sample.state, sample.row = smaller, used.index(sample.row)
