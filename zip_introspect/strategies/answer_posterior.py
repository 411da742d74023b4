"""Answer posterior: the answer that is most probably right, by values and by votes, and samples while they tell more.

Ours; `docs/answer-posterior.md` derives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zip_introspect.answers.extraction import key
from zip_introspect.config import GenerationConfig, Settings
from zip_introspect.errors import ConfigError
from zip_introspect.introspection import joint, plans
from zip_introspect.introspection.answer_plans import Prospects, Scenarios
from zip_introspect.introspection.order_statistics import expectation_from_cdf
from zip_introspect.introspection.posterior import NOTHING_SAID, AnswerModel, Belief
from zip_introspect.introspection.utility import SamplingUtility, capped_statistics
from zip_introspect.strategies.adaptive_consistency import AdaptiveConsistency, AdaptiveConsistencyOptions
from zip_introspect.strategies.base import Finished, MetaAction, MetaState, Verdict, register
from zip_introspect.strategies.selection import Selection
from zip_introspect.strategies.zip_rc import ZipRC

_WEIGHED = 32
"""Samples that one decision weighs, the most promising ones; more of them may start at the next."""


class AnswerPosteriorOptions(AdaptiveConsistencyOptions):
    """What is believed of answers, and when votes are settled where there are no values."""

    answers: AnswerModel = Field(default_factory=AnswerModel, description="What is believed of samples and answers.")


@register
class AnswerPosterior(ZipRC):
    """Each complete sample is evidence for its answer, by its value and by being said again.

    - Another sample is worth what it is expected to raise the posterior of the best answer by, less its price; the
      meta-actions, the price of tokens and handing on are those of `zip_rc`.
    - The answer with the highest posterior is chosen, and that posterior is its confidence; of its samples the one with
      the highest value stands for it. A sample without an answer that can be read says what no other sample says.
    - A model without a head has no values: then votes decide, as in `adaptive_consistency`.
    """

    name: ClassVar[str] = "answer_posterior"
    selection: ClassVar[Selection] = "majority"  # where there are no values
    needs_joints: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = AnswerPosteriorOptions
    options: AnswerPosteriorOptions

    def __init__(self, config: GenerationConfig) -> None:
        super().__init__(config)
        votes = {"overtaken": self.options.overtaken}
        self._by_votes = AdaptiveConsistency(config.replace(strategy_options=votes))
        self._belief: Belief | None = None
        self._standing = NOTHING_SAID
        self._kept: Scenarios | None = None

    def decide(self, state: MetaState) -> MetaAction:
        """The best meta-action, or a stop."""
        if state.bins is None:
            return self._by_votes.decide(state)
        self._hear(state)
        return super().decide(state)

    def demand(self, state: MetaState) -> NDArray[np.float64]:
        """As that of `zip_rc`; what a complete sample is worth is its answer's posterior."""
        shares = self._hear(state)
        told = (replace(item, value=shares[_says(item)]) if item.complete else item for item in state.finished)
        return super().demand(replace(state, finished=tuple(told)))

    def _hear(self, state: MetaState) -> dict[str, float]:
        """Take in what the complete samples have said; the posterior of each answer."""
        grid = state.grid
        if self._belief is None:
            if not (grid.reward_values[0] >= 0 and grid.reward_values[-1] <= 1):
                raise ConfigError(
                    f"the grid's rewards go from {grid.reward_values[0]:g} to {grid.reward_values[-1]:g}; "
                    f"answer_posterior needs probabilities of being right, from 0 to 1. Choose another strategy"
                )
            self._belief = Belief(self.options.answers, state.root_value)
        said = ((_says(sample), sample.value) for sample in state.finished if sample.complete)
        standing = self._belief.standing(said)
        self._standing = self._standing if standing == self._standing else standing
        return dict(zip(standing.answers, standing.posterior, strict=True))

    def verdict(self, finished: Sequence[Finished]) -> Verdict | None:
        """The sample that stands for the most probable answer."""
        complete = [sample for sample in finished if sample.complete]
        if self._belief is None or not complete:
            return None
        standing = self._belief.standing((_says(sample), sample.value) for sample in complete)
        sure = max(standing.posterior)
        answer = standing.answers[standing.posterior.index(sure)]
        stands = max((s for s in complete if _says(s) == answer), key=lambda s: (s.value, -s.sample))
        return Verdict(stands.sample, sure, "both")

    def _answers(self, state: MetaState) -> list[float]:
        return list(self._standing.posterior)

    def _debt(self, state: MetaState, reachable: NDArray[np.float64]) -> float | None:
        return self._way(state, reachable)

    def _best_of(
        self,
        state: MetaState,
        reachable: NDArray[np.float64],
        max_active: int,
        weights: tuple[float, float],
        debt: float | None = None,
    ) -> plans.Plan:
        assert self._belief is not None
        grid, (alpha, beta) = state.grid, weights
        price = beta / self._typical_length(state)
        rows = np.concatenate([reachable[:-1], np.repeat(reachable[-1:], min(state.room, _WEIGHED), axis=0)])
        # Those first that are likely to be right for what they cost.
        open_still = 1.0 - max(self._standing.posterior, default=0.0)
        worth = joint.expected_value(rows, grid) * open_still / 2.0 - price * joint.expected_length(rows, grid)
        order = (-worth).argsort(kind="stable")[: min(max_active, _WEIGHED)]
        rows = rows[order]
        capped = capped_statistics(rows, grid)
        compute = capped.lengths.cumsum(axis=0)
        latency = expectation_from_cdf(capped.cdfs[..., grid.num_reward_bins - 1 :].cumprod(axis=0), grid.length_values)
        cost = price * (alpha * compute + (1.0 - alpha) * latency)
        values = grid.reward_values
        otherwise = -np.inf if state.hand_on is None else state.hand_on
        prospects = Prospects(
            self._scenarios(len(rows), values), rows, otherwise=otherwise, nothing=min(0.0, debt or 0.0)
        )
        # Whether some are to be pruned where they are long: as seems best by the chance that one of them is right.
        promise = 1.0 - (1.0 - (values @ rows).cumsum(axis=1)).cumprod(axis=0)
        place, until = divmod(int((open_still * promise - cost).argmax()), grid.num_length_bins)
        best = np.full(cost.shape, -np.inf)
        if self.config.horizon == "none" or until == grid.num_length_bins - 1:
            best[:, -1] = prospects.by_size()[1:]
        else:
            by_size, best[place] = prospects.by_size_and_horizon(place + 1)
            best[:, -1] = by_size[1:]
        utility = best - cost
        k, h = divmod(int(utility.argmax()), grid.num_length_bins)
        leaves = tuple(sorted(place for place in order[: k + 1].tolist() if place < len(state.leaves)))
        value, reward, tokens, steps = (float(part[k, h]) for part in (utility, best, compute, latency))
        found = SamplingUtility(value, reward, tokens, steps, h)
        return plans.Plan(leaves, k + 1 - len(leaves), found, prospects.best, price)

    def _scenarios(self, samples: int, values: NDArray[np.float64]) -> Scenarios:
        """Those of what has been said; kept until another sample is complete."""
        assert self._belief is not None
        kept = self._kept
        if kept is None or kept.standing is not self._standing or kept.samples != samples:
            self._kept = kept = Scenarios(self._belief, self._standing, samples, values)
        return kept


def _says(sample: Finished) -> str:
    """The key of its answer; without one, something that no other sample says."""
    return f"\0{sample.sample}" if sample.answer is None else key(sample.answer)
