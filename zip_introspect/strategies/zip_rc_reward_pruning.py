"""Pruning by expected reward alone: the paper's ablation of the sampling utility (section 6.1, baseline 5)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from zip_introspect.config import Settings
from zip_introspect.strategies.base import MetaAction, MetaState, dropping, register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.selection import Selection


class RewardPruningOptions(Settings):
    """What reward pruning takes beside the config."""

    threshold: float = Field(0.4, description="Expected reward below which a sample is dropped.")


@register
class ZipRCRewardPruning(BestOfN):
    """A fixed pool of samples; each is dropped for good once its expected reward (eq. 8) is below the threshold.

    The most promising sample is never dropped while none is complete, since an answer is owed.
    """

    name: ClassVar[str] = "zip_rc_reward_pruning"
    selection: ClassVar[Selection] = "value"
    Options: ClassVar[type[Settings]] = RewardPruningOptions
    options: RewardPruningOptions

    def decide(self, state: MetaState) -> MetaAction:
        """All samples that are still worth the threshold."""
        weak = {leaf.sample for leaf in state.leaves if leaf.value < self.options.threshold}
        if len(weak) == len(state.leaves) and weak and not any(sample.complete for sample in state.finished):
            weak.remove(max(state.leaves, key=lambda leaf: (leaf.value, -leaf.sample)).sample)
        reason = f"expected to be worth less than {self.options.threshold:g}"
        return dropping(super().decide(state), tuple(sorted(weak)), reason)
