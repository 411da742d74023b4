"""The loop of a call of `advance`: draw a token for every row, compute them all at once, read what the model says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.confidences import token_confidences
from zip_introspect.backend.sequences import draws
from zip_introspect.heads.readout import Readout
from zip_introspect_llama_cpp.cache.context import Context, chunks
from zip_introspect_llama_cpp.cache.held import Held
from zip_introspect_llama_cpp.sampling import NumpySampler


@dataclass
class RowAdvance:
    """What one row did."""

    tokens: NDArray[np.int32]
    joint: NDArray[np.float32]
    """The joint's logits after each of them that was computed."""
    hidden: NDArray[np.float16] | None
    """The hidden states at the same places, where they are kept."""
    sums: NDArray[np.float32] | None
    """As `Held.hidden`, after the last token, where hidden states are read."""
    confidences: NDArray[np.float32] | None
    """As `Advanced.confidences`, where the sample asks for them."""
    logits: NDArray[np.float32] | None
    """After the last token, where it can go on."""
    finished: bool

    @property
    def broken(self) -> bool:
        """Whether it came to logits that are not finite."""
        return self.logits is None and not self.finished


def run(
    context: Context, group: Sequence[Held], budgets: Sequence[int], reading: Readout, eos: frozenset[int]
) -> list[RowAdvance]:
    """Move samples that hold slots by up to `budgets` tokens, each at least one; rows leave where they end.

    Returns:
        one run a sample; the samples themselves are left as they are.
    """
    loop = _Loop(context, group, budgets, reading)
    context.read_hidden(True)
    logits = np.stack([sample.logits for sample in group if sample.logits is not None])
    highest = _highest(logits)
    while True:
        drawn = loop.draw(logits, highest)
        if not eos.isdisjoint(drawn):
            drawn = loop.finish(drawn, eos)
            if not drawn:
                break
        logits = context.step(drawn)
        loop.take(logits)
        highest = _highest(logits)
        if loop.step == loop.next_end or not math.isfinite(sum(highest.flat)):
            staying = loop.part(logits, np.isfinite(highest[:, 0]))
            if not staying.any():
                break
            logits, highest = logits[staying], highest[staying]
    return loop.runs()


def read_further(
    context: Context, group: Sequence[Held], given: Sequence[Sequence[int]], reading: Readout
) -> list[RowAdvance]:
    """Let samples that hold slots go on with given tokens; what is read is read after the last of them alone.

    Returns:
        one run a sample; the samples themselves are left as they are.
    """
    counts = [len(tokens) for tokens in given]
    ends = np.cumsum(counts) - 1
    tokens = np.concatenate([np.array(some, np.int32) for some in given])
    positions = np.concatenate(
        [len(sample.tokens) + np.arange(count, dtype=np.int32) for sample, count in zip(group, counts, strict=True)]
    )
    slots = np.repeat([sample.slot for sample in group], counts).astype(np.int32)
    rows = np.repeat(np.arange(len(group)), counts)
    reads_all = bool(context.hidden_size)  # llama.cpp gives no hidden state without the logits beside it
    wanted = np.ones(len(tokens), np.bool_) if reads_all else np.isin(np.arange(len(tokens)), ends)
    context.read_hidden(True)
    logits = np.zeros((len(group), context.vocab_size), np.float32)
    hidden = np.zeros((len(group), context.hidden_size), np.float32)
    sums = np.stack([sample.hidden for sample in group if sample.hidden is not None]) if reads_all else hidden
    size = min(context.batch_size, context.slots) if reads_all else context.batch_size
    for part in chunks(len(tokens), size):
        found = context.decode(tokens[part], positions[part], slots[part], wanted[part])
        told = rows[part][wanted[part]]
        logits[told] = found  # of several rows of a sample, the last one stays
        if reads_all:
            states = context.hidden(len(told))
            np.add.at(sums, told, states)
            hidden[told] = states
    ids = slice(reading.reserved.start, reading.reserved.stop)
    joint = logits[:, ids].copy()
    if reading.head is not None:
        heard = np.array([[sample.step + 1 + count] for sample, count in zip(group, counts, strict=True)])
        joint = reading.head.logits(hidden, sums / heard)
    sound: list[bool] = np.logical_and(np.isfinite(logits).all(-1), np.isfinite(joint).all(-1)).tolist()
    logits[:, ids] = -np.inf
    return [
        RowAdvance(
            np.array(some, np.int32),
            joint[row : row + sound[row]].astype(np.float32),
            hidden[row : row + sound[row]].astype(np.float16) if reading.keep else None,
            sums[row] if reads_all else None,
            None,  # of what is given, and not drawn
            logits[row] if sound[row] else None,
            finished=False,
        )
        for row, some in enumerate(given)
    ]


