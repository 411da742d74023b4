"""Closing the thoughts of samples: where their budget is used up, or where going on is worth less than answering now.

Budget forcing (Muennighoff et al. 2025, s1: Simple test-time scaling, arXiv 2501.19393) writes the marker that closes
a thought where the sample has not, and lets it go on with its answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zip_introspect.backend.contract import Advanced, Backend, SequenceId, joint_grid
from zip_introspect.budget import Ledger
from zip_introspect.config import GenerationConfig, SamplingParams
from zip_introspect.introspection import joint
from zip_introspect.introspection.closing import gain_of_thinking_on
from zip_introspect.introspection.utility import normalized_beta
from zip_introspect.search.samples import Samples
from zip_introspect.search.thought_rules import ThoughtRules
from zip_introspect.search.thought_text import ThinkingText
from zip_introspect.strategies import MetaAction


class ThoughtKeeper:
    """Closes the thoughts of one search's samples.

    Args:
        sequences: of its samples, by number; one whose thought is closed may get another.
    """

    def __init__(
        self,
        rules: ThoughtRules,
        config: GenerationConfig,
        sampling: SamplingParams,
        backend: Backend,
        samples: Samples,
        ledger: Ledger,
        sequences: dict[int, SequenceId],
    ) -> None:
        self._rules, self._config, self._sampling, self._backend = rules, config, sampling, backend
        self._samples, self._ledger, self._sequences = samples, ledger, sequences
        self._probed: dict[int, int] = {}
        """Length of each sample at the last look at what closing it is worth."""

    def steps(self, sample: int | None, wanted: int) -> int:
        """Of the tokens that a sample wants, those that it may take before its thought has to be closed.

        Args:
            sample: None is one that begins.
        """
        text = None if sample is None else self._samples.thinking_text(sample)
        length = 0 if sample is None else self._samples.trie.length(sample)
        most = self._rules.steps(text, length)
        if most is not None:
            kept = self._depth_to_think(), self._tokens_to_think() if sample is None else None
            most = min([most, *(left for left in kept if left is not None)])
        # Where the budget does not pay for closing it, it may as well think on.
        return wanted if not most else min(wanted, most)

    def close(self, running: Sequence[int]) -> list[int]:
        """Close the thoughts of running samples that are due it, or that are not worth going on with.

        Returns:
            the samples after whose closing the logits were not finite.
        """
        thinking = [number for number in running if number in self._sequences and self._thinks(number)]
        due = thinking if self._depth_to_think() == 0 else [number for number in thinking if self._is_due(number)]
        broken = self._close_due(due)
        if self._rules.by == "joint" and not broken:
            self._close_by_joint([number for number in thinking if number not in due])
        return broken

    def last_call(self, action: MetaAction, interval: int) -> tuple[MetaAction, list[int]]:
        """Where the tokens left would soon be too few for an answer and there is none yet: one sample alone goes on.

        It is the first that answers, or else the first that thinks, whose thought is closed now, or else a new one.

        Returns:
            the meta-action, and the samples after whose closing the logits were not finite.
        """
        spare = self._tokens_to_think()
        moving = len(action.run) + action.new + sum(count for _, count in action.forks)
        if spare is None or action.stop is not None or spare >= moving * interval:
            return action, []
        if action.new == moving:
            if not spare or moving * min(interval, self.steps(None, self._samples.longest)) <= spare:
                return action, []
            return replace(action, new=1, reason=f"{action.reason}; the budget is for the answer of one sample"), []
        answering = [number for number in action.run if self._text(number).phase == "answering"]
        chosen = next(iter([*answering, *(number for number in action.run if self._closable(number))]), None)
        if chosen is None:
            return action, []
        broken = self._close_due([chosen]) if self._thinks(chosen) else []
        if self._thinks(chosen):  # what is left does not pay for that
            return action, []
        reason = f"{action.reason}; what is left of the budget is for the answer of sample {chosen}"
        return replace(action, run=(chosen,), new=0, forks=(), reason=reason), broken

    def _is_due(self, number: int) -> bool:
        return self._rules.steps(self._text(number), self._length(number)) == 0

    def _depth_to_think(self) -> int | None:
        """Serial steps that depth and the clock leave before thoughts have to be closed; None is no limit."""
        left = self._ledger.depth_left
        if left is None or self._rules.by == "never":
            return None
        return max(0, left - 1 - self._kept(self._ledger.depth + left))

    def _tokens_to_think(self) -> int | None:
        """Tokens of the budget beyond what closing a thought and an answer take; None is no limit, or an answer."""
        left = self._ledger.tokens_left
        answered = any(ending.complete for ending in self._samples.endings.values())
        if left is None or self._rules.by == "never" or answered:
            return None
        return max(0, left - len(self._rules.forced) - self._kept(self._ledger.tokens + left))

    def _kept(self, whole: int) -> int:
        """What is kept for an answer of so many tokens or steps in all: a quarter of a budget at the most."""
        return min(self._rules.answer, max(1, whole // 4))

    def _close_due(self, due: Sequence[int]) -> list[int]:
        """Close the first of some thoughts, as many as can be paid for."""
        due = [number for number in due if self._closable(number)]
        given = {number: self._sequences[number] for number in due[: self._affordable(len(due))]}
        if not given:
            return []
        found = self._append(list(given.values()))
        for number, advanced in zip(given, found, strict=True):
            self._samples.close(number, advanced, "count")
        return [number for number, advanced in zip(given, found, strict=True) if advanced.non_finite]

    def _close_by_joint(self, thinking: Sequence[int]) -> None:
        """Compare going on with answering now, on copies (`introspection.closing`), and keep the better ones."""
        interval = self._rules.probe_interval
        closable = filter(self._closable, thinking)
        wanted = [item for item in closable if self._length(item) - self._probed.get(item, 0) >= interval]
        wanted.sort(key=lambda number: self._probed.get(number, 0))
        at_once = len(wanted) if self._backend.info.max_sequences is None else min(1, len(wanted))
        wanted = wanted[: self._affordable(at_once)]
        if not wanted:
            return
        self._probed |= {number: self._length(number) for number in wanted}
        copies: dict[int, SequenceId] = {}
        try:
            for number in wanted:
                (copies[number],) = self._backend.fork(self._sequences[number], [number], self._sampling)
            found = self._append(list(copies.values()))
            for number, advanced in zip(wanted, found, strict=True):
                if not advanced.non_finite and self._better_closed(number, advanced):
                    self._sequences[number], copies[number] = copies[number], self._sequences[number]
                    self._samples.close(number, advanced, "joint")
        finally:
            self._backend.release(list(copies.values()))

    def _better_closed(self, number: int, advanced: Advanced) -> bool:
        samples, grid, config = self._samples, joint_grid(self._backend), self._config
        running = samples.trie.leaves("active", "paused")
        remaining = [seen.remaining for leaf in running if (seen := samples.outlook(leaf)) is not None]
        price = normalized_beta(config.beta, [self._length(leaf) for leaf in running], remaining)
        values = [ending.value for ending in samples.endings.values() if ending.complete]
        finished = [float(grid.representative(value)) for value in values if value is not None]
        gain = gain_of_thinking_on(
            samples.trie.joint(number),
            joint.from_logits(advanced.joint_logits[0], grid),
            grid,
            alpha=config.alpha,
            price=price,
            closing=len(self._rules.forced),
            best=max(finished, default=None),
            limit=samples.longest - self._length(number),
        )
        return gain <= 0.0

    def _append(self, sequences: Sequence[SequenceId]) -> list[Advanced]:
        """What closes a thought, appended to sequences, and entered as spent: its tokens in one serial step."""
        begun, forced = time.perf_counter(), self._rules.forced
        found = self._backend.append(sequences, [forced] * len(sequences))
        self._ledger.spend(len(forced) * len(sequences), 1, time.perf_counter() - begun)
        return [replace(item, non_finite=not _finite(item)) for item in found]

    def _affordable(self, most: int) -> int:
        """How many of so many thoughts the budget allows to close, with an answer of a token at the least."""
        if self._ledger.exhausted() or self._ledger.depth_left in (0, 1):
            return 0
        return self._ledger.lots(len(self._rules.forced) + 1, most)

    def _thinks(self, number: int) -> bool:
        return self._text(number).phase == "thinking"

    def _closable(self, number: int) -> bool:
        return self._thinks(number) and self._rules.closable(self._length(number))

    def _text(self, number: int) -> ThinkingText:
        return self._samples.thinking_text(number)

    def _length(self, number: int) -> int:
        return self._samples.trie.length(number)


def _finite(advanced: Advanced) -> bool:
    return not advanced.non_finite and bool(np.isfinite(advanced.joint_logits).all())
