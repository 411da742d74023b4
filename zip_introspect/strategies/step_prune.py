"""Pruning in the manner of STEP (Liang et al., 2026, arXiv 2601.09093): where memory runs short, the sample of the
lowest mean value goes first.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from zip_introspect.config import GenerationConfig, Settings
from zip_introspect.strategies.base import Leaf, MetaAction, MetaState, dropping, register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.selection import Selection


class StepPruneOptions(Settings):
    """What pruning for memory takes beside the config."""

    max_tokens_held: int | None = Field(
        None, ge=1, description="Generated tokens of all running samples together; None drops none."
    )


@register
class StepPrune(BestOfN):
    """The samples of best-of-N while they fit into `max_tokens_held`; where the next interval would not, those of the
    lowest mean expected reward (eq. 8) are dropped first. Votes weighted by final values choose.

    A sample's mean is over its decisions so far, as the paper's is over the steps of its reasoning, which a classifier
    of hidden states scores at every blank line; here a decision is a step, and the head's joint the score. The paper
    prunes where the GPU's cache is full, and weighs votes by the means. New samples start as they fit. The last one
    running is never dropped.
    """

    name: ClassVar[str] = "step_prune"
    selection: ClassVar[Selection] = "weighted_majority"
    Options: ClassVar[type[Settings]] = StepPruneOptions
    options: StepPruneOptions

    def __init__(self, config: GenerationConfig) -> None:
        super().__init__(config)
        self._values: defaultdict[int, list[float]] = defaultdict(list)

    def decide(self, state: MetaState) -> MetaAction:
        """All unfinished samples that fit, the most promising of them if need be, and new ones beside them."""
        for leaf in state.leaves:
            self._values[leaf.sample].append(leaf.value)
        action, most = super().decide(state), self.options.max_tokens_held
        if most is None or action.stop is not None:
            return action
        kept = sorted(state.leaves, key=self._promise)
        weak = []
        while len(kept) > 1 and sum(self._held(leaf.length) for leaf in kept) > most:
            weak.append(kept.pop().sample)
        free = most - sum(self._held(leaf.length) for leaf in kept)
        new = min(action.new, max(free // self._held(0), 0 if kept else 1))
        return dropping(replace(action, new=new), tuple(weak), f"{most} tokens cannot hold all")

    def samples_at_once(self) -> int:
        """As many as can begin at once."""
        most = self.options.max_tokens_held
        return self.samples_at_most() if most is None else min(self.samples_at_most(), max(1, most // self._held(0)))

    def _held(self, length: int) -> int:
        """Tokens of a sample of this length after the next interval."""
        return min(length + self.config.interval, self.config.max_new_tokens)

    def _promise(self, leaf: Leaf) -> tuple[float, int]:
        values = self._values[leaf.sample]
        return -sum(values) / len(values), leaf.sample
