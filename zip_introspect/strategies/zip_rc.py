"""ZIP-RC sampling: at every decision, the meta-action with the highest sampling utility (eq. 13, 19, A.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zip_introspect.introspection import joint, plans
from zip_introspect.introspection.demand import PRICES
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.utility import TOLERANCE
from zip_introspect.result import UtilityReport
from zip_introspect.strategies.base import Leaf, MetaAction, MetaState, Strategy, all_finished, register
from zip_introspect.strategies.selection import Selection

OWED = "no sample is complete yet"
"""How the reason of a decision begins that owes an answer which is not worth its cost."""


@register
class ZipRC(Strategy):
    """Continues the leaves and starts the samples that are worth most together, and stops when nothing beats keeping
    the best finished sample.

    - Unfinished samples, paused ones too, and the root are weighed anew at each decision, by their smoothed joints.
      What a sample may no longer take (max_new_tokens, context, budget) caps its joint first, so that an end out of
      reach is worth the lowest reward (eq. 25).
    - A finished sample stays in the running as a constant, at no further cost: as the representative of the bin into
      which its final value falls, for a running one counts with its bin's representative too. Otherwise another sample
      of the same bin would seem a gain.
    - There is no stopping without a complete answer: one is owed, whatever it costs. Where the best sample's way to
      its end is worth less than the lowest reward, a plan whose samples may all be pruned (eq. 25) is charged with
      that way for the case that they are: giving up is open to no one.
    - Handing the question on to a stronger model is one more constant in the maximum: what it is worth, its cost taken
      off. It can still be done later, so going on is worth that much at least; and no answer is owed where it is open.
      That worth is an expectation and lies in no bin: it enters as it is, where it is above every finished value.
    - Where a shared budget may run short, a token has a price beside its own cost (`MetaState.price`), and compute
      alone is charged with it. Samples then run one at a time: to wait for one before the next begins takes no tokens,
      and may save some. A question without an answer that is not worth the price is left: others need its tokens more.
    """

    name: ClassVar[str] = "zip_rc"
    selection: ClassVar[Selection] = "value"
    priced: ClassVar[bool] = True

    def decide(self, state: MetaState) -> MetaAction:
        """The best meta-action, or a stop."""
        answers = self._answers(state)
        if state.hand_on is not None and answers and state.hand_on <= max(answers):
            state = replace(state, hand_on=None)
        hand_on = state.hand_on is not None
        if not state.leaves and not state.room:
            if hand_on:
                return MetaAction(stop="handed_on", reason=_worth_more(state), tokens_saved=0.0)
            return all_finished(state.started)
        answered = bool(answers)
        reachable = self._reachable(state, state.tokens_left)
        if state.price and not answered and not hand_on:
            return self._first_answer(state, reachable)
        debt = None if answered or hand_on else self._debt(state, reachable)
        best = self._best(state, reachable, debt)
        if debt is not None:
            reason = f"{OWED}, and this is the best way to an answer, at {best.utility.value:.3f}"
        elif best.worth_running:
            rival = "for handing on" if best.keep_value == state.hand_on else "for what is finished"
            reason = f"utility {best.utility.value:.3f} beats {best.keep_value:.3f} {rival}"
        elif hand_on:
            alone = self.decide(replace(state, hand_on=None))
            saved = alone.utility.expected_compute if alone.stop is None and alone.utility else 0.0
            report = _report(best, answered=True)
            return MetaAction(stop="handed_on", reason=_worth_more(state), utility=report, tokens_saved=saved)
        else:
            held = f"the best finished sample, at its bin's {best.keep_value:.3f},"
            reason = f"{held} beats running on, worth {best.utility.value:.3f}"
            return MetaAction(stop="utility", reason=reason, utility=_report(best, answered))
        return _action(state, best, reason, answered or hand_on)

    def _first_answer(self, state: MetaState, reachable: NDArray[np.float64]) -> MetaAction:
        """The best way to an answer that is worth the price of a shared budget, or none: the question is left.

        What the question's own tokens cost it does not count against being answered: that an answer is owed.
        """
        best = self._best(state, reachable)
        if not best.worth_running:
            best = self._best(state, reachable, at_price_alone=True)
        if best.worth_running:
            return _action(state, best, f"utility {best.utility.value:.3f} beats leaving the question", False)
        reason = (
            f"left: no answer is worth {state.price:.2e} a token, the price at which the shared budget just suffices"
        )
        return MetaAction(stop="budget", reason=reason, utility=_report(best, answered=False))

    def demand(self, state: MetaState) -> NDArray[np.float64]:
        """As of one that draws samples one after another, which it does at a price; without, what its plan takes."""
        curve = super().demand(state)
        if state.price <= PRICES[1] and (state.leaves or state.room):
            free = replace(state, price=0.0)
            plan = self._best(free, self._reachable(free, state.tokens_left))
            if plan.worth_running or not any(sample.complete for sample in state.finished):
                curve[0] = max(curve[0], plan.utility.expected_compute)
        return curve

    def _answers(self, state: MetaState) -> list[float]:
        """What is worth how much of what has been answered: at best one of these; none while nothing is complete."""
        return [sample.value for sample in state.finished if sample.complete]

    def _debt(self, state: MetaState, reachable: NDArray[np.float64]) -> float | None:
        """What the best way to an answer is worth, where that is no more than the lowest reward; None where it is."""
        worth = self._way(state, reachable)
        # Utilities are rounded: what is hardly above the lowest reward may not seem worth running.
        return worth if -np.inf < worth <= state.grid.reward_values[0] + 1e-9 else None

    def _way(self, state: MetaState, reachable: NDArray[np.float64]) -> float:
        """What one sample's way to its end is worth, the best there is; uncapped, that is its utility (eq. 27)."""
        if not state.room:
            reachable = reachable[:-1]
        price = self.config.beta / self._typical_length(state)
        worths = joint.expected_value(reachable, state.grid) - price * joint.expected_length(reachable, state.grid)
        return float(worths.max(initial=-np.inf))

    def _best(
        self,
        state: MetaState,
        reachable: NDArray[np.float64],
        debt: float | None = None,
        at_price_alone: bool = False,
    ) -> plans.Plan:
        """The best meta-action that the tokens left can carry, shared evenly by those that run.

        Where they carry every one of its samples to its end, they take nothing away.
        """
        weights = self._weights(state, at_price_alone)
        at_once = 1 if state.price else len(state.leaves) + state.room
        best = self._best_of(state, reachable, at_once, weights, debt)
        longest = math.ceil(state.grid.length_edges[-1]) - 1  # what lies beyond is in the last bin too
        new = min(state.limit, longest)
        limits = [min(leaf.limit, longest) for leaf in state.leaves]
        needed = sum(limits[i] for i in best.leaves) + new * best.new_samples
        if state.tokens_left is None or state.tokens_left >= needed:
            return best
        sizes = {1, *(best.size >> shift for shift in range(best.size.bit_length()))} - {0}
        most = sorted([*limits, *[new] * state.room], reverse=True)
        shared = [
            self._best_of(state, self._reachable(state, _share(state.tokens_left, most[:size])), size, weights, debt)
            for size in sorted(sizes)
        ]
        return max(shared, key=lambda action: action.utility.value)

    def _best_of(
        self,
        state: MetaState,
        reachable: NDArray[np.float64],
        max_active: int,
        weights: tuple[float, float],
        debt: float | None = None,
    ) -> plans.Plan:
        counted = self._counted(state)
        finished = _standing(state)
        grid = state.grid
        if debt is not None:
            finished = []  # all were cut, and what was cut settles nothing
            grid, reachable = _owing(debt, grid, reachable)
        return plans.best_plan(
            reachable[:-1],
            reachable[-1],
            grid,
            alpha=weights[0],
            beta=weights[1],
            leaf_lengths=[leaf.length + counted for leaf in state.leaves],
            root_length=counted,
            finished_values=finished if state.hand_on is None else [*finished, state.hand_on],
            typical_length=self._typical_length(state),
            max_new=state.room,
            max_active=max_active,
            horizon=self.config.horizon,
            search=self.config.search,
        )

    def _reachable(self, state: MetaState, share: int | None) -> NDArray[np.float64]:
        """The joints of the leaves, and of the root last, within what each may take: shape (n + 1, B_V, B_T)."""
        share = state.limit if share is None else max(1, share)
        limits = np.array([*(min(leaf.limit, share) for leaf in state.leaves), min(state.limit, share)])
        return _within(np.array([*(leaf.joint for leaf in state.leaves), state.root_joint]), limits, state.grid)

    def _weights(self, state: MetaState, at_price_alone: bool = False) -> tuple[float, float]:
        """alpha and beta, with the price of a token in them: compute costs that more, and latency does not."""
        alpha, beta = (1.0, 0.0) if at_price_alone else (self.config.alpha, self.config.beta)
        if not state.price:
            return alpha, beta
        more = state.price * self._typical_length(state)
        return (alpha * beta + more) / (beta + more), beta + more

    def _counted(self, state: MetaState) -> int:
        return state.prompt_tokens if self.config.count_prompt else 0

    def _typical_length(self, state: MetaState) -> float:
        """What beta is divided by: one estimate a decision, over all that might run (eq. 28).

        With the mean of each candidate set's own members, adding a long sample would make the others look cheaper.
        """
        roots = [state.root_remaining] if state.room or not state.leaves else []
        totals = [*roots, *(leaf.length + leaf.remaining for leaf in state.leaves)]
        return max(1.0, self._counted(state) + sum(totals) / len(totals))


