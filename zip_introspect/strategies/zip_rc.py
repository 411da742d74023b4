"""ZIP-RC sampling: at every decision, the meta-action with the highest sampling utility (eq. 13, 19, A.2)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zip_introspect import joint, meta_actions
from zip_introspect.grid import JointGrid
from zip_introspect.meta_actions import HorizonMode
from zip_introspect.result import UtilityReport
from zip_introspect.selection import Selection
from zip_introspect.strategies.base import Leaf, MetaAction, MetaState, Strategy, register


@register
class ZipRC(Strategy):
    """Continues the leaves and starts the samples that are worth most together, and stops when nothing beats keeping
    the best finished sample.

    - Unfinished samples, paused ones too, and the root are weighed anew at each decision, by their smoothed joints.
      What a sample may no longer take (max_new_tokens, context, budget) caps its joint first, so that an end out of
      reach is worth the lowest reward (eq. 25).
    - A finished sample stays in the running as a constant, its final value, at no further cost.
    - There is no stopping without a complete answer: while there is none and nothing is worth its cost, the most
      useful way to the end of a sample is taken, uncapped, since an answer is owed.
    - Handing the question on to a stronger model is one more constant in the maximum: what it is worth, its cost taken
      off. It can still be done later, so going on is worth that much at least; and no answer is owed where it is open.
    """

    name: ClassVar[str] = "zip_rc"
    selection: ClassVar[Selection] = "value"

    def decide(self, state: MetaState) -> MetaAction:
        """The best meta-action, or a stop."""
        answers = [sample.value for sample in state.finished if sample.complete]
        hand_on = state.hand_on is not None and state.hand_on > max(answers, default=-math.inf)
        if not state.leaves and not state.room:
            if hand_on:
                return MetaAction(stop="handed_on", reason=_worth_more(state), tokens_saved=0.0)
            return MetaAction(stop="finished", reason=f"all {state.started} samples are finished")
        answered = bool(answers)
        best = self._best(state, self.config.horizon)
        if best.worth_running:
            rival = "for handing on" if hand_on else "for what is finished"
            reason = f"utility {best.utility.value:.3f} beats {best.keep_value:.3f} {rival}"
        elif hand_on:
            alone = self.decide(replace(state, hand_on=None))
            saved = alone.utility.expected_compute if alone.stop is None and alone.utility else 0.0
            report = _report(best, answered=True)
            return MetaAction(stop="handed_on", reason=_worth_more(state), utility=report, tokens_saved=saved)
        elif answered:
            reason = (
                f"the best finished sample's {best.keep_value:.3f} beats running on, worth {best.utility.value:.3f}"
            )
            return MetaAction(stop="utility", reason=reason, utility=_report(best, answered))
        else:
            best = self._best(state, "none")
            reason = f"no sample is complete yet, so the best is run to its end at utility {best.utility.value:.3f}"
        chosen = sorted((state.leaves[i] for i in best.leaves), key=_priority)
        return MetaAction(
            run=tuple(leaf.sample for leaf in chosen),
            new=best.new_samples,
            reason=reason,
            utility=_report(best, answered or state.hand_on is not None),
        )

    def _best(self, state: MetaState, horizon: HorizonMode) -> meta_actions.MetaAction:
        """The best meta-action that the tokens left can carry, shared evenly by those that run."""
        best = self._best_of(state, horizon, len(state.leaves) + state.room, state.tokens_left)
        if state.tokens_left is None or state.tokens_left >= best.size * (state.grid.length_edges[-1] - 1):
            return best
        sizes = {1, *(best.size >> shift for shift in range(best.size.bit_length()))} - {0}
        shared = [self._best_of(state, horizon, size, max(1, state.tokens_left // size)) for size in sorted(sizes)]
        return max(shared, key=lambda action: action.utility.value)

    def _best_of(
        self, state: MetaState, horizon: HorizonMode, max_active: int, share: int | None
    ) -> meta_actions.MetaAction:
        counted = state.prompt_tokens if self.config.count_prompt else 0
        # One estimate a decision, over all that might run (eq. 28): with the mean of each candidate set's own members,
        # adding a long sample would make the others look cheaper.
        roots = [state.root_remaining] if state.room or not state.leaves else []
        totals = [*roots, *(leaf.length + leaf.remaining for leaf in state.leaves)]
        share = state.limit if share is None else share
        limits = np.array([*(min(leaf.limit, share) for leaf in state.leaves), min(state.limit, share)])
        reachable = _within(np.array([*(leaf.joint for leaf in state.leaves), state.root_joint]), limits, state.grid)
        return meta_actions.best_meta_action(
            reachable[:-1],
            reachable[-1],
            state.grid,
            alpha=self.config.alpha,
            beta=self.config.beta,
            leaf_lengths=[leaf.length + counted for leaf in state.leaves],
            root_length=counted,
            finished_values=[
                *(sample.value for sample in state.finished),
                *([] if state.hand_on is None else [state.hand_on]),
            ],
            typical_length=max(1.0, counted + sum(totals) / len(totals)),
            max_new=state.room,
            max_active=max_active,
            horizon=horizon,
            search=self.config.search,
        )


def _within(joints: NDArray[np.float64], limits: NDArray[np.int64], grid: JointGrid) -> NDArray[np.float64]:
    """The joints, shape (n, B_V, B_T), of samples that are cut after `limits` more tokens, shape (n,): what lies beyond
    is worth the lowest reward.

    Lengths are taken as even within the bin that a limit divides.
    """
    last, each = grid.length_bin(limits), np.arange(len(limits))
    low, high = np.ceil(grid.length_edges[last]), np.ceil(grid.length_edges[last + 1])
    reached = np.clip((limits + 1 - low) / np.maximum(high - low, 1.0), 0.0, 1.0)
    capped = joint.cap(joints, last)
    lost = (1.0 - reached)[:, None] * capped[each, 1:, last]
    capped[each, 1:, last] -= lost
    capped[each, 0, last] += lost.sum(axis=1)
    return capped


def _worth_more(state: MetaState) -> str:
    return f"handing on is worth {state.hand_on:.3f}, more than going on and than what is finished"


def _priority(leaf: Leaf) -> tuple[float, float]:
    """Who is served first when the budget runs short: the most promising, then the nearest to its end."""
    return -leaf.value, leaf.remaining


def _report(best: meta_actions.MetaAction, answered: bool) -> UtilityReport:
    utility = best.utility
    return UtilityReport(
        chosen=utility.value,
        keep=best.keep_value if answered else None,
        expected_reward=utility.expected_reward,
        expected_compute=utility.expected_compute,
        expected_latency=utility.expected_latency,
        horizon=utility.horizon,
        beta=best.normalized_beta,
    )