class _Loop:
    """The rows that are still moving, and what all have done so far.

    A step is a few microseconds of work, so what can be done once for many steps is.
    """

    def __init__(self, context: Context, group: Sequence[Held], budgets: Sequence[int], reading: Readout) -> None:
        ids = reading.reserved
        self._context, self._ids, self._head = context, slice(ids.start, ids.stop), reading.head
        self._limits, self._read = np.array(budgets), np.zeros(len(group), np.int64)
        shape = len(group), max(budgets)
        self._tokens = np.zeros(shape, np.int32)
        self._joint = np.zeros((*shape, reading.cells), np.float32)
        size = context.hidden_size
        self._hidden = np.zeros((*shape, size), np.float16) if reading.keep else None
        self._sums = np.stack([sample.hidden for sample in group if sample.hidden is not None]) if size else None
        self._confident = np.array([sample.confident for sample in group])
        self._confidences = np.zeros((*shape, 2), np.float32) if self._confident.any() else None
        self._counts = np.array([[sample.step + 2] for sample in group])
        """Hidden states in a row's sum after its next token."""
        self._all_uniforms = draws(group, budgets).tolist()
        self._lengths = np.array([len(sample.tokens) for sample in group], np.int32)
        self._slots = np.array([sample.slot for sample in group], np.int32)
        self._params = [sample.sampling for sample in group if sample.sampling is not None]
        self._finished: set[int] = set()
        self._last: dict[int, NDArray[np.float32]] = {}
        self._drawn: list[list[int]] = []
        self._entered = self.step = 0
        self._keep(np.arange(len(group)))

    def _keep(self, rows: NDArray[np.intp]) -> None:
        self._rows = rows
        if not rows.size:
            return
        # A slice is read and written in half the time that a list of rows takes.
        self._at = slice(None) if len(rows) == len(self._limits) else rows
        self.next_end = int(self._limits[rows].min())
        places = rows.tolist()
        self._uniforms = [self._all_uniforms[row] for row in places]
        self._sampler = NumpySampler([self._params[row] for row in places])
        self._context.seat(self._slots[rows], self._lengths[rows] + self.step)

    def draw(self, logits: NDArray[np.float32], highest: NDArray[np.float32]) -> list[int]:
        """The next token of every row."""
        step = self.step
        drawn = self._sampler.draw(logits, highest, [row[step] for row in self._uniforms])
        self._drawn.append(drawn)
        if self._confidences is not None:
            self._take_confidences(self._confidences, logits, drawn)
        return drawn

    def _take_confidences(
        self, confidences: NDArray[np.float32], logits: NDArray[np.float32], drawn: Sequence[int]
    ) -> None:
        """Enter how sure the model is of the tokens drawn in this step, of those rows that ask."""
        asking = self._confident[self._rows]
        if asking.all():
            confidences[self._at, self.step] = token_confidences(logits, drawn)
        elif asking.any():
            tokens = [token for token, asks in zip(drawn, asking, strict=True) if asks]
            confidences[self._rows[asking], self.step] = token_confidences(logits[asking], tokens)

    def take(self, logits: NDArray[np.float32]) -> None:
        """Enter the joint's logits of a step, and mask the reserved ones."""
        block = logits[:, self._ids]
        if self._sums is not None:
            self._take_hidden(self._context.hidden(len(logits)), self._sums)
        if self._head is None:
            self._joint[self._at, self.step] = block
        block.fill(-np.inf)
        self.step += 1

    def _take_hidden(self, hidden: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
        """Enter the hidden states of a step, and what the head makes of them."""
        sums[self._at] += hidden
        if self._head is not None:
            means = sums[self._at] / (self._counts[self._at] + self.step)
            self._joint[self._at, self.step] = self._head.logits(hidden, means)
        if self._hidden is not None:
            self._hidden[self._at, self.step] = hidden

    def finish(self, drawn: Sequence[int], eos: frozenset[int]) -> list[int]:
        """Let rows go that have drawn an end of sequence; what the others drew."""
        ended = np.array([token in eos for token in drawn])
        self._finished.update(self._rows[ended].tolist())
        self._leave(ended, self.step)
        return [token for token in drawn if token not in eos]

    def part(self, logits: NDArray[np.float32], sound: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Let rows go that have used their budget, or whose logits are not finite; which stay."""
        staying = sound & (self._limits[self._rows] > self.step)
        for place in np.flatnonzero(sound & ~staying).tolist():
            self._last[int(self._rows[place])] = logits[place].copy()
        self._leave(~staying, self.step - ~sound[~staying])
        return staying

    def _leave(self, leaving: NDArray[np.bool_], read: int | NDArray[np.int64]) -> None:
        """Enter what was drawn since rows last left, and how many joints those have read that leave now."""
        if self._drawn:
            end = self._entered + len(self._drawn)
            self._tokens[self._at, self._entered : end] = np.array(self._drawn, np.int32).T
            self._drawn, self._entered = [], end
        self._read[self._rows[leaving]] = read
        self._keep(self._rows[~leaving])

    def runs(self) -> list[RowAdvance]:
        """What every row did, up to the first of the joint's logits that are not finite."""
        if not math.isfinite(np.add.reduce(self._joint, axis=None)):  # an overflow only costs the closer look
            self._break()
        return [
            RowAdvance(
                # The last token of a row that has finished, or is broken, comes without a joint.
                self._tokens[row, : read + (row not in self._last)],
                self._joint[row, :read],
                None if self._hidden is None else self._hidden[row, :read],
                None if self._sums is None else self._sums[row],
                self._told(row, read + (row not in self._last)),
                self._last.get(row),
                row in self._finished,
            )
            for row, read in enumerate(self._read.tolist())
        ]

    def _told(self, row: int, tokens: int) -> NDArray[np.float32] | None:
        if self._confidences is None or not self._confident[row]:
            return None
        return self._confidences[row, :tokens]

    def _break(self) -> None:
        for row, step in np.argwhere(~np.isfinite(self._joint).all(-1))[::-1].tolist():
            self._finished.discard(row)
            self._last.pop(row, None)
            self._read[row] = step


def _highest(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum.reduce(logits, axis=-1, keepdims=True), np.float32)
