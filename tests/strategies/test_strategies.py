from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect import strategies
from zip_introspect.backend.contract import Backend
from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError
from zip_introspect.events import SearchFailed, SearchFinished
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.utility import sampling_utility
from zip_introspect.result import GenerationResult
from zip_introspect.search import continuous_batch
from zip_introspect.search.request import Request
from zip_introspect.strategies import Finished, Leaf, MetaAction, MetaState, Strategy
from zip_introspect.strategies.selection import Selection
from zip_introspect.strategies.zip_rc import _within
from zip_introspect.testing.simulator import SimulatedBackend

GRID = JointGrid(
    reward_edges=[0.0, 0.5, 1.0],
    reward_values=[0.0, 1.0],
    length_edges=[0.0, 4.0, 8.0, 16.0],
    length_values=[2.0, 6.0, 12.0],
    first_reserved=0,
)
SURE_AND_NEAR = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
HOPELESS = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
OPEN = np.array([[0.1, 0.2, 0.2], [0.1, 0.2, 0.2]])
ONLY_LATE = np.array([[0.0, 0.0, 0.1], [0.0, 0.0, 0.9]])


def leaf(sample: int, joint: np.ndarray, length: int = 4, limit: int = 100, grid: JointGrid = GRID) -> Leaf:
    value = float(joint.sum(axis=1) @ grid.reward_values)
    remaining = float(joint.sum(axis=0) @ grid.length_values)
    return Leaf(sample, length, joint, value, remaining, limit, running=True)


def state(
    leaves: tuple[Leaf, ...] = (),
    finished: tuple[Finished, ...] = (),
    root: np.ndarray = OPEN,
    limit: int = 100,
    room: int | None = None,
    grid: JointGrid = GRID,
    **config: Any,
) -> MetaState:
    settings = GenerationConfig(**{"beta": 0.1, **config})
    started = len(leaves) + len(finished)
    room = settings.max_samples - started if room is None else room
    at_root = leaf(0, root, grid=grid)
    return MetaState(
        1, grid, settings, 10, root, at_root.value, at_root.remaining, leaves, finished, started, room, limit
    )


def decide(of: MetaState) -> MetaAction:
    return strategies.chosen(of.config, joints=True)(of.config).decide(of)


def test_unknown_strategies_are_named_beside_the_known() -> None:
    with pytest.raises(
        ConfigError,
        match=r"strategy is .beam.; .*no head: adaptive_consistency, .*a head: .*zip_rc.*forks: beam",
    ):
        strategies.get("beam")


def test_zip_rc_continues_what_is_sure_and_pauses_the_rest() -> None:
    action = decide(state((leaf(0, HOPELESS, 40), leaf(1, SURE_AND_NEAR), leaf(2, OPEN, 40))))
    assert action.run == (1,)
    assert action.new == 0
    assert action.stop is None
    assert action.utility is not None
    assert action.utility.keep is None


def test_zip_rc_stops_when_the_best_finished_sample_cannot_be_beaten() -> None:
    action = decide(state((leaf(0, OPEN),), (Finished(1, 9, 1.0, complete=True),)))
    assert action.stop == "utility"
    assert action.utility is not None
    assert action.utility.keep == 1.0
    assert action.utility.chosen < 1.0


def test_zip_rc_goes_on_while_another_sample_is_worth_its_cost() -> None:
    finished = (Finished(0, 9, 0.3, complete=True),)
    assert decide(state((), finished, beta=0.01)).new > 0
    assert decide(state((), finished, beta=10.0)).stop == "utility"


