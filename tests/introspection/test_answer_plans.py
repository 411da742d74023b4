"""What further samples are expected to raise the posterior to, against the sum over all that they may come to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zip_introspect.introspection import answer_plans
from zip_introspect.introspection.answer_plans import Prospects, Scenarios
from zip_introspect.introspection.posterior import AnswerModel, Belief, log_odds

VALUES = np.array([0.1, 0.5, 0.9])
NEW = "new"


def rightly(belief: Belief) -> NDArray[np.float64]:
    """How likely a sample is to be right, by its final value."""
    evidence = np.array([belief.model.evidence(value, belief.at_prompt) for value in VALUES.tolist()])
    return np.asarray(1 / (1 + np.exp(-(log_odds(belief.rate) + evidence))))


def continued(
    model: AnswerModel, at_prompt: float, said: list[tuple[str, float]], joints: NDArray[np.float64]
) -> float:
    """The expected best posterior after samples with these joints at the prompt, by going through all outcomes.

    What comes next is told by what is known: the probability of an outcome is that of all samples with it, beside that
    of those before it.
    """
    belief = Belief(model, at_prompt)
    rate, right_of = belief.rate, rightly(belief)

    def best(samples: list[tuple[str, float]]) -> float:
        return max(belief.standing(samples).posterior, default=0.0)

    def chance(truth: str | None, samples: list[tuple[str, float]]) -> list[tuple[float, str, float]]:
        """Of each (answer, value) of one more sample, if that is the truth."""
        says, wrong = sum(a == truth for a, _ in samples), [a for a, _ in samples if a != truth]
        success = (model.strength * rate + says) / (model.strength + len(samples))
        marginal = joints[len(samples) - len(said)].sum(axis=1)
        of_right, of_wrong = marginal * right_of, marginal * (1 - right_of)
        outcomes = []
        for place, value in enumerate(VALUES.tolist()):
            name = f"{NEW} truth" if truth is None else truth
            outcomes.append((success * of_right[place] / of_right.sum(), name, value))
            for other in [*dict.fromkeys(wrong), f"{NEW} {len(samples)}"]:
                seats = wrong.count(other) or model.variety
                portion = (1 - success) * seats / (len(wrong) + model.variety)
                outcomes.append((portion * of_wrong[place] / of_wrong.sum(), other, value))
        return outcomes

    now = belief.standing(said)
    truths = [*zip(now.answers, now.posterior, strict=True), (None, 1 - sum(now.posterior))]

    def after(truth: str | None, samples: list[tuple[str, float]]) -> float:
        if len(samples) - len(said) == len(joints):
            return best(samples)
        # A truth that was not said has a name once it is.
        named = f"{NEW} truth" if truth is None and any(a == f"{NEW} truth" for a, _ in samples) else truth
        return sum(p * after(truth, [*samples, (a, v)]) for p, a, v in chance(named, samples))

    return sum(share * after(truth, said) for truth, share in truths)


worlds = st.tuples(
    st.builds(
        AnswerModel,
        strength=st.floats(1.0, 8.0),
        variety=st.floats(0.5, 8.0),
        trust=st.sampled_from([0.0, 0.5, 1.0]),
    ),
    st.floats(0.2, 0.8),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.2, 0.5, 0.8])), max_size=3),
    st.integers(1, 2),
    st.integers(0, 99),
)


@settings(deadline=None, max_examples=25)
@given(worlds)
def test_it_is_the_sum_over_all_outcomes(
    world: tuple[AnswerModel, float, list[tuple[str, float]], int, int],
) -> None:
    model, at_prompt, said, more, seed = world
    rng = np.random.default_rng(seed)
    spread = rng.dirichlet(np.ones(3))
    # Samples from the prompt: what they are expected to be worth is what the prompt is.
    belief = Belief(model, at_prompt)
    right_of = rightly(belief)
    low, high = right_of.argmin(), right_of.argmax()
    if model.trust and right_of[low] < belief.rate < right_of[high]:
        spread = np.zeros(3)
        spread[high] = (belief.rate - right_of[low]) / (right_of[high] - right_of[low])
        spread[low] = 1 - spread[high]
    joints = np.repeat((spread[:, None] * rng.dirichlet(np.ones(4)))[None], more, axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_plans, "SCENARIOS", 1 << 15)
        answer_plans._draws.cache_clear()
        found = Prospects(Scenarios(belief, belief.standing(said), more, VALUES), joints).by_size()
    answer_plans._draws.cache_clear()
    assert found[-1] == pytest.approx(continued(model, at_prompt, said, joints), abs=0.01)


def prospects(seed: int, known: int, more: int, **given: float) -> Prospects:
    rng = np.random.default_rng(seed)
    joints = rng.dirichlet(np.ones(32), size=more).reshape(more, 4, 8)
    belief = Belief(AnswerModel(), 0.5)
    said = [(answer, rng.uniform(0.1, 0.9)) for answer in "abc"[:known] for _ in range(rng.integers(1, 4))]
    scenarios = Scenarios(belief, belief.standing(said), more, np.array([0.1, 0.4, 0.7, 0.9]))
    return Prospects(scenarios, joints, **given)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), st.integers(0, 3), st.integers(1, 8))
def test_no_plan_is_worth_less_than_what_is_known_and_the_last_horizon_prunes_nothing(
    seed: int, known: int, more: int
) -> None:
    found = prospects(seed, known, more)
    by_size, by_horizon = found.by_size_and_horizon(more)
    assert by_size == pytest.approx(found.by_size(), abs=1e-6)
    fewer = found.by_size_and_horizon(1)[1]
    assert fewer[-1] == pytest.approx(by_size[1], abs=1e-6 if known else 0.15)
    assert by_size[0] == pytest.approx(found.best)
    assert (by_size >= found.best - 1e-6).all()
    # Where nothing was said yet, what is expected of the first sample is not integrated anew.
    assert by_horizon[-1] == pytest.approx(by_size[-1], abs=1e-6 if known else 0.15)
    assert max(by_size.max(), by_horizon.max()) <= 1


@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_what_changes_no_choice_is_worth_nothing(seed: int, known: int, more: int) -> None:
    """Where something else is worth more than any answer can become, samples are worth exactly nothing."""
    found = prospects(seed, known, more, otherwise=1.5)
    assert set(found.by_size().tolist()) == {1.5}


def test_two_points_have_the_moments_of_the_beta_distribution() -> None:
    for right, wrong in itertools.product((0.3, 1.0, 4.0), (0.5, 2.0, 9.0)):
        low, high, lower = answer_plans._two_points(np.array([right]), np.array([wrong]))
        for power in (1, 2, 3):
            moment = np.prod([(right + i) / (right + wrong + i) for i in range(power)])
            assert lower * low**power + (1 - lower) * high**power == pytest.approx(moment, abs=1e-5)
