"""Which sequences hold cells: sharing prompts, making room, and computing again what had to give way.

A sequence is its tokens; its cells can always be computed from them. While it holds cells it has a slot. Forks share
the cells of what they were forked from, and a `Stem` counts such shared cells once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.contract import SequenceId
from zip_introspect.backend.sequences import Sample, Sequences
from zip_introspect.errors import BackendError
from zip_introspect_llama_cpp.cache.context import Context, chunks


@dataclass(eq=False)
class Stem:
    """Cells that several sequences share, after those of `parent`."""

    cells: int
    parent: Stem | None = None

    def chain(self) -> Iterator[Stem]:
        """This stem and all before it."""
        stem: Stem | None = self
        while stem is not None:
            yield stem
            stem = stem.parent


@dataclass(eq=False)
class Origin:
    """The prompt that samples have in common."""

    length: int


@dataclass(eq=False, kw_only=True)
class Held(Sample):
    """A sample, and the cells that remember it."""

    origin: Origin
    slot: int | None = None
    """None while it holds no cells."""
    stem: Stem | None = None
    """What it shares of its cells."""
    logits: NDArray[np.float32] | None = None
    """Shape (V,), after the last token, reserved ids masked; shared by forks, never written to."""

    @property
    def own(self) -> int:
        """Cells that nobody else holds."""
        return len(self.tokens) - (sum(stem.cells for stem in self.stem.chain()) if self.stem else 0)

    def freeze(self) -> None:
        """Turn its own cells into a stem that others may share."""
        if self.own:
            self.stem = Stem(self.own, self.stem)


@dataclass
class _Plan:
    """Which samples are computed from their first token, and which share their prompt's cells."""

    alone: list[Held] = field(default_factory=list)
    sharing: list[Held] = field(default_factory=list)