FINE = JointGrid.paper(0, num_length_bins=3, startup=4)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("beta", [1e-9, 1e-3, 0.05])
def test_another_sample_of_the_same_bin_is_no_gain(alpha: float, beta: float) -> None:
    sure = np.zeros(FINE.shape)
    sure[-1, 0] = 1.0  # of the top bin, whose representative is 0.9375
    for value in (0.88, 0.93, 0.99):
        done = (Finished(1, 9, value, complete=True),)
        action = decide(state((leaf(0, sure, grid=FINE),), done, sure, grid=FINE, alpha=alpha, beta=beta))
        assert action.stop == "utility"
        assert action.utility is not None
        assert action.utility.keep == FINE.reward_values[-1]
        assert f"{action.utility.keep:.3f}" in action.reason
    below = (Finished(1, 9, 0.87, complete=True),)
    assert decide(state((leaf(0, sure, grid=FINE),), below, sure, grid=FINE, alpha=alpha, beta=beta)).stop is None


def test_a_sample_that_was_cut_lifts_nothing() -> None:
    """Of a grid whose lowest reward lies on the edge of its bin, so within the next bin."""
    grid = JointGrid(
        reward_edges=[0.0, 0.5, 1.0], reward_values=[0.5, 0.9], length_edges=[0.0, 4.0, 8.0, 16.0], first_reserved=0
    )
    cut = (Finished(1, 9, 0.5, complete=False),)
    action, without = (decide(state((leaf(0, OPEN, grid=grid),), done, room=5, grid=grid)) for done in (cut, ()))
    assert action.stop is None
    assert action == without


@given(st.floats(0.0, 1.0), st.sampled_from([SURE_AND_NEAR, HOPELESS, OPEN, ONLY_LATE]), st.floats(1e-6, 2.0))
def test_a_finished_sample_counts_as_its_bin_does(value: float, joint: np.ndarray, beta: float) -> None:
    action, at_its_bin = (
        decide(state((leaf(0, joint),), (Finished(1, 9, held, complete=True),), joint, beta=beta))
        for held in (value, float(GRID.representative(value)))
    )
    assert action == at_its_bin


def test_zip_rc_owes_an_answer_however_dear() -> None:
    cut = (Finished(0, 9, 0.0, complete=False),)
    action = decide(state((leaf(1, HOPELESS),), cut, root=HOPELESS, beta=100.0))
    assert action.stop is None
    assert len(action.run) + action.new == 1
    # Capping is for plans that may be given up: this one is run to its end.
    assert action.utility is not None
    assert action.utility.horizon == GRID.num_length_bins - 1


def test_zip_rc_charges_a_plan_that_may_be_pruned_with_the_answer_still_owed() -> None:
    soon_or_late = np.array([[0.0, 0.0, 0.7], [0.3, 0.0, 0.0]])
    of = state(root=soon_or_late, beta=3.0)
    action = decide(of)
    beta = 3.0 / of.root_remaining
    way_on = of.root_value - 3.0  # one sample to its end
    plans = {}
    for new, horizon in itertools.product(range(1, 9), range(3)):
        utility = sampling_utility(np.array([soon_or_late] * new), GRID, 0.1, beta, horizon=horizon)
        plans[new, horizon] = utility.value + (0.7**new * way_on if horizon < 2 else 0.0)
    best = max(plans, key=plans.__getitem__)
    assert best == (8, 0)
    assert action.utility is not None
    assert (action.new, action.utility.horizon) == best
    assert action.utility.chosen == pytest.approx(plans[best])


@given(st.integers(0, 10**6), st.sampled_from(["shared", "per_prefix", "none"]))
def test_zip_rc_never_does_worse_by_its_own_utility_than_one_sample_to_its_end(seed: int, horizon: str) -> None:
    rng = np.random.default_rng(seed)
    joints = rng.dirichlet(np.full(6, 0.5), size=4).reshape(4, *GRID.shape)
    of = state(tuple(leaf(i, joint) for i, joint in enumerate(joints[1:])), root=joints[0], beta=2.0, horizon=horizon)
    totals = [of.root_remaining, *(item.length + item.remaining for item in of.leaves)]
    beta = 2.0 / float(np.mean(totals))
    action = decide(of)
    assert action.stop is None
    assert action.utility is not None
    alone = max(sampling_utility(joint[None], GRID, 0.1, beta, horizon=2).value for joint in joints)
    assert action.utility.chosen >= alone - 1e-9


