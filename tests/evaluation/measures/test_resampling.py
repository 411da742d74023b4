"""Resampling until a verifier accepts, against every order in which stored samples may be drawn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.stored import simulated
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.measures.resampling import resampled, verifiers

SAMPLES = st.integers(1, 5).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(st.booleans(), st.booleans()), min_size=size, max_size=size), min_size=1, max_size=3
    )
)


def played(samples: list[tuple[bool, bool]], attempts: int) -> tuple[float, float, float]:
    """Answered, right and paid, on average over all orders."""
    rows: list[tuple[bool, bool, int]] = []
    for order in itertools.permutations(samples):
        for paid, (accepted, right) in enumerate(order[:attempts], 1):
            if accepted:
                rows.append((True, right, paid))
                break
        else:
            rows.append((False, False, attempts))
    answered, right, paid = np.mean(np.array(rows, dtype=float), axis=0)
    return float(answered), float(right), float(paid)


@given(SAMPLES)
def test_expectations_are_those_over_all_orders(samples: list[list[tuple[bool, bool]]]) -> None:
    accepted, right = np.moveaxis(np.array(samples), -1, 0)
    found = resampled("any", accepted, right)
    assert found.attempts == len(samples[0])
    for place, row in enumerate(samples):
        for attempts in range(1, found.attempts + 1):
            got = [getattr(found, name)[place, attempts - 1] for name in ("answered", "right", "samples")]
            assert got == pytest.approx(played(row, attempts), abs=1e-9)


@given(SAMPLES)
def test_false_accepts_never_shrink_and_a_perfect_verifier_has_none(samples: list[list[tuple[bool, bool]]]) -> None:
    accepted, right = np.moveaxis(np.array(samples), -1, 0)
    found = resampled("any", accepted, right)
    assert (np.diff(found.answered - found.right, axis=1) >= -1e-12).all()
    perfect = resampled("perfect", right, right)
    assert perfect.answered == pytest.approx(perfect.right)
    assert perfect.net(found.attempts, 4.0) == pytest.approx(right.any(axis=1).mean())


def test_more_attempts_make_worse_answers_where_hard_questions_fool_the_verifier() -> None:
    easy = [(True, True)] * 3 + [(False, False)]
    hard = [(True, False)] + [(False, False)] * 3
    accepted, right = np.moveaxis(np.array([easy, hard]), -1, 0)
    found = resampled("fooled", accepted, right)
    precision = [found.precision(attempts).value for attempts in (1, 2, 3, 4)]
    assert precision == pytest.approx([0.75, 2 / 3, 4 / 7, 0.5])
    assert found.false_accepts(4).value == 0.5
    assert np.argmax([found.net(attempts, 4.0) for attempts in (1, 2, 3, 4)]) == 0
    assert np.isnan(resampled("never", np.zeros((2, 3)), np.ones((2, 3))).precision(3).value)


def test_verifiers_of_stored_rollouts_accept_what_is_finished_and_high() -> None:
    _, rollouts = simulated(questions=6, samples=4)
    for threshold, found in zip((0.3, 0.6), verifiers(rollouts, (0.3, 0.6)), strict=True):
        accepts = [
            np.mean([item.finished and rollouts.final_value(item) >= threshold for item in problem.rollouts])
            for problem in rollouts.problems
        ]
        assert found.answered[:, 0].tolist() == pytest.approx(accepts)
    options: dict[str, Any] = {"head": False}
    with pytest.raises(EvaluationDataError, match="no joints"):
        verifiers(simulated(questions=2, **options)[1])