def _action(state: MetaState, best: plans.Plan, reason: str, answered: bool) -> MetaAction:
    """What a plan does, its most promising samples first."""
    chosen = sorted((state.leaves[i] for i in best.leaves), key=_priority)
    run = tuple(leaf.sample for leaf in chosen)
    return MetaAction(run=run, new=best.new_samples, reason=reason, utility=_report(best, answered))


def _share(tokens: int, limits: Sequence[int]) -> int:
    """What each may take of the tokens left, shared evenly; what one cannot use goes to the others."""
    for place, limit in enumerate(ascending := sorted(limits)):
        share = tokens // (len(ascending) - place)
        if share <= limit:
            return share
        tokens -= limit
    return max(limits)


def _within(joints: NDArray[np.float64], limits: NDArray[np.int64], grid: JointGrid) -> NDArray[np.float64]:
    """The joints, shape (n, B_V, B_T), of samples that are cut after `limits` more tokens, shape (n,): what lies beyond
    is worth the lowest reward.

    Lengths are taken as even within the bin that a limit divides.
    """
    if (limits >= grid.length_edges[-1]).all():
        return joints
    last, each = grid.length_bin(limits), np.arange(len(limits))
    low, high = np.ceil(grid.length_edges[last]), np.ceil(grid.length_edges[last + 1])
    reached = np.clip((limits + 1 - low) / np.maximum(high - low, 1.0), 0.0, 1.0)
    capped = joint.cap(joints, last)
    lost = (1.0 - reached)[:, None] * capped[each, 1:, last]
    capped[each, 1:, last] -= lost
    capped[each, 0, last] += lost.sum(axis=1)
    return capped


