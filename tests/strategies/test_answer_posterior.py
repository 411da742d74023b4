"""The answer that is most probably right: chosen, searched for, and as sure as it says, in a world that is known."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies.test_strategies import HOPELESS, OPEN, SURE_AND_NEAR, decide, leaf, state
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError
from zip_introspect.introspection import answer_plans
from zip_introspect.introspection.answer_plans import Prospects, Scenarios
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.posterior import AnswerModel, Belief
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.shared_budget import SharedBudget
from zip_introspect.strategies import Finished, MetaAction, MetaState, get
from zip_introspect.testing.simulator import SimulatedBackend

NAME = "answer_posterior"


def finished(*samples: tuple[str | None, float]) -> tuple[Finished, ...]:
    return tuple(Finished(number, 9, value, True, answer) for number, (answer, value) in enumerate(samples))


def decided(*samples: tuple[str | None, float], **config: object) -> MetaAction:
    return decide(state((), finished(*samples), **{"strategy": NAME, **config}))  # type: ignore[arg-type]


def verdict(*samples: tuple[str | None, float], **options: object) -> tuple[int, float]:
    strategy = get(NAME)(GenerationConfig(strategy=NAME, strategy_options=options))
    strategy.decide(state((), finished(*samples), strategy=NAME))
    found = strategy.verdict(finished(*samples))
    assert found is not None
    assert found.source == "both"
    return found.number, found.confidence


def test_values_choose_where_no_two_samples_agree_and_votes_where_values_do_not() -> None:
    assert verdict(("1", 0.2), ("2", 0.9), ("3", 0.4))[0] == 1
    assert verdict(("1", 0.5), ("2", 0.5), ("1", 0.5))[0] == 0
    # A sample that is sure of itself outweighs two that are not; nothing outweighs four.
    assert verdict(("1", 0.2), ("2", 0.97), ("1", 0.2))[0] == 1
    assert verdict(("1", 0.6), ("2", 0.7), ("1", 0.6), ("1", 0.6), ("1", 0.6))[0] == 0


def test_of_the_samples_that_say_it_the_one_with_the_highest_value_stands_for_an_answer() -> None:
    assert verdict(("7", 0.5), ("7.0", 0.8), ("7", 0.6))[0] == 1


def test_one_sample_is_as_sure_as_its_value_and_agreement_makes_surer() -> None:
    once, twice = verdict(("7", 0.8))[1], verdict(("7", 0.8), ("7", 0.8))[1]
    assert once == pytest.approx(0.8)
    assert twice > once


def test_a_sample_without_an_answer_says_what_no_other_one_says() -> None:
    assert verdict((None, 0.6), (None, 0.6), ("7", 0.7))[0] == 2
    assert verdict((None, 0.9), ("7", 0.1))[0] == 0


def test_what_was_cut_says_nothing() -> None:
    cut = Finished(0, 9, 0.0, complete=False)
    strategy = get(NAME)(GenerationConfig(strategy=NAME))
    strategy.decide(state((), (cut,), strategy=NAME))
    assert strategy.verdict((cut,)) is None


def test_it_stops_where_samples_cost_more_than_they_tell() -> None:
    assert decided(("7", 0.99), ("7", 0.99)).stop == "utility"
    assert decided(("7", 0.3), ("8", 0.3), beta=0.001).stop is None
    assert decided(("7", 0.3), ("8", 0.3), beta=50.0).stop == "utility"


def test_an_answer_is_owed_whatever_it_costs() -> None:
    action = decide(state((), (), strategy=NAME, beta=50.0, alpha=1.0))
    assert (action.stop, action.new) == (None, 1)
    waiting = decide(state((leaf(0, HOPELESS), leaf(1, SURE_AND_NEAR)), (), strategy=NAME, beta=50.0, room=0))
    assert waiting.run == (1,)


def test_more_samples_start_together_where_only_latency_counts() -> None:
    sizes = [decide(state((), (), strategy=NAME, alpha=alpha, beta=0.3)).new for alpha in (0.0, 1.0)]
    assert sizes[0] > sizes[1]


def test_handing_on_is_weighed_against_the_posterior() -> None:
    def handing(worth: float, *samples: tuple[str | None, float]) -> MetaAction:
        return decide(replace(state((), finished(*samples), strategy=NAME, beta=0.5), hand_on=worth))

    assert handing(0.9, ("7", 0.3), ("8", 0.3)).stop == "handed_on"
    assert handing(0.2, ("7", 0.95), ("7", 0.95)).stop != "handed_on"


@given(st.lists(st.sampled_from(["7", "8", None]), max_size=8), st.integers(0, 3))
def test_without_values_it_is_adaptive_consistency(answers: list[str | None], running: int) -> None:
    def seen(strategy: str) -> MetaState:
        leaves = tuple(leaf(len(answers) + number, OPEN) for number in range(running))
        known = state(
            leaves, finished(*((answer, float("nan")) for answer in answers)), strategy=strategy, max_samples=12
        )
        return replace(known, bins=None)

    assert decide(seen(NAME)) == decide(seen("adaptive_consistency"))


def test_without_a_head_its_results_are_those_of_adaptive_consistency() -> None:
    with IntrospectiveLLM(SimulatedBackend(seed=3, head=False)) as llm:
        ours = llm.generate("a question", strategy=NAME, max_samples=12)
        theirs = llm.generate("a question", strategy="adaptive_consistency", max_samples=12)
    assert (ours.answer, ours.confidence, ours.confidence_source) == (theirs.answer, theirs.confidence, "agreement")
    assert ours.usage.generated_tokens == theirs.usage.generated_tokens


def test_its_options_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"answers\.strength"):
        get(NAME)(GenerationConfig(strategy=NAME, strategy_options={"answers": {"strength": -1}}))


def test_a_choice_of_ones_own_is_a_selection() -> None:
    with IntrospectiveLLM(SimulatedBackend(seed=3)) as llm:
        free = llm.generate("a question", strategy=NAME)
        by_value = llm.generate("a question", strategy=NAME, selection="value")
    assert (free.confidence_source, by_value.confidence_source) == ("both", "head")
    chosen = [sample for sample in by_value.samples if sample.number == by_value.chosen]
    assert by_value.confidence == chosen[0].value


def answer_of(text: str) -> str | None:
    """What a simulated sample says: the right answer as often as its reward, else one of three wrong ones."""
    _, _, reward = text.partition("\nans ")
    if not reward:
        return None
    digest = hashlib.sha256(text.encode()).digest()
    return "right" if digest[0] / 256 < float(reward) else f"wrong {digest[1] % 3}"


TYPICAL = 20
"""Tokens of a sample."""


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.02), (1.0, 0.1)])
def test_in_a_known_world_it_is_as_sure_as_it_is_right_and_worth_its_cost(alpha: float, beta: float) -> None:
    prompts = [f"question {number}" for number in range(250)]
    right, sure, worth = {}, {}, {}
    with IntrospectiveLLM(SimulatedBackend(seed=5, max_length=60), extractor=answer_of) as llm:
        for strategy in (NAME, "zip_rc"):
            config = GenerationConfig(strategy=strategy, alpha=alpha, beta=beta, max_samples=8, max_new_tokens=60)
            results = llm.batch(prompts, config=config, selection=None)
            right[strategy] = np.array([result.answer == "right" for result in results])
            sure[strategy] = np.array([result.confidence for result in results])
            tokens, depth = (
                [getattr(result.usage, name) for result in results] for name in ("generated_tokens", "depth")
            )
            cost = alpha * np.mean(tokens) + (1 - alpha) * np.mean(depth)
            worth[strategy] = right[strategy].mean() - beta * cost / TYPICAL
    assert abs(sure[NAME].mean() - right[NAME].mean()) < 0.06
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.01)):
        some = (sure[NAME] >= low) & (sure[NAME] < high)
        if some.sum() >= 40:
            assert abs(sure[NAME][some].mean() - right[NAME][some].mean()) < 0.12
    assert worth[NAME] >= worth["zip_rc"] - 0.02


def test_rewards_that_are_no_probabilities_are_refused() -> None:
    grid = JointGrid(
        reward_edges=[-1.0, 0.0, 1.0], reward_values=[-1.0, 1.0], length_edges=[0.0, 4.0], first_reserved=0
    )
    with pytest.raises(ConfigError, match="rewards go from -1 to 1"):
        decide(state((), (), root=np.full((2, 1), 0.5), grid=grid, strategy=NAME))


@pytest.mark.parametrize("total", [60, 400, 10_000])
def test_it_draws_on_a_shared_budget(total: int) -> None:
    prompts = [f"question {number}" for number in range(12)]
    shared = SharedBudget(total)
    with IntrospectiveLLM(SimulatedBackend(seed=5, max_length=40), extractor=answer_of) as llm:
        found = llm.batch(prompts, strategy=NAME, max_new_tokens=40, total_budget=shared)
        free = llm.batch(prompts, strategy=NAME, max_new_tokens=40)
    assert sum(result.usage.generated_tokens for result in found) == shared.tokens <= total
    assert any(result.complete for result in found)
    if total == 10_000:
        assert [result.answer for result in found] == [result.answer for result in free]


def test_where_little_is_asked_what_a_plan_is_worth_is_known_to_a_few_hundredths() -> None:
    """The scenarios that decisions use, against very many."""
    rng = np.random.default_rng(0)
    belief, values = Belief(AnswerModel(), 0.5), np.array([0.1, 0.4, 0.7, 0.9])
    errors = []
    for known in (0, 1, 2, 3):
        for _ in range(5):
            said = [
                (answer, float(rng.uniform(0.1, 0.9))) for answer in "abc"[:known] for _ in range(rng.integers(1, 4))
            ]
            joints = rng.dirichlet(np.ones(16), size=5).reshape(5, 4, 4)
            few = Prospects(Scenarios(belief, belief.standing(said), 5, values), joints).by_size()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(answer_plans, "SCENARIOS", 1 << 14)
                answer_plans._draws.cache_clear()
                many = Prospects(Scenarios(belief, belief.standing(said), 5, values), joints).by_size()
            answer_plans._draws.cache_clear()
            errors.append(few - many)
    assert np.sqrt(np.mean(np.square(errors))) < 0.025