def test_zip_rc_does_not_pay_for_an_end_out_of_reach() -> None:
    finished = (Finished(0, 9, 0.3, complete=True),)
    reachable = decide(state((leaf(1, ONLY_LATE),), finished, root=ONLY_LATE, beta=0.01))
    assert reachable.stop is None
    out_of_reach = decide(state((leaf(1, ONLY_LATE, limit=5),), finished, root=ONLY_LATE, limit=5, beta=0.01))
    assert out_of_reach.stop == "utility"


def test_zip_rc_starts_no_more_samples_than_the_tokens_can_carry() -> None:
    evenly = np.array([[0.0, 0.5, 0.0], [0.0, 0.5, 0.0]])  # 4 to 7 tokens
    plenty = decide(state(root=evenly, beta=0.001))
    assert plenty.new == 8
    # 16 tokens carry two whole samples, and eight of 2 tokens would all be cut.
    assert 1 <= decide(dataclasses.replace(state(root=evenly, beta=0.001, limit=16), tokens_left=16)).new <= 3


@pytest.mark.parametrize(("limit", "value"), [(3, 0.0), (4, 0.25), (5, 0.5), (7, 1.0), (9, 1.0)])
def test_a_limit_within_a_bin_reaches_its_share_of_it(limit: int, value: float) -> None:
    sure = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # right after 4 to 7 tokens
    capped = _within(sure[None], np.array([limit]), GRID)[0]
    assert capped.sum() == pytest.approx(1.0)
    assert capped.sum(axis=1) @ GRID.reward_values == pytest.approx(value)


def test_zip_rc_serves_the_most_promising_first() -> None:
    action = decide(state((leaf(0, OPEN), leaf(1, ONLY_LATE)), beta=0.0001, max_samples=2))
    assert action.run == (1, 0)


def test_zip_rc_is_done_when_nothing_is_left() -> None:
    action = decide(state((), (Finished(0, 3, 0.1, complete=True),), room=0))
    assert action.stop == "finished"


def test_the_cost_of_one_sample_does_not_depend_on_its_company() -> None:
    alone = decide(state((leaf(0, SURE_AND_NEAR), leaf(1, HOPELESS, 4_000)), room=0))
    assert alone.run == (0,)


def test_best_of_n_runs_everything_and_refills_to_n() -> None:
    action = decide(state((leaf(0, HOPELESS), leaf(2, OPEN)), strategy="best_of_n", max_samples=5, room=3))
    assert action.run == (0, 2)
    assert action.new == 3
    assert decide(state((), (Finished(0, 3, 0.1, True),), strategy="single")).stop == "finished"


@strategies.register
class ForkOnce(Strategy):
    """Starts one sample, then branches it twice at the first decision and runs all to the end."""

    name: ClassVar[str] = "fork_once"
    selection: ClassVar[Selection] = "value"

    def decide(self, state: MetaState) -> MetaAction:
        if not state.started:
            return MetaAction(new=1)
        if state.started == 1 and state.leaves:
            return MetaAction(forks=((0, 2),), drop=(0,))
        run = tuple(leaf.sample for leaf in state.leaves)
        return MetaAction(run=run) if run else MetaAction(stop="finished", reason="all done")


def outcome(backend: Backend, budget: Budget | None = None, **config: Any) -> GenerationResult:
    settings = GenerationConfig(**{"strategy": "fork_once", "interval": 3, **config})
    *_, last = continuous_batch.run(backend, [Request((1, 2, 3), settings, budget or Budget())])
    if isinstance(last, SearchFailed):
        raise last.error
    assert isinstance(last, SearchFinished)
    return last.result


