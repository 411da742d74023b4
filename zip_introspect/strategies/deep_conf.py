"""Confidence pruning after DeepConf (Fu et al., 2025): a scalar signal, a warm-up, a percentile."""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar

import numpy as np
from pydantic import Field

from zip_introspect.config import GenerationConfig, Settings
from zip_introspect.strategies.base import MetaAction, MetaState, dropping, register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.selection import Selection


class DeepConfOptions(Settings):
    """What confidence pruning takes beside the config."""

    warmup: int = Field(3, ge=1, description="Samples run to their ends before the threshold is set.")
    keep: float = Field(0.9, gt=0.0, le=1.0, description="Share of the warm-up samples that the threshold would keep.")
    window: int = Field(4, ge=1, description="Decisions whose expected rewards are averaged into a group confidence.")


@register
class DeepConf(BestOfN):
    """DeepConf's online rule with the expected reward (eq. 8) as its confidence: what pruning can do with a scalar.

    The group confidence is the mean over the last `window` decisions. `warmup` samples run to their ends; the
    threshold is the percentile of their lowest group confidences that keeps a share of `keep`. The others then start,
    and each is dropped once its group confidence falls below it. Votes weighted by final values choose.
    """

    name: ClassVar[str] = "deep_conf"
    selection: ClassVar[Selection] = "weighted_majority"
    Options: ClassVar[type[Settings]] = DeepConfOptions
    options: DeepConfOptions

    def __init__(self, config: GenerationConfig) -> None:
        super().__init__(config)
        self._trace: defaultdict[int, list[float]] = defaultdict(list)
        self._lowest: dict[int, float] = {}
        self._threshold: float | None = None

    def decide(self, state: MetaState) -> MetaAction:
        """The warm-up samples until they are finished, then the others while their confidence lasts."""
        groups = {leaf.sample: self._group(leaf.sample, leaf.value) for leaf in state.leaves}
        warmup = min(self.options.warmup, self.samples_at_most())
        if state.started < warmup:
            new = min(warmup - state.started, state.room)
            run = tuple(leaf.sample for leaf in state.leaves)
            if new or run:
                return MetaAction(run=run, new=new, reason=f"{warmup} samples set the threshold")
        if self._threshold is None:
            if state.leaves:
                run = tuple(leaf.sample for leaf in state.leaves)
                return MetaAction(run=run, reason=f"{warmup} samples set the threshold")
            lowest = [self._lowest[sample] for sample in self._lowest]
            self._threshold = float(np.quantile(lowest, 1.0 - self.options.keep)) if lowest else -np.inf
        weak = tuple(sample for sample, group in groups.items() if group < self._threshold)
        return dropping(super().decide(state), weak, f"group confidence below {self._threshold:.3f}")

    def _group(self, sample: int, value: float) -> float:
        """Take in a sample's confidence; the mean over its window."""
        trace = self._trace[sample]
        trace.append(value)
        group = float(np.mean(trace[-self.options.window :]))
        self._lowest[sample] = min(group, self._lowest.get(sample, group))
        return group