def _owing(debt: float, grid: JointGrid, joints: NDArray[np.float64]) -> tuple[JointGrid, NDArray[np.float64]]:
    """The grid with a reward bin of its own for what is pruned, worth `debt`, and joints (n, B_V, B_T) on it."""
    lowest, edge = float(grid.reward_values[0]), float(grid.reward_edges[0])
    below = min(debt, lowest - TOLERANCE)
    owing = JointGrid(
        reward_edges=[min(below, edge) - 1.0, (below + lowest) / 2 if below > edge else edge, *grid.reward_edges[1:]],
        reward_values=[below, *grid.reward_values],
        length_edges=grid.length_edges,
        length_values=grid.length_values,
    )
    return owing, np.concatenate([np.zeros_like(joints[:, :1]), joints], axis=1)


def _standing(state: MetaState) -> list[float]:
    """What each finished sample counts for in the maximum; one that was cut, for the lowest reward."""
    return [
        float(state.grid.representative(sample.value)) if sample.complete else sample.value for sample in state.finished
    ]


def _worth_more(state: MetaState) -> str:
    return f"handing on is worth {state.hand_on:.3f}, more than going on and than what is finished"


def _priority(leaf: Leaf) -> tuple[float, float]:
    """Who is served first when the budget runs short: the most promising, then the nearest to its end."""
    return -leaf.value, leaf.remaining


def _report(best: plans.Plan, answered: bool) -> UtilityReport:
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
