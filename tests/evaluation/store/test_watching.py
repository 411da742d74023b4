"""What is said after the first questions, and when going on would be in vain."""

from __future__ import annotations

import time

import numpy as np
import pytest

from zip_introspect.errors import TrainingDataError
from zip_introspect.evaluation.store.rollout_file import Question, QuestionRollouts, StoredRollout
from zip_introspect.evaluation.store.watching import Stopped, Watch


def problem(right: list[bool], tokens: int = 10) -> QuestionRollouts:
    made = [
        StoredRollout(np.zeros(tokens, np.int32), "", None, item, True, np.zeros((tokens, 0), np.float16))
        for item in right
    ]
    return QuestionRollouts(Question("a", "b"), (1,), tuple(made))


def test_a_row_of_right_answers_is_no_reason_to_stop_until_it_is_long() -> None:
    said: list[str] = []
    watch = Watch(200, said.append)
    for done in range(1, 40):
        watch(done, problem([True] * 4))
    assert len(said) == 1
    assert "100% right" in said[0]
    with pytest.raises(TrainingDataError, match=r"all of the first 160 samples are right.*Take harder questions"):
        watch(40, problem([True] * 4))


def test_all_questions_of_one_kind_are_refused_though_they_are_few() -> None:
    watch = Watch(3, lambda line: None)
    watch(1, problem([False]))
    watch(2, problem([False]))
    with pytest.raises(TrainingDataError, match="all of the first 3 samples are wrong"):
        watch(3, problem([False]))


def test_those_under_way_count_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 questions grow together: when 8 are done, half of the work of those under way is done too."""
    clock = iter([0.0, 40.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    said: list[str] = []
    watch = Watch(208, said.append, together=64)
    for done in range(1, 9):
        watch(done, problem([True, False, True, False]))
    assert "8 questions took 40 s (some 40 tokens/s, 10 tokens a sample, 50% right)" in said[0]
    assert "some 3 minutes for the 200 that are left" in said[0]


def test_a_dry_run_ends_with_the_first_look() -> None:
    watch = Watch(100, lambda line: None, stop=True)
    for done in range(1, 8):
        watch(done, problem([True, False, True, False]))
    with pytest.raises(Stopped):
        watch(8, problem([True, False, True, False]))


def test_the_last_questions_of_a_resumed_run_are_no_verdict() -> None:
    watch = Watch(300, lambda line: None)
    watch(299, problem([False]))
    watch(300, problem([False]))
