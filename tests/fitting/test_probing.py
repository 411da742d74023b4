"""Probes from rollouts: what is asked of a sample is what is learnt, where there is something to see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fitting.made_up import SIZE, rollouts
from zip_introspect import TrainingDataError
from zip_introspect.evaluation.store.rollout_file import Rollouts, StoredRollout
from zip_introspect.fitting import labels, probing
from zip_introspect.fitting.probing import Labelled
from zip_introspect.fitting.states import States
from zip_introspect.fitting.training import HeadShape
from zip_introspect.heads.targets import IGNORED, Bernoulli, Binned, Categorical, RewardCost

SHAPES = (HeadShape(0, 1.0),)


@pytest.fixture(scope="module")
def stored() -> Rollouts:
    return rollouts()


@given(st.integers(1, 40), st.booleans(), st.integers(1, 40))
def test_passing_a_length_is_known_of_prefixes_that_have_not(length: int, finished: bool, tokens: int) -> None:
    sample = StoredRollout(
        np.zeros(length, np.int32), "", None, False, finished, np.zeros((length + (not finished), 0), np.float16)
    )
    positions = np.arange(length if finished else length + 1)
    expected = []
    for position in positions:
        if position >= tokens:
            expected.append(IGNORED)  # settled already
        elif finished:
            expected.append(int(length > tokens))
        else:  # at least one token more would have come
            expected.append(1 if length + 1 > tokens else IGNORED)
    assert Bernoulli().labels(probing.passes(tokens)(sample, positions)).tolist() == expected


def test_every_prefix_is_asked_about(stored: Rollouts) -> None:
    states, limit = States.of(stored), 30
    found = Labelled.of(stored, Bernoulli(), probing.passes(limit))
    known = (states.position < limit) & (states.finished | (states.length >= limit))[states.rollout]
    assert found.position.tolist() == states.position[known].tolist()
    assert found.labels.tolist() == (states.length[states.rollout] > limit)[known].astype(int).tolist()
    np.testing.assert_array_equal(found.last, states.last[known])
    np.testing.assert_array_equal(found.question, states.groups[known])


def test_one_outcome_may_hold_for_a_whole_sample(stored: Rollouts) -> None:
    target = Categorical(names=("right", "wrong"))
    found = Labelled.of(stored, target, lambda sample, positions: "right" if sample.right else "wrong")
    states = States.of(stored)
    assert found.labels.tolist() == (~states.right[states.rollout]).astype(int).tolist()


def test_reward_and_cost_are_a_target_as_others(stored: Rollouts) -> None:
    states = States.of(stored)
    made = labels.made(states)
    values = iter(made.values)

    def outcome(sample: StoredRollout, positions: NDArray[np.int64]) -> Any:
        left = len(sample.tokens) - positions
        return np.stack([np.full(len(left), next(values)), left], axis=-1)

    assert Labelled.of(stored, RewardCost(grid=made.grid), outcome).labels.tolist() == made.cells.tolist()


def test_what_shows_in_the_states_is_foretold(stored: Rollouts) -> None:
    fitted = probing.fit(
        stored, Bernoulli(), probing.passes(30), candidates=SHAPES, inputs=("last",), note={"foretells": "length"}
    )
    assert fitted.trained.loss < fitted.trained.prior - 0.1  # the states tell the length to within ten tokens
    assert fitted.rows.loss(fitted.trained.probabilities) == pytest.approx(fitted.trained.loss, rel=1e-4)
    assert fitted.rows.loss(fitted.rows.frequencies(2)) == pytest.approx(fitted.trained.prior, rel=1e-4)
    unseen = Labelled.of(rollouts(seed=1), Bernoulli(), probing.passes(30))
    foretold = fitted.probe.probabilities(unseen.last, unseen.mean)
    assert unseen.loss(foretold) < unseen.loss(fitted.rows.frequencies(2)) - 0.1
    assert fitted.probe.about.card["foretells"] == "length"
    assert (fitted.probe.about.hidden_size, fitted.probe.about.inputs) == (SIZE, ("last",))


def test_a_number_is_foretold_by_its_mean(stored: Rollouts) -> None:
    target = Binned(edges=tuple(range(0, 72, 8)))
    fitted = probing.fit(stored, target, lambda sample, positions: len(sample.tokens) - positions, candidates=SHAPES)
    rows = fitted.rows
    found, real = target.expectation(fitted.trained.probabilities), target.representatives[rows.labels]
    assert np.abs(found - real).mean() < 0.75 * np.abs(real.mean() - real).mean()


def test_what_cannot_be_learnt_is_refused(stored: Rollouts) -> None:
    with pytest.raises(TrainingDataError, match=r"0 prefixes of 0 questions.*Collect more"):
        probing.fit(stored, Bernoulli(), lambda sample, positions: None)
    with pytest.raises(TrainingDataError, match=r"of 60 questions have known outcomes, (\d+) of them the same"):
        probing.fit(stored, Bernoulli(), lambda sample, positions: True)
    few = replace(stored, problems=stored.problems[:5])
    with pytest.raises(TrainingDataError, match=r"of 5 questions .*expected 20 questions"):
        probing.fit(few, Bernoulli(), probing.passes(30))
    with pytest.raises(TrainingDataError, match=r"outcomes of shape \(2,\) of \d+ prefixes; expected one of each"):
        Labelled.of(rollouts(20, 1), Bernoulli(), lambda sample, positions: [True, False])
