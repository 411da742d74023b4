"""OptScale (Wang et al., 2025, arXiv 2506.22376): the fewest samples of which one probably reaches a target."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from zip_introspect.config import Settings
from zip_introspect.introspection import joint
from zip_introspect.strategies.base import MetaAction, MetaState, Strategy, all_finished, register
from zip_introspect.strategies.selection import Selection


class OptScaleOptions(Settings):
    """What is good enough, and how surely."""

    target: float = Field(0.9, description="Final value that one sample has to reach, in units of the reward.")
    confidence: float = Field(0.9, gt=0.0, lt=1.0, description="Probability with which it has to.")
    weight: float = Field(
        8.0,
        gt=0.0,
        description="Samples that the forecast at the prompt counts as, beside those that fell short of the target.",
    )


_ROUNDED = 1e-12


@register
class OptScale(Strategy):
    """Runs the fewest samples with P(highest final value >= `target`) >= `confidence`, and stops at the first that
    reaches it.

    The paper takes values as independent draws from one normal distribution cut to [0, 1]; a model predicts its
    parameters from the prompt, and the values seen so far correct them. With F its distribution function, the fewest
    are the least N with 1 - F(target)^N >= confidence. Here the joint at the prompt is the prediction, of any shape.
    Each sample that falls short corrects it: the chance of the next one has a Beta prior, in which that joint counts as
    `weight` samples. A running sample counts with its own joint, so that one with no prospects waits while a new one
    has better. Forecasts are as fine as the head's bins: mass in the target's own bin counts as reaching it. Where
    `max_samples` do not suffice, all are drawn, as in the paper.
    """

    name: ClassVar[str] = "opt_scale"
    selection: ClassVar[Selection] = "value"
    Options: ClassVar[type[Settings]] = OptScaleOptions
    options: OptScaleOptions

    def decide(self, state: MetaState) -> MetaAction:
        """The samples that are likeliest to reach the target, as many as make it likely enough."""
        target, wanted = self.options.target, self.options.confidence
        lowest = int(state.grid.reward_bin(target))
        ended = [sample.value for sample in state.finished if sample.complete]
        if ended and max(ended) >= target:
            return MetaAction(stop="finished", reason=f"a sample of {max(ended):.3f} reaches {target:g}")
        limits = [*(leaf.limit for leaf in state.leaves), state.limit]
        joints = np.array([*(leaf.joint for leaf in state.leaves), state.root_joint])
        within = joint.cap(joints, state.grid.length_bin(limits))
        reaching = joint.value_marginal(within)[:, lowest:].sum(axis=1).clip(0.0, 1.0)
        *leaves, fresh = (reaching * (target <= state.grid.reward_edges[-1])).tolist()
        left = max(0, min(self.samples_at_most() - state.started, state.room))
        # The chance that the next one falls short too, given that all before it did.
        tries = np.arange(left) + len(state.finished) + self.options.weight
        short = 1.0 - self.options.weight * fresh / tries
        hopes: list[tuple[float, int | None]] = [(1.0 - miss, None) for miss in short.tolist()]
        hopes += [(chance, leaf.sample) for chance, leaf in zip(leaves, state.leaves, strict=True)]
        if not hopes:
            return all_finished(state.started)
        hopes.sort(key=lambda hope: (-hope[0], hope[1] is None))
        failing = np.cumprod([1.0 - chance for chance, _ in hopes])
        enough = int(np.searchsorted(-failing, wanted - 1.0 - _ROUNDED)) + 1
        run = tuple(sample for _, sample in hopes[:enough] if sample is not None)
        new = min(enough, len(hopes)) - len(run)
        chance = 1.0 - failing[min(enough, len(hopes)) - 1]
        return MetaAction(
            run=run, new=new, reason=f"one of these reaches {target:g} with a probability of {chance:.3f}"
        )
