"""Votes on stored samples count answers, not spellings."""

from __future__ import annotations

import pytest

from zip_introspect.evaluation.replay.voting import Scored, majority_vote


def samples(*rows: tuple[str | None, bool]) -> list[Scored]:
    return [Scored(answer, right, 0.5, 10) for answer, right in rows]


def test_spellings_of_one_answer_vote_together() -> None:
    assert (
        majority_vote(samples(("$29.00", True), ("029", True), (r"\text{29}", True), ("30", False), ("30", False))) == 1
    )


def test_ties_count_in_expectation() -> None:
    assert majority_vote(samples(("29", True), ("29.0", True), ("30", False), ("30.0", False))) == pytest.approx(0.5)


def test_samples_without_an_answer_do_not_vote() -> None:
    assert majority_vote(samples((None, False), (None, False), ("29", True))) == 1
    assert majority_vote(samples((None, False))) == 0
