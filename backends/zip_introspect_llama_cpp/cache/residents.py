"""Which sequences hold cells: sharing prompts, making room, and computing again what had to give way.

A sequence is its tokens; its cells can always be computed from them. While it holds cells it has a slot. Forks share
the cells of what they were forked from, prompts those of prompts that begin alike, and a `Stem` counts such shared
cells once. Prompts that were released keep theirs until somebody needs the room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from zip_introspect.backend.contract import SequenceId
from zip_introspect.backend.prefixes import KeptPrompts, behind, longest
from zip_introspect.backend.sequences import Sequences
from zip_introspect.errors import BackendError
from zip_introspect_llama_cpp.cache.context import Context, chunks
from zip_introspect_llama_cpp.cache.held import Held, SharedPrompt, Stem


@dataclass
class _Plan:
    """Which samples are computed from their first token, and which share their prompt's cells."""

    alone: list[Held] = field(default_factory=list)
    sharing: list[Held] = field(default_factory=list)


class Residents(Sequences[Held]):
    """All unreleased sequences, and which of them hold cells.

    Args:
        cuttable: states of fewer tokens than this can be cut back to an earlier one, None is any. Prompts are shared
            only from a sequence that ends there, where not all can.
        kept: how many released prompts keep their cells.
    """

    def __init__(self, context: Context, limit: int | None, *, cuttable: int | None, kept: int = 0) -> None:
        super().__init__(limit)
        self._context = context
        self._whole, self._cuttable = cuttable is not None, cuttable
        self.kept = KeptPrompts[Held](kept)
        self._free = list(range(context.slots - 1, -1, -1))

    @property
    def used_cells(self) -> int:
        """Cells that sequences hold, shared ones counted once."""
        return _cells(self)

    @property
    def kept_cells(self) -> int:
        """Cells that released prompts alone hold."""
        return self._occupied - self.used_cells

    @property
    def _occupied(self) -> int:
        return _cells([*self, *self.kept]) if self.kept else self.used_cells

    def fork(self, origin: Held, copies: Iterable[Held]) -> list[SequenceId]:
        """Take copies of a sequence in; they share its cells while there are slots for them."""
        ids = []
        for copy in copies:
            if origin.slot is not None and (self._free or self.kept):
                origin.freeze()
                copy.slot, copy.stem = self._take_slot(), origin.stem
                self._context.share(origin.slot, copy.slot, len(origin.tokens))
            ids.append(self.add(copy))
        return ids

    def release(self, sequences: Iterable[SequenceId], sound: bool = True) -> None:
        """Forget sequences, unknown ones passed over. Prompts may keep their cells for others that begin alike.

        Args:
            sound: whether they may; after a failure their cells are not to be trusted.
        """
        for sample in self.pop(sequences):
            if not (sound and sample.slot is not None and self.kept.wants(sample)):
                self.evict(sample)
                continue
            for other in self.kept.keep(sample):
                self.evict(other)

    def clear(self) -> None:
        super().clear()
        self.kept.clear()

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
        while self.kept:
            self.evict(self.kept.pop())
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
        before = [(len(sample.tokens), sample.step, sample.ended, sample.logits, sample.hidden) for sample in group]
        try:
            yield
        except BaseException:
            for sample, (length, step, ended, logits, hidden) in zip(group, before, strict=True):
                del sample.tokens[length:]
                sample.step, sample.ended, sample.logits, sample.hidden = step, ended, logits, hidden
                self.evict(sample)
            raise

    def _alone(self, group: Sequence[Held]) -> int:
        """Cells that a group holds, or would hold, if it had all to itself."""
        total = 0
        stems: set[Stem] = set()
        origins: set[SharedPrompt] = set()
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
        if not missing and self._occupied + growth <= self._context.cells:
            return group
        for sample in missing:  # so that what it begins with is the last to give way
            if (source := self._prefix(sample)[0]) is not None:
                self.kept.touch(source)
        while self.kept and not self._fits(missing, growth):
            self.evict(self.kept.pop())
        wanted = {sample.origin for sample in missing}
        others = sorted(
            (sample for sample in self if sample.slot is not None and sample not in inside),
            key=lambda sample: (sample.origin in wanted, not sample.idle, sample.last_used),
        )
        for other in others:
            if self._fits(missing, growth):
                break
            self.evict(other)
        plan = self._plan(missing)
        needed = self._occupied + growth + self._cost(plan)
        if needed > self._context.cells or len(missing) > len(self._free):
            raise BackendError(
                f"{len(group)} sequences need {needed} cells and {len(missing)} free slots; there are "
                f"{self._context.cells} and {len(self._free)}. No token was lost. Open the model with more."
            )
        self._compute(plan)
        return group

    def _fits(self, missing: Sequence[Held], growth: int) -> bool:
        """Whether cells and slots are free for so many samples without them, and for all to grow."""
        needed = self._occupied + growth + self._cost(self._plan(missing))
        return len(self._free) >= len(missing) and needed <= self._context.cells

    def _take_slot(self) -> int:
        if not self._free:
            self.evict(self.kept.pop())
        return self._free.pop()

    def _prefix(self, sample: Held) -> tuple[Held | None, int]:
        """Who holds most of the cells that a sample begins with, and how many of its tokens these are."""
        holders = [other for other in (*self, *self.kept) if other.slot is not None and other is not sample]
        return longest(sample.tokens, holders, self._cuttable)

    def _source(self, sample: Held) -> Held | None:
        """A sequence whose cells begin with the sample's prompt."""
        for other in self:
            holds = other.slot is not None and other.origin is sample.origin
            if holds and (not self._whole or len(other.tokens) == sample.origin.length):
                return other
        return None

    def _plan(self, missing: Iterable[Held]) -> _Plan:
        plan = _Plan()
        first: set[SharedPrompt] = set()
        for sample in missing:
            shareable = len(sample.tokens) > sample.origin.length or sample.logits is not None
            found = shareable and (self._source(sample) is not None or sample.origin in first)
            (plan.sharing if found else plan.alone).append(sample)
            if not self._whole or len(sample.tokens) == sample.origin.length:
                first.add(sample.origin)
        return plan

    def _cost(self, plan: _Plan) -> int:
        shared = sum(len(sample.tokens) - sample.origin.length for sample in plan.sharing)
        return shared + sum(len(sample.tokens) - self._prefix(sample)[1] for sample in plan.alone)

    def _compute(self, plan: _Plan) -> None:
        """Compute cells from tokens: first those that share no prompt, then those that share theirs."""
        while plan.alone:
            held = [self._prefix(sample)[1] for sample in plan.alone]
            later = [] if self._whole else behind(plan.alone, held)
            now = [sample for sample in plan.alone if sample not in later]
            sources = [self._prefix(sample) for sample in now]  # before any of these has a slot, but no cells yet
            begun = [(sample, self._begin(sample, *source)) for sample, source in zip(now, sources, strict=True)]
            self._decode(begun)
            for sample in now:
                if not self._whole:
                    sample.stem_to(sample.origin.length)
            plan.alone = later
        starts = []
        for sample in plan.sharing:
            source = self._source(sample)
            if source is None or source.slot is None:
                raise AssertionError("the sequence to share a prompt with has gone")
            sample.slot, sample.stem = self._free.pop(), source.stem_to(sample.origin.length)
            self._context.share(source.slot, sample.slot, sample.origin.length)
            starts.append((sample, sample.origin.length))
        self._decode(starts)

    def _begin(self, sample: Held, source: Held | None, length: int) -> int:
        """Give a sample a slot, with the cells that another one holds of its first `length` tokens."""
        sample.slot, sample.taken_over = self._free.pop(), length
        if source is not None and source.slot is not None:
            sample.stem = source.stem_to(length)
            self._context.share(source.slot, sample.slot, length)
            self.kept.touch(source)
        return length

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
        asked = np.array([end for end, sample in ends.items() if sample.logits is None], np.intp)
        wanted = np.zeros(len(tokens), np.bool_)
        wanted[asked] = True
        # While hidden states are read all tokens count as asked for: those come in a call of their own, after the rest.
        apart = bool(self._context.hidden_size and len(asked))
        for places in (np.flatnonzero(~wanted), asked) if apart else (np.arange(len(tokens)),):
            reading = apart and places is asked
            self._context.read_hidden(reading)
            for part in chunks(len(places), self._context.batch_size):
                some = places[part]
                logits = self._context.decode(tokens[some], positions[some], slots[some], wanted[some])
                told = [ends[place] for place in some[wanted[some]]]
                for sample, row in zip(told, logits, strict=True):
                    sample.logits = row.copy()
                for sample, row in zip(told, self._context.hidden(len(told)), strict=True) if reading else ():
                    sample.hidden = row.copy()


def _cells(samples: Iterable[Held]) -> int:
    """Cells that sequences hold, shared ones counted once."""
    holders = [sample for sample in samples if sample.slot is not None]
    stems = {stem for sample in holders if sample.stem for stem in sample.stem.chain()}
    return sum(sample.own for sample in holders) + sum(stem.cells for stem in stems)
