"""Best-of-Majority against its definition: frequency first, then reward; one answer or several."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies.states import made
from zip_introspect import GenerationConfig, HeadError, IntrospectiveLLM
from zip_introspect.errors import ConfigError
from zip_introspect.strategies import Finished, Verdict
from zip_introspect.testing.simulator import SimulatedBackend

ENDED = st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.integers(0, 20).map(lambda n: n / 20), st.booleans())


def verdict(finished: list[Finished], **options: Any) -> Verdict | None:
    return made(GenerationConfig(strategy="best_of_majority", strategy_options=options)).verdict(finished)


def samples(*rows: tuple[str | None, float]) -> list[Finished]:
    return [Finished(number, 9, value, True, answer) for number, (answer, value) in enumerate(rows)]


@given(st.lists(ENDED, max_size=12), st.integers(0, 10), st.integers(1, 4))
def test_it_is_its_definition(rows: list[tuple[str | None, float, bool]], tenths: int, answers: int) -> None:
    finished = [Finished(number, 9, value, whole, answer) for number, (answer, value, whole) in enumerate(rows)]
    values: defaultdict[str, list[float]] = defaultdict(list)
    for answer, value, whole in rows:
        if answer is not None and whole:
            values[answer].append(value)
    found = verdict(finished, share=tenths / 10, answers=answers)
    if not values:
        assert found is None
        return
    assert found is not None
    frequent = {answer for answer in values if Fraction(len(values[answer]), len(rows)) >= Fraction(tenths, 10)} or {
        answer for answer in values if len(values[answer]) == max(map(len, values.values()))
    }
    given_ = [finished[number] for number in (found.number, *found.others)]
    assert len({sample.answer for sample in given_}) == len(given_) == min(answers, len(frequent))
    for place, sample in enumerate(given_):
        assert sample.answer in frequent
        rivals = frequent - {earlier.answer for earlier in given_[:place]}
        assert sample.value == max(max(values[answer]) for answer in rivals)
    assert (found.confidence, found.source) == (given_[0].value, "head")


def test_frequency_comes_before_reward() -> None:
    rows = samples(("a", 0.95), ("b", 0.6), ("b", 0.5), ("c", 0.7), ("c", 0.2), (None, 1.0))
    found = verdict(rows, share=0.3)
    assert found == Verdict(3, 0.7, "head")
    assert verdict(rows, share=0.3, answers=2) == Verdict(3, 0.7, "head", (1,))
    assert verdict(rows, share=0.0) == Verdict(0, 0.95, "head"), "every answer counts: best of N"
    assert verdict(rows, share=1.0) == Verdict(3, 0.7, "head"), "none has its share: the most frequent ones"


def test_spellings_of_one_answer_are_one() -> None:
    found = verdict(samples(("29", 0.4), ("$29.00", 0.5), ("30", 0.9)), share=0.5, answers=3)
    assert found == Verdict(1, 0.5, "head")


def test_several_answers_are_given_the_best_first() -> None:
    with IntrospectiveLLM(SimulatedBackend()) as llm:
        found = llm.batch(
            [f"question {number}" for number in range(16)],
            strategy="best_of_majority",
            strategy_options={"answers": 2, "share": 0.1},
        )
        alone = llm.generate("question 3", strategy="best_of_majority", selection="value")
        plain = llm.generate("question 3", strategy="best_of_n")
    several = [result for result in found if len(result.submitted) == 2]
    assert len(several) > 4
    for result in found:
        assert result.submitted[0] == result.chosen
        assert result.answers[0] == result.answer
        assert len(set(result.answers)) == len(result.answers) == len(result.submitted)
        best = [result.samples[number].value or 0.0 for number in result.submitted]
        assert best == sorted(best, reverse=True)
        assert (result.confidence, result.confidence_source) == (best[0], "head")
        assert result.to_dict()["submitted"] == list(result.submitted)
    assert (alone.chosen, alone.submitted) == (plain.chosen, plain.submitted), "a selection of the config's is kept to"


def test_a_model_without_a_head_has_no_reward() -> None:
    with pytest.raises(HeadError, match="strategy best_of_majority reads"):
        IntrospectiveLLM(SimulatedBackend(head=False)).generate("q", strategy="best_of_majority")


@pytest.mark.parametrize("options", [{"share": 1.1}, {"share": -0.1}, {"answers": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        verdict([], **options)
