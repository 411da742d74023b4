"""Cross-fitting: it finds what there is, admits where there is nothing, and never judges a question by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zip_introspect.fitting.training import ATTACHABLE, HeadShape, cross_fit, folds_of, train
from zip_introspect.heads.head import Head
from zip_introspect.introspection.grid import JointGrid

GRID = JointGrid.paper(0, num_reward_bins=2, num_length_bins=2)
CANDIDATES = (HeadShape(0, 0.1), HeadShape(0, 30.0), HeadShape(8, 1.0))


def problem(seed: int, signal: float) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features of 60 questions with 10 rows each, labels that two of them decide, and a luck that each question has."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), 10)
    features = rng.normal(size=(600, 12)) + 3 * rng.normal(size=(60, 12))[groups]
    scores = signal * np.stack([features[:, 0], features[:, 1], -features[:, 0], -features[:, 1]], 1)
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return features.astype(np.float32), labels, groups


@given(st.lists(st.integers(0, 30), min_size=5, max_size=200), st.integers(2, 5), st.integers(0, 9))
def test_rows_of_a_question_are_held_out_together(groups: list[int], folds: int, seed: int) -> None:
    found = folds_of(np.array(groups), folds, seed)
    assert all(len(set(found[np.array(groups) == group])) == 1 for group in groups)
    sizes = np.bincount([found[groups.index(group)] for group in set(groups)], minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_what_there_is_to_know_is_found_and_known_of_questions_held_out() -> None:
    features, labels, groups = problem(0, 1.5)
    found = cross_fit(features, labels, groups, 4, candidates=CANDIDATES, epochs=60)
    assert found.loss < found.prior - 0.3
    assert found.loss == min(found.losses.values())
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert -np.log(found.probabilities[np.arange(600), labels]).mean() == pytest.approx(found.loss, rel=1e-5)
    again = cross_fit(features, labels, groups, 4, candidates=CANDIDATES, epochs=60)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)


def test_where_there_is_nothing_to_know_it_says_hardly_more_than_frequencies() -> None:
    features, labels, groups = problem(1, 0.0)
    found = cross_fit(features, labels, groups, 4, candidates=CANDIDATES, epochs=20)
    assert found.loss == pytest.approx(found.prior, abs=0.03)


@pytest.mark.parametrize("hidden", [0, 8])
def test_weights_take_features_as_they_are(hidden: int) -> None:
    features, labels, _ = problem(2, 1.5)
    features = features * 5 + 100  # far from standard, as hidden states are
    weights = train(features, labels, 4, HeadShape(hidden, 0.1), 40)
    head = Head.of(GRID, weights, hidden_size=6)
    logits = head.logits(features[:, :6], features[:, 6:])
    assert (logits.argmax(1) == labels).mean() > 0.55


def test_without_a_bias_the_constant_direction_takes_its_place() -> None:
    """Labels of very unequal frequency, over states that share a large component, as those of language models do."""
    features, labels, groups = problem(3, 1.5)
    labels = np.where(np.random.default_rng(0).uniform(size=labels.size) < 0.7, 0, labels)
    features[:, 5] = 40 + 0.1 * features[:, 5]
    biased, free = (
        cross_fit(features, labels, groups, 4, candidates=shapes, epochs=60) for shapes in (CANDIDATES[:2], ATTACHABLE)
    )
    assert not free.candidate.biased
    assert free.loss == pytest.approx(biased.loss, abs=0.02)
    weights = train(features, labels, 4, free.candidate, free.epochs)
    assert not weights["0.bias"].any()
    logits = features @ weights["0.weight"].T
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert -np.log(probabilities[np.arange(600), labels]).mean() < free.loss + 0.02