def test_branching_strategies_fork_at_a_leaf_and_may_drop_it() -> None:
    backend = SimulatedBackend()
    result = outcome(backend)
    stem, *branches = result.samples
    assert stem.status == "dropped"
    assert [branch.parent for branch in branches] == [0, 0]
    assert all(branch.token_ids[:3] == stem.token_ids for branch in branches)
    assert branches[0].token_ids != branches[1].token_ids
    assert result.decisions[1].forked == ((0, 1), (0, 2))
    assert result.decisions[1].dropped == (0,)
    # The stem's tokens were generated once, and are paid for once.
    assert result.usage.generated_tokens == sum(sample.tokens for sample in result.samples) - 2 * 3
    assert backend.held == 0


def test_forks_count_as_samples() -> None:
    with pytest.raises(ValueError, match="fork_once asked for 2 samples where 1 may start"):
        outcome(SimulatedBackend(), Budget(max_samples=2))


JOINTS = st.sampled_from([SURE_AND_NEAR, HOPELESS, OPEN, ONLY_LATE])


@given(
    leaves=st.lists(JOINTS, max_size=4),
    values=st.lists(st.floats(0.0, 1.0), max_size=3),
    root=JOINTS,
    worth=st.floats(0.01, 0.99),
    beta=st.floats(0.001, 2.0),
    room=st.integers(0, 3),
)
def test_handing_on_is_weighed_as_an_answer_in_a_bin_of_its_own_would_be(
    leaves: list[np.ndarray], values: list[float], root: np.ndarray, worth: float, beta: float, room: int
) -> None:
    grid = JointGrid(
        reward_edges=[0.0, worth - 0.001, worth + 0.001, 1.0],
        reward_values=[0.0, worth, 1.0],
        length_edges=GRID.length_edges,
        length_values=GRID.length_values,
        first_reserved=0,
    )
    growing = tuple(leaf(number, np.insert(joint, 1, 0.0, axis=0), grid=grid) for number, joint in enumerate(leaves))
    done = tuple(Finished(10 + number, 9, value, complete=True) for number, value in enumerate(values))
    here = state(growing, done, np.insert(root, 1, 0.0, axis=0), room=room, grid=grid, beta=beta)
    action = decide(dataclasses.replace(here, hand_on=worth))
    if worth <= max(values, default=-np.inf):
        assert action == decide(here)
        return
    twin = decide(dataclasses.replace(here, finished=(*done, Finished(99, 9, worth, complete=True))))
    assert (action.run, action.new) == (twin.run, twin.new)
    assert (action.stop == "handed_on") == (twin.stop is not None)
    if action.stop == "handed_on":
        alone = decide(here)
        expected = alone.utility.expected_compute if alone.stop is None and alone.utility else 0.0
        assert action.tokens_saved == expected
        assert f"{worth:.3f}" in action.reason


def test_handing_on_is_held_against_the_finished_value_itself() -> None:
    done = (Finished(0, 9, 0.6, complete=True),)  # of the bin whose representative is 1
    assert decide(dataclasses.replace(state((), done, room=0), hand_on=0.7)).stop == "handed_on"
    assert decide(dataclasses.replace(state((), done), hand_on=0.7)).stop == "handed_on"
    kept = decide(dataclasses.replace(state((), done), hand_on=0.5))
    assert kept.stop == "utility"
    assert kept.reason == decide(state((), done)).reason


@pytest.mark.parametrize(("worth", "rival"), [(0.4, "0.400 for handing on"), (0.2, "0.000 for what is finished")])
def test_the_reason_names_what_running_on_is_held_against(worth: float, rival: str) -> None:
    done = (Finished(0, 9, 0.3, complete=True),)
    action = decide(dataclasses.replace(state((), done, beta=0.001), hand_on=worth))
    assert action.stop is None
    assert rival in action.reason


def test_a_hopeless_question_is_handed_on_before_its_tokens_are_paid_for() -> None:
    action = decide(dataclasses.replace(state(root=HOPELESS, beta=0.5), hand_on=0.3))
    assert action.stop == "handed_on"
    assert action.tokens_saved is not None
    assert action.tokens_saved >= 12.0
    assert decide(dataclasses.replace(state(root=SURE_AND_NEAR, beta=0.05), hand_on=0.3)).new > 0
