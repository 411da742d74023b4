"""Early-stopping self-consistency against its definition: one window after another, until one agrees."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies.states import voted
from tests.strategies.test_strategies import OPEN, decide, leaf
from zip_introspect import Budget, IntrospectiveLLM
from zip_introspect.errors import ConfigError
from zip_introspect.strategies import Finished, MetaState
from zip_introspect.testing.simulator import SimulatedBackend

ANSWERS = st.lists(st.sampled_from(["7", "7", "7", "8", None]), min_size=23, max_size=23)


def state_of(*answers: str | None, running: int = 0, window: int = 3, **config: object) -> MetaState:
    options = {"window": window}
    return voted(*answers, running=running, strategy="early_stopping_consistency", strategy_options=options, **config)


def drawn_one_window_after_another(answers: list[str | None], window: int, most: int) -> int:
    """Samples that the paper's algorithm draws; a question without any answer is given up after its first window."""
    for start in range(0, most, window):
        end = min(start + window, most)
        if end - start == window and (len(set(answers[start:end])) == 1 and answers[start] is not None):
            return end
        if end - start == window and not any(answers[:end]):
            return end
    return most


@given(ANSWERS, st.integers(2, 6), st.integers(1, 23), st.randoms())
def test_the_samples_are_those_of_windows_one_after_another(
    answers: list[str | None], window: int, most: int, random: Random
) -> None:
    """Samples end in any order, and each decision knows those that have."""
    running: list[int] = []
    ended: list[int] = []
    while True:
        finished = tuple(Finished(number, 9, 0.5, True, answers[number]) for number in sorted(ended))
        here = replace(
            state_of(max_samples=most, window=window),
            leaves=tuple(leaf(number, OPEN) for number in running),
            finished=finished,
            started=len(running) + len(ended),
            room=most - len(running) - len(ended),
        )
        action = decide(here)
        if action.stop is not None:
            break
        assert action.run == tuple(running), "nothing is paused"
        running += range(here.started, here.started + action.new)
        ended.append(running.pop(random.randrange(len(running))))
    assert not running, "every sample has its vote"
    assert len(ended) == drawn_one_window_after_another(answers, window, most)


def test_a_window_that_agrees_ends_it() -> None:
    assert decide(state_of("7", "7.0", running=1)).stop is None
    ended = decide(state_of("7", "7.0", "7"))
    assert (ended.stop, ended.reason) == ("finished", "all 3 samples of a window agree")
    assert decide(state_of("7", "8", "7", "8", "8", "8")).stop == "finished"
    assert decide(state_of("8", "7", "7", "7", running=0)).stop is None, "windows do not overlap"


def test_the_next_window_begins_once_this_one_cannot_agree() -> None:
    assert decide(state_of()).new == 3
    assert decide(state_of("7", running=2)).new == 0
    divided = decide(state_of("7", "8", running=1))
    assert (divided.run, divided.new) == ((2,), 3)


def test_samples_without_an_answer_agree_with_none() -> None:
    assert decide(state_of("7", None, "7")).stop is None
    silent = decide(state_of(None, None, None))
    assert (silent.stop, silent.reason) == ("finished", "none of 3 samples has an answer to vote for")
    assert decide(state_of("7", "8", "8", None, None, None)).new == 3


def test_samples_that_were_cut_are_no_agreement() -> None:
    cut = tuple(Finished(number, 9, 0.0, complete=False, answer=None) for number in range(3))
    assert decide(replace(state_of(), finished=cut, started=3)).new == 3


def test_easy_questions_cost_a_window_and_hard_ones_all() -> None:
    with IntrospectiveLLM(SimulatedBackend(seed=3, head=False)) as llm:
        found = [
            llm.generate(f"question {number}", strategy="early_stopping_consistency", max_samples=20)
            for number in range(24)
        ]
        every = llm.generate("question 3", strategy="majority_vote", max_samples=20)
        short = llm.generate("question 3", budget=Budget(max_samples=3), strategy="early_stopping_consistency")
    drawn = {len(result.samples) for result in found}
    assert min(drawn) == 5
    assert max(drawn) == 20
    assert all(count % 5 == 0 for count in drawn)
    assert {sample.text for sample in found[3].samples} <= {sample.text for sample in every.samples}
    assert len(short.samples) == 3


def test_a_window_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="window"):
        decide(state_of(window=1))
