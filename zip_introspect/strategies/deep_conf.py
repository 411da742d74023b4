"""DeepConf (Fu et al., 2025, arXiv 2508.15260): samples that are less sure than the first ones were are dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from zip_introspect.answers.extraction import key
from zip_introspect.config import GenerationConfig, Settings
from zip_introspect.result import TokenConfidence
from zip_introspect.strategies.base import Finished, MetaAction, MetaState, Verdict, dropping, register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.selection import Selection

_CONSENSUS = 0.95
_OF_TOKENS = ("tokens", "likelihood")


class DeepConfOptions(Settings):
    """What confidence pruning takes beside the config, whose `confidence_window` makes the groups of tokens."""

    signal: Literal["tokens", "likelihood", "value"] | None = Field(
        None,
        description="tokens: the paper's. likelihood: of the tokens drawn. value: expected reward. None: value with a "
        "head, tokens without.",
    )
    warmup: int = Field(3, ge=1, description="Samples run to their ends before the threshold is set.")
    keep: float = Field(0.9, gt=0.0, le=1.0, description="Share of the warm-up samples that the threshold would keep.")
    window: int = Field(4, ge=1, description="Of value: decisions averaged into a group confidence.")
    consensus: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Stop where the leading answer has this share of the votes. None: never by value, else 0.95.",
    )

    @model_validator(mode="after")
    def _of_its_signal(self) -> DeepConfOptions:
        if self.signal in _OF_TOKENS and "window" in self.model_fields_set:
            raise ValueError("window is of signal='value'; groups of tokens are set by confidence_window")
        return self


@register
class DeepConf(BestOfN):
    """DeepConf's online rule: by how sure the model is of its tokens, or by the expected reward (eq. 8) in its place.

    `warmup` samples run to their ends; the threshold is the percentile of their lowest group confidences that keeps a
    share of `keep` (the paper's eta: 0.1 or 0.9). The others then start, and each is dropped once a group of it falls
    below the threshold. Votes choose, weighted by confidence, and end the search once they agree.

    By tokens it needs no head. A group is `confidence_window` tokens (2,048 in the paper, whose samples take tens of
    thousands), and no sample is dropped before its first group is whole. A vote weighs the lowest group confidence of
    its sample, and samples below the threshold have none. `likelihood` is the same rule with another confidence: the
    geometric mean of the probabilities of what was drawn. By value a group is the mean over the last `window`
    decisions, and a vote weighs the final value: what pruning can do with a scalar of a head's.
    """

    name: ClassVar[str] = "deep_conf"
    selection: ClassVar[Selection] = "weighted_majority"
    needs_joints: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = DeepConfOptions
    options: DeepConfOptions

    def __init__(self, config: GenerationConfig) -> None:
        super().__init__(config)
        self._trace: defaultdict[int, list[float]] = defaultdict(list)
        self._lowest: dict[int, float] = {}
        self._threshold: float | None = None
        self._by_tokens = self.options.signal in _OF_TOKENS

    def reads_joints(self) -> bool:
        """By value."""
        return self.options.signal == "value"

    def reads_confidences(self, joints: bool) -> bool:
        """By tokens, as it works without a head unless it is told otherwise."""
        return self.options.signal in _OF_TOKENS or (self.options.signal is None and not joints)

    def decide(self, state: MetaState) -> MetaAction:
        """The warm-up samples until they are finished, then the others while their confidence lasts."""
        self._by_tokens = self.reads_confidences(state.bins is not None)
        groups = self._groups_of_tokens(state) if self._by_tokens else self._groups_of_values(state)
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
        if (share := self._agreed(state.finished)) >= self._consensus:
            return MetaAction(stop="finished", reason=f"the leading answer has {share:.0%} of the votes")
        weak = tuple(sample for sample, group in groups.items() if group < self._threshold)
        return dropping(super().decide(state), weak, f"group confidence below {self._threshold:.3f}")

    def verdict(self, finished: Sequence[Finished]) -> Verdict | None:
        """By tokens, the answer with the most weight, and its share as the confidence.

        The share is taken as agreement takes it: with one sample's weight for what was not seen yet.
        """
        if not self._by_tokens or not (votes := self._votes(finished)):
            return None
        answer = max(votes, key=lambda answer: votes[answer])
        samples = [item for item in finished if self._voted(item) == answer]
        best = max(samples, key=lambda item: (self._weight(item), -item.sample))
        weights = [self._weight(item) for item in finished if self._stands(item)]
        unseen = sum(weights) / len(weights)
        return Verdict(best.sample, votes[answer] / (sum(weights) + unseen), "agreement")

    @property
    def _consensus(self) -> float:
        if self.options.consensus is not None:
            return self.options.consensus
        return _CONSENSUS if self._by_tokens else np.inf

    def _agreed(self, finished: Sequence[Finished]) -> float:
        """The leading answer's share of the votes; 0 where fewer than two were cast."""
        votes = self._votes(finished)
        total, cast = sum(votes.values()), sum(self._voted(item) is not None for item in finished)
        return max(votes.values()) / total if total > 0 and cast > 1 else 0.0

    def _votes(self, finished: Sequence[Finished]) -> dict[str, float]:
        """The weight of each answer, by its key, in the order of the samples."""
        votes: dict[str, float] = {}
        for item in finished:
            if (answer := self._voted(item)) is not None:
                votes[answer] = votes.get(answer, 0.0) + self._weight(item)
        return votes

    def _voted(self, item: Finished) -> str | None:
        """The key of the answer that a sample votes for; None where it has no vote."""
        return key(item.answer) if item.complete and item.answer is not None and self._stands(item) else None

    def _stands(self, item: Finished) -> bool:
        """Whether a finished sample counts; by tokens those below the threshold do not."""
        return not self._by_tokens or self._threshold is None or self._weight(item) >= self._threshold

    def _weight(self, item: Finished) -> float:
        if not self._by_tokens:
            return item.value
        return self._least(item.token_confidence) if item.token_confidence else 0.0

    def _least(self, sure: TokenConfidence) -> float:
        """The confidence of the group that is least sure."""
        return sure.lowest_likelihood if self.options.signal == "likelihood" else sure.lowest

    def _groups_of_tokens(self, state: MetaState) -> dict[int, float]:
        """The lowest group confidence of each unfinished sample that has a whole group."""
        self._lowest |= {
            item.sample: self._least(item.token_confidence) for item in state.finished if item.token_confidence
        }
        return {
            leaf.sample: self._least(leaf.token_confidence)
            for leaf in state.leaves
            if leaf.token_confidence and leaf.length >= self.config.confidence_window
        }

    def _groups_of_values(self, state: MetaState) -> dict[int, float]:
        """The group confidence of each unfinished sample, its latest value taken in."""
        return {leaf.sample: self._group(leaf.sample, leaf.value) for leaf in state.leaves}

    def _group(self, sample: int, value: float) -> float:
        """Take in a sample's expected reward; the mean over its window."""
        trace = self._trace[sample]
        trace.append(value)
        group = float(np.mean(trace[-self.options.window :]))
        self._lowest[sample] = min(group, self._lowest.get(sample, group))
        return group
