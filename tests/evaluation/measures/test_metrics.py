"""Metrics against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.evaluation.measures.cost import generation_cost, paired_difference
from zip_introspect.evaluation.measures.metrics import (
    auroc,
    auroc_within,
    classification,
    expected_calibration_error,
    measured_joint,
    total_variation,
)
from zip_introspect.evaluation.replay.voting import Scored, best_of_n, expenses, majority_vote, windows
from zip_introspect.introspection.grid import JointGrid

GRID = JointGrid(reward_edges=(0.0, 0.5, 1.0), length_edges=(0, 4, 8), first_reserved=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4)), min_size=2, max_size=24))
def test_auroc_counts_pairs(samples: list[tuple[int, bool, int]]) -> None:
    def pairs(inside: list[tuple[int, bool, int]]) -> list[float]:
        rights, wrongs = ([v for _, r, v in inside if r is wanted] for wanted in (True, False))
        return [(a > b) + 0.5 * (a == b) for a in rights for b in wrongs]

    problems, right, values = (list(column) for column in zip(*samples, strict=True))
    if pairs(samples):
        assert auroc(right, values) == pytest.approx(np.mean(pairs(samples)))
    found = [pairs([s for s in samples if s[0] == problem]) for problem in set(problems)]
    means = [np.mean(scores) for scores in found if scores]
    within, count = auroc_within(problems, right, values)
    assert count == len(means)
    if means:
        assert within == pytest.approx(np.mean(means))


def test_calibration_error_of_a_known_case() -> None:
    assert expected_calibration_error([1, 1, 0, 0], [0.95, 0.95, 0.05, 0.05]) == pytest.approx(0.05)
    assert expected_calibration_error([1, 0], [1.0, 1.0]) == pytest.approx(0.5)


def test_total_variation_of_measured_joints() -> None:
    first = measured_joint(GRID, [0.1, 0.9], [2, 100])
    assert first.tolist() == [[0.5, 0.0], [0.0, 0.5]]
    second = measured_joint(GRID, [0.1, 0.1], [2, 6])
    assert total_variation(first, second) == pytest.approx(0.5)
    assert total_variation(first, first) == 0


def test_classification_matches_counting() -> None:
    found = classification([1, 1, 0, 0, 0], [0.9, 0.2, 0.1, 0.7, 0.3])
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["recall_incorrect"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(0.5)


def test_votes_break_ties_in_expectation() -> None:
    right, wrong, other = Scored("4", True, 0.2, 10), Scored("5", False, 0.9, 30), Scored("6", False, 0.1, 20)
    assert majority_vote([right, wrong]) == 0.5
    assert majority_vote([right, wrong, other]) == pytest.approx(1 / 3)
    assert majority_vote([right, right, wrong]) == 1.0
    assert majority_vote([Scored(None, False, 0.0, 5)]) == 0.0
    assert best_of_n([right, wrong]) == 0.0
    assert best_of_n([right, other]) == 1.0
    assert expenses([right, wrong], 7) == (47.0, 30.0)
    assert len(windows([right, wrong, other], 2)) == 3


def test_cost_is_one_for_a_single_sample() -> None:
    assert generation_cost([30.0], [20.0], [30.0], [20.0], 0.1) == pytest.approx([1.0])
    assert generation_cost([50.0], [20.0], [30.0], [20.0], 0.5) == pytest.approx([0.5 * 50 / 30 + 0.5])


def test_differences_are_taken_at_equal_cost_and_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    n = 400
    rival_cost = np.stack([np.full(n, 1.0), np.full(n, 2.0)])
    rival_right = (rng.random((2, n)) < np.array([[0.5], [0.7]])).astype(float)
    right = (rng.random(n) < 0.8).astype(float)
    found = paired_difference(right, np.full(n, 1.5), rival_right, rival_cost, resamples=300)
    assert found.low < found.value < found.high
    assert found.low < 0.2 < found.high
    assert found.value == pytest.approx(right.mean() - rival_right.mean(), abs=1e-9)
    cheap = paired_difference(right, np.full(n, 0.5), rival_right, rival_cost, resamples=10)
    assert cheap.value == pytest.approx(right.mean() - rival_right[0].mean())
