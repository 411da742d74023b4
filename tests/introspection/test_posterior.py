"""The posterior of answers against the sum over all that may have happened, one sample after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import beta

from zip_introspect.errors import CalibrationError, ConfigError
from zip_introspect.introspection.posterior import FILE_NAME, NOTHING_SAID, AnswerModel, Belief, log_odds

models = st.builds(
    AnswerModel,
    strength=st.floats(0.5, 20.0),
    variety=st.floats(0.2, 20.0),
    trust=st.floats(0.0, 2.0),
    slope=st.floats(0.0, 2.0),
    offset=st.floats(-1.0, 1.0),
)
chances = st.floats(0.05, 0.95)


def posterior(
    model: AnswerModel, at_prompt: float, answers: Sequence[str], values: Sequence[float]
) -> dict[str, float]:
    standing = Belief(model, at_prompt).standing(zip(answers, values, strict=True))
    return dict(zip(standing.answers, standing.posterior, strict=True))


def seating(wrong: list[str], variety: float) -> float:
    """The probability that a Chinese restaurant process seats guests so, up to the names of the tables."""
    chance, seated = 1.0, dict[str, int]()
    for count, answer in enumerate(wrong):
        chance *= seated.get(answer, variety) / (count + variety)
        seated[answer] = seated.get(answer, 0) + 1
    return chance


def enumerated(model: AnswerModel, at_prompt: float, answers: list[str], values: list[float]) -> dict[str, float]:
    """The posterior by Bayes' rule: each answer, or none of them, is the right one."""
    rate = model.rate(at_prompt)
    odds_on, odds_off = model.strength * rate, model.strength * (1 - rate)
    seen = {}
    for truth in [*dict.fromkeys(answers), None]:
        right = [answer == truth for answer in answers]
        says = sum(right)
        pattern = float(beta(odds_on + says, odds_off + len(right) - says) / beta(odds_on, odds_off))
        evidence = [
            math.exp(model.trust * (log_odds(value) - log_odds(at_prompt)))
            for value, is_right in zip(values, right, strict=True)
            if is_right
        ]
        wrong = [answer for answer in answers if answer != truth]
        seen[truth] = pattern * math.prod(evidence) * seating(wrong, model.variety)
    total = sum(seen.values())
    return {answer: seen[answer] / total for answer in answers}


@settings(deadline=None)
@given(models, chances, st.lists(st.tuples(st.sampled_from("abcd"), chances), min_size=1, max_size=6))
def test_it_is_the_sum_over_all_hypotheses(
    model: AnswerModel, at_prompt: float, samples: list[tuple[str, float]]
) -> None:
    answers, values = [answer for answer, _ in samples], [value for _, value in samples]
    found = posterior(model, at_prompt, answers, values)
    for answer, share in enumerated(model, at_prompt, answers, values).items():
        assert found[answer] == pytest.approx(share, rel=1e-6, abs=1e-9)


@given(models, chances, chances)
def test_one_sample_is_as_sure_as_its_value_where_values_are_trusted(
    model: AnswerModel, at_prompt: float, value: float
) -> None:
    plain = model.replace(trust=1.0, slope=1.0, offset=0.0)
    assert posterior(plain, at_prompt, ["a"], [value])["a"] == pytest.approx(value)


@given(models, chances, st.lists(st.tuples(st.sampled_from("abc"), chances), min_size=1, max_size=8), st.randoms())
def test_the_order_of_samples_says_nothing(
    model: AnswerModel, at_prompt: float, samples: list[tuple[str, float]], random: object
) -> None:
    def of(items: list[tuple[str, float]]) -> dict[str, float]:
        return posterior(model, at_prompt, [answer for answer, _ in items], [value for _, value in items])

    shuffled = list(samples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives it as random.Random
    assert of(shuffled) == pytest.approx(of(samples), rel=1e-9, abs=1e-12)


def test_a_sample_that_says_the_same_makes_surer_and_one_that_says_another_less_sure() -> None:
    model = AnswerModel()

    def sure(*answers: str, model: AnswerModel = model) -> float:
        return posterior(model, 0.5, answers, [0.5] * len(answers))["a"]

    assert sure("a") < sure("a", "a") < sure("a", "a", "a")
    assert sure("a", "b") < sure("a")
    # Of wrong answers that seldom agree, two that do are more than of those that often do.
    assert sure("a", "a", "b") > sure("a", "a", "b", model=model.replace(variety=0.3))


def test_nothing_said_is_nothing_known() -> None:
    assert Belief(AnswerModel(), 0.5).standing([]) == NOTHING_SAID


def test_many_samples_and_sure_values_stay_finite() -> None:
    extreme = AnswerModel(strength=1e3, variety=1e6, trust=10.0)
    found = posterior(extreme, 0.001, ["a", "b"] * 500, [1.0, 0.0] * 500)
    assert found["a"] == pytest.approx(1.0)
    sure = posterior(AnswerModel(slope=10.0, offset=10.0), 0.99, ["a", "b", "a"], [0.9, 0.2, 0.8])
    assert 0 < sure["a"] + sure["b"] <= 1


@given(models, st.floats(0.02, 0.98), st.integers(1, 12))
def test_weights_of_some_samples_are_those_of_all(model: AnswerModel, at_prompt: float, most: int) -> None:
    belief = Belief(model, at_prompt)
    all_of_them = belief.weights(most, 0, most)
    assert (all_of_them[0] == -np.inf).all()
    assert all(all_of_them[k, n] == -np.inf for n in range(most + 1) for k in range(n + 1, most + 1))
    some = Belief(model, at_prompt).weights(1, most - 1, most)
    assert np.allclose(some, all_of_them[:2, most - 1 :])


def test_what_was_learnt_lies_beside_a_model(tmp_path: Path) -> None:
    learnt = AnswerModel(strength=3.0, variety=0.5)
    assert AnswerModel.beside(tmp_path) is None
    file = learnt.save(tmp_path)
    assert AnswerModel.load(tmp_path) == AnswerModel.load(file) == AnswerModel.beside(tmp_path) == learnt
    (tmp_path / "model.gguf").touch()
    assert AnswerModel.beside(tmp_path / "model.gguf") == learnt
    assert AnswerModel.beside("of/a/hub") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable JSON"),
        ("[1]", "no model of answers of format 1"),
        ('{"format_version": 2}', "no model of answers of format 1"),
        ('{"format_version": 1, "strength": -1}', "strength"),
        ('{"format_version": 1, "temper": 1}', "temper"),
        ('{"format_version": 1, "trust": NaN}', "trust"),
        ("0" * 70_000, "too large"),
    ],
)
def test_a_file_that_is_no_model_of_answers_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(CalibrationError, match=said):
        AnswerModel.beside(tmp_path)
    with pytest.raises(CalibrationError, match="does not exist"):
        AnswerModel.load(tmp_path / "other.json")


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="strength"):
        AnswerModel(strength=0.0)