class Residents(Sequences[Held]):
    """All unreleased sequences, and which of them hold cells.

    Args:
        whole: whether a state cannot be cut back, so that a prompt is shared only from a sequence that ends there.
    """

    def __init__(self, context: Context, limit: int | None, *, whole: bool) -> None:
        super().__init__(limit)
        self._context = context
        self._whole = whole
        self._free = list(range(context.slots - 1, -1, -1))

    @property
    def used_cells(self) -> int:
        """Cells that are held, shared ones counted once."""
        holders = [sample for sample in self if sample.slot is not None]
        stems = {stem for sample in holders if sample.stem for stem in sample.stem.chain()}
        return sum(sample.own for sample in holders) + sum(stem.cells for stem in stems)

    def fork(self, origin: Held, copies: Iterable[Held]) -> list[SequenceId]:
        """Take copies of a sequence in; they share its cells while there are slots for them."""
        ids = []
        for copy in copies:
            if origin.slot is not None and self._free:
                origin.freeze()
                copy.slot, copy.stem = self._free.pop(), origin.stem
                self._context.share(origin.slot, copy.slot, len(origin.tokens))
            ids.append(self.add(copy))
        return ids

    def release(self, sequences: Iterable[SequenceId]) -> None:
        """Forget sequences, unknown ones passed over."""
        for sample in self.pop(sequences):
            self.evict(sample)

    def evict(self, sample: Held) -> None:
        """Take a sample's cells from it."""
        if sample.slot is not None:
            self._context.forget(sample.slot)
            self._free.append(sample.slot)
            sample.slot = sample.stem = None

    def scrub(self) -> None:
        """Take the cells from all, and wipe them: after logits that are not finite."""
        for sample in self:
            self.evict(sample)
        self._context.clear()

    def groups(self, samples: Sequence[Held], growth: Sequence[int]) -> Iterator[list[Held]]:
        """The samples in groups that fit the cells and slots, each ready to grow by so many tokens."""
        group: list[Held] = []
        grown: list[int] = []
        for sample, tokens in zip(samples, growth, strict=True):
            fits = len(group) < self._context.slots
            if group and not (fits and self._alone([*group, sample]) + sum(grown) + tokens <= self._context.cells):
                yield self._ready(group, sum(grown))
                group, grown = [], []
            group.append(sample)
            grown.append(tokens)
        if group:
            yield self._ready(group, sum(grown))

    @contextmanager
    def recovering(self, group: Sequence[Held]) -> Iterator[None]:
        """After a failure, take samples back to where they were: no caller has seen what they said since.

        Their cells may be ahead of that, so they are given up; the tokens are enough to go on from.
        """
        before = [(len(sample.tokens), sample.step, sample.ended, sample.logits) for sample in group]
        try:
            yield
        except BaseException:
            for sample, (length, step, ended, logits) in zip(group, before, strict=True):
                del sample.tokens[length:]
                sample.step, sample.ended, sample.logits = step, ended, logits
                self.evict(sample)
            raise

    def _alone(self, group: Sequence[Held]) -> int:
        """Cells that a group holds, or would hold, if it had all to itself."""
        total = 0
        stems: set[Stem] = set()
        origins: set[Origin] = set()
        for sample in group:
            if sample.slot is not None:
                total += sample.own
                stems.update(sample.stem.chain() if sample.stem else ())
            elif self._whole or sample.origin not in origins:
                total += len(sample.tokens)
                origins.add(sample.origin)
            else:
                total += len(sample.tokens) - sample.origin.length
        return total + sum(stem.cells for stem in stems)

    def _ready(self, group: list[Held], growth: int) -> list[Held]:
        """Let every sample of a group hold cells, with room to grow; others give way, the least recently used first."""
        missing, inside = [sample for sample in group if sample.slot is None], set(group)
        if not missing and self.used_cells + growth <= self._context.cells:
            return group
        wanted = {sample.origin for sample in missing}
        others = sorted(
            (sample for sample in self if sample.slot is not None and sample not in inside),
            key=lambda sample: (sample.origin in wanted, not sample.idle, sample.last_used),
        )
        for other in others:
            plan = self._plan(missing)
            cells = self.used_cells + growth + self._cost(plan)
            if len(self._free) >= len(missing) and cells <= self._context.cells:
                break
            self.evict(other)
        plan = self._plan(missing)
        needed = self.used_cells + growth + self._cost(plan)
        if needed > self._context.cells or len(missing) > len(self._free):
            raise BackendError(
                f"{len(group)} sequences need {needed} cells and {len(missing)} free slots; there are "
                f"{self._context.cells} and {len(self._free)}. No token was lost. Open the model with more."
            )
        self._compute(plan)
        return group

    def _source(self, sample: Held) -> Held | None:
        """A sequence whose cells begin with the sample's prompt."""
        for other in self:
            holds = other.slot is not None and other.origin is sample.origin
            if holds and (not self._whole or len(other.tokens) == sample.origin.length):
                return other
        return None

    def _plan(self, missing: Iterable[Held]) -> _Plan:
        plan = _Plan()
        first: set[Origin] = set()
        for sample in missing:
            shareable = len(sample.tokens) > sample.origin.length or sample.logits is not None
            found = shareable and (self._source(sample) is not None or sample.origin in first)
            (plan.sharing if found else plan.alone).append(sample)
            if not self._whole or len(sample.tokens) == sample.origin.length:
                first.add(sample.origin)
        return plan

    def _cost(self, plan: _Plan) -> int:
        shared = sum(len(sample.tokens) - sample.origin.length for sample in plan.sharing)
        return shared + sum(len(sample.tokens) for sample in plan.alone)

    def _compute(self, plan: _Plan) -> None:
        """Compute cells from tokens: first those that share with nobody, then those that share their prompts."""
        for sample in plan.alone:
            sample.slot = self._free.pop()
        self._decode([(sample, 0) for sample in plan.alone])
        for sample in plan.alone:
            if not self._whole:
                sample.stem = Stem(sample.origin.length)
        starts = []
        for sample in plan.sharing:
            source = self._source(sample)
            if source is None or source.slot is None:
                raise AssertionError("the sequence to share a prompt with has gone")
            if source.stem is None:
                source.freeze()
            sample.slot = self._free.pop()
            sample.stem = _root(source.stem)
            self._context.share(source.slot, sample.slot, sample.origin.length)
            starts.append((sample, sample.origin.length))
        self._decode(starts)

    def _decode(self, starts: Sequence[tuple[Held, int]]) -> None:
        """Compute the tokens of samples from a position on; the logits of those that lack them are kept."""
        starts = [(sample, start) for sample, start in starts if start < len(sample.tokens)]
        if not starts:
            return
        counts = [len(sample.tokens) - start for sample, start in starts]
        tokens = np.concatenate([sample.tokens[start:] for sample, start in starts]).astype(np.int32)
        positions = np.concatenate([np.arange(start, len(sample.tokens)) for sample, start in starts]).astype(np.int32)
        slots = np.repeat([sample.slot for sample, _ in starts], counts).astype(np.int32)
        ends = dict(zip(np.cumsum(counts) - 1, (sample for sample, _ in starts), strict=True))
        wanted = np.zeros(len(tokens), np.bool_)
        wanted[[end for end, sample in ends.items() if sample.logits is None]] = True
        for part in chunks(len(tokens), self._context.batch_size):
            logits = self._context.decode(tokens[part], positions[part], slots[part], wanted[part])
            for row, place in zip(logits, np.flatnonzero(wanted[part]) + part.start, strict=True):
                ends[place].logits = row.copy()


def _root(stem: Stem | None) -> Stem | None:
    return None if stem is None else list(stem.chain())[-1]
