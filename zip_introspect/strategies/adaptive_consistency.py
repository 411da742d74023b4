"""Adaptive-Consistency (Aggarwal et al., 2023): samples until the answer that leads is unlikely to be overtaken."""

from __future__ import annotations

from collections import Counter
from math import comb
from typing import ClassVar

from pydantic import Field

from zip_introspect.answers.extraction import key
from zip_introspect.config import Settings
from zip_introspect.strategies.base import MetaAction, MetaState, Strategy, all_finished, register
from zip_introspect.strategies.selection import Selection


class AdaptiveConsistencyOptions(Settings):
    """When votes are settled."""

    overtaken: float = Field(
        0.05,
        gt=0.0,
        lt=0.5,
        description="Stop where the answer that leads is overtaken by the next one with at most this probability.",
    )


@register
class AdaptiveConsistency(Strategy):
    """Adaptive-Consistency with its Beta criterion: votes until they are settled, or `max_samples` have been cast.

    It needs no joints. As many samples run at once as it takes at least, should all of them vote for the answer that
    leads: so none is drawn that the same rule, one sample at a time, would have spared. Where none of these ends in an
    answer, the question is none that votes can settle, and no more are drawn.
    """

    name: ClassVar[str] = "adaptive_consistency"
    selection: ClassVar[Selection] = "majority"
    needs_joints: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = AdaptiveConsistencyOptions
    options: AdaptiveConsistencyOptions

    def decide(self, state: MetaState) -> MetaAction:
        """All unfinished samples, and new ones while the votes are open."""
        answers = [sample.answer for sample in state.finished if sample.complete and sample.answer is not None]
        ranked = Counter(map(key, answers)).most_common(2)
        first, second = (*(count for _, count in ranked), 0, 0)[:2]
        risk = overtaking(first, second)
        if first and risk <= self.options.overtaken:
            said = f"{first} votes to {second}: overtaken with a probability of {risk:.3f}"
            return MetaAction(stop="finished", reason=said)
        silent = sum(sample.complete and sample.answer is None for sample in state.finished)
        if not first and silent >= self._needed(0, 0):
            return MetaAction(stop="finished", reason=f"none of {silent} samples has an answer to vote for")
        run = tuple(leaf.sample for leaf in state.leaves)
        left = min(self.samples_at_most() - state.started, state.room)
        new = max(0, min(left, self._needed(first, second) - len(run)))
        if not run and not new:
            return all_finished(state.started)
        return MetaAction(run=run, new=new, reason=f"{first} votes to {second} of {state.started} samples: open")

    def _needed(self, first: int, second: int) -> int:
        """Further votes for the leading answer that settle it."""
        more = 1
        while overtaking(first + more, second) > self.options.overtaken:
            more += 1
        return more


def overtaking(first: int, second: int) -> float:
    """The probability that the answer with fewer votes of two is the likelier one, from a uniform prior.

    The lower half of Beta(first + 1, second + 1): for whole numbers a tail of the binomial distribution, and exact.
    """
    draws = first + second + 1
    return float(sum(comb(draws, count) for count in range(first + 1, draws + 1)) / 2**draws)
