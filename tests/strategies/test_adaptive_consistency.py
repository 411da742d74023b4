"""Adaptive-Consistency against its definition, one vote at a time, and through the front door."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from math import factorial, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.states import voted as cast_votes
from tests.strategies.test_strategies import decide, state
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.strategies import Finished, MetaState
from zip_introspect.strategies.adaptive_consistency import overtaking, overtaking_any
from zip_introspect.testing.simulator import SimulatedBackend


def voted(*answers: str | None, running: int = 0, **config: object) -> MetaState:
    return cast_votes(*answers, running=running, strategy="adaptive_consistency", **config)


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_posterior_is_the_lower_half_of_the_beta_distribution(first: int, second: int) -> None:
    shares = (np.arange(200_000) + 0.5) / 200_000
    logs = first * np.log(shares) + second * np.log1p(-shares)
    density = np.exp(logs - logs.max())
    assert overtaking(first, second) == pytest.approx(density[shares < 0.5].sum() / density.sum(), abs=1e-4)


def overtaken_exactly(first: int, others: tuple[int, ...]) -> Fraction:
    """By multiplying out the Poisson tails of the gamma variables, and integrating each term."""
    stays = Fraction(0)
    for size in range(len(others) + 1):
        for some in combinations(others, size):
            for terms in product(*(range(votes + 1) for votes in some)):
                power = first + sum(terms)
                below = factorial(first) * prod(map(factorial, terms)) * (1 + size) ** (power + 1)
                stays += Fraction((-1) ** size * factorial(power), below)
    return 1 - stays


@settings(max_examples=60)
@given(st.integers(0, 30), st.lists(st.integers(0, 6), min_size=2, max_size=4))
def test_the_dirichlet_criterion_is_its_integral_in_closed_form(first: int, others: list[int]) -> None:
    found = overtaking_any((first, *others))
    assert found == pytest.approx(float(overtaken_exactly(first, tuple(others))), abs=1e-9)


@pytest.mark.parametrize("votes", [(60, 40, 40, 7), (300, 280, 1), (5, *[1] * 30)])
def test_the_dirichlet_criterion_is_the_share_of_draws_in_which_another_leads(votes: tuple[int, ...]) -> None:
    shares = np.random.default_rng(0).dirichlet(np.array(votes) + 1.0, size=40_000)
    assert overtaking_any(votes) == pytest.approx(np.mean(shares.argmax(axis=1) != 0), abs=0.01)


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_criteria_agree_on_two_answers(first: int, second: int) -> None:
    assert overtaking_any((first, second)) == overtaking(first, second)
    # An answer that nobody gave is one more that might overtake.
    assert overtaking_any((first, second, 0)) > overtaking(first, second)


def test_the_dirichlet_criterion_waits_where_several_may_overtake() -> None:
    answers = [*"aaaaaaaa", *"bb", *"cc", *"dd"]
    assert decide(voted(*answers)).stop == "finished"
    held = decide(voted(*answers, strategy_options={"criterion": "dirichlet"}))
    assert (held.stop, held.run, held.new > 0) == (None, (), True)
    assert "8 votes to 2" in held.reason


@pytest.mark.parametrize("answers", ["", "aaaaabbbccdde", "abcdefghij" * 20])
def test_a_decision_takes_few_integrals(answers: str) -> None:
    """Each takes some 50 microseconds; how many votes are missing is found by halving."""
    overtaking_any.cache_clear()
    decide(voted(*answers, max_samples=4096, strategy_options={"criterion": "dirichlet"}))
    assert overtaking_any.cache_info().misses <= 16
    again = decide(voted(*answers, max_samples=4096, strategy_options={"criterion": "dirichlet"}))
    assert overtaking_any.cache_info().misses <= 16, "and none while no other sample ends"
    assert again.new > 0


def test_it_stops_once_the_votes_are_settled() -> None:
    assert decide(voted("7", "7", "7")).stop is None
    settled = decide(voted("7", "7.0", "7", "7", running=1))
    assert (settled.stop, settled.run, settled.new) == ("finished", (), 0)
    assert "4 votes to 0" in settled.reason
    assert decide(voted("7", "7", "7", "7", "8")).stop is None
    assert decide(voted("7", "7", "7", strategy_options={"overtaken": 0.1})).stop == "finished"


def test_samples_without_an_answer_cast_no_vote() -> None:
    assert decide(voted(None, None, None, "7")).stop is None
    cut = Finished(0, 9, 0.0, complete=False, answer="7")
    assert decide(state((), (cut,) * 4, strategy="adaptive_consistency")).stop is None


def test_a_question_that_votes_cannot_settle_costs_no_more_than_one_that_they_do() -> None:
    assert decide(voted(None, None, None, running=1)).stop is None
    moot = decide(voted(None, None, None, None, running=2))
    assert (moot.stop, moot.reason) == ("finished", "none of 4 samples has an answer to vote for")


def test_all_samples_without_an_end_to_the_vote_are_the_end() -> None:
    assert decide(voted("1", "2", "3", "4", max_samples=4)).stop == "finished"


@given(
    st.lists(st.sampled_from("abc"), min_size=20, max_size=20),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.sampled_from(["beta", "dirichlet"]),
)
def test_no_sample_is_drawn_that_one_at_a_time_would_spare(
    answers: list[str], overtaken: float, criterion: str
) -> None:
    options = {"overtaken": overtaken, "criterion": criterion}
    sequential = next(
        (n for n in range(1, 20) if decide(voted(*answers[:n], strategy_options=options)).stop is not None), 20
    )
    started = 0
    while started < 20:
        action = decide(voted(*answers[:started], strategy_options=options))
        if action.stop is not None:
            break
        started += action.new
    assert started == sequential


def test_it_answers_through_the_front_door() -> None:
    with IntrospectiveLLM(SimulatedBackend(), GenerationConfig(strategy="adaptive_consistency", max_samples=12)) as llm:
        results = llm.batch([f"question {number}" for number in range(8)])
        again = llm.generate("question 3")
    assert {result.strategy for result in results} == {"adaptive_consistency"}
    assert all(1 <= len(result.samples) <= 12 for result in results)
    assert again.answer == results[3].answer


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(ConfigError, match="criterion"):
        decide(voted(strategy_options={"criterion": "gamma"}))


@pytest.mark.parametrize("overtaken", [0.0, 0.5, -1])
def test_a_probability_that_says_nothing_is_refused(overtaken: float) -> None:
    with pytest.raises(ConfigError, match="overtaken"):
        decide(voted(strategy_options={"overtaken": overtaken}))
