from __future__ import annotations

from collections import Counter

import pytest

from zip_introspect import IntrospectiveLLM
from zip_introspect.strategies.selection import Candidate, Selection, select
from zip_introspect.testing.simulator import SimulatedBackend


def candidates(*rows: tuple[float, str | None]) -> list[Candidate]:
    return [Candidate(number, value, True, answer) for number, (value, answer) in enumerate(rows)]


@pytest.mark.parametrize(
    ("selection", "number"),
    [("value", 0), ("majority", 3), ("weighted_majority", 4)],
)
def test_each_way_chooses_its_own(selection: Selection, number: int) -> None:
    # a: best single value. b: most votes, its best sample is 3. c: largest sum of values.
    rows = candidates((0.9, "a"), (0.1, "b"), (0.1, "b"), (0.2, "b"), (0.8, "c"), (0.7, "c"))
    chosen = select(rows, selection)
    assert chosen is not None
    assert chosen.number == number


def test_ties_of_the_majority_fall_evenly_and_by_the_seed() -> None:
    rows = candidates((0.5, "a"), (0.5, "b"), (0.5, "c"))
    picks = [select(rows, "majority", seed) for seed in range(600)]
    assert picks == [select(rows, "majority", seed) for seed in range(600)]
    counts = Counter(pick.answer for pick in picks if pick)
    assert all(150 <= counts[answer] <= 250 for answer in "abc")


def test_equal_values_go_to_the_lowest_number() -> None:
    chosen = select(candidates((0.5, "a"), (0.5, "b")), "value")
    assert chosen is not None
    assert chosen.number == 0


@pytest.mark.parametrize("selection", ["value", "majority", "weighted_majority"])
def test_complete_samples_come_first(selection: Selection) -> None:
    rows = [Candidate(0, 0.9, False, "a"), Candidate(1, 0.9, False, "a"), Candidate(2, 0.1, True, "b")]
    chosen = select(rows, selection)
    assert chosen is not None
    assert chosen.number == 2


@pytest.mark.parametrize("selection", ["majority", "weighted_majority"])
def test_spellings_of_one_answer_vote_together(selection: Selection) -> None:
    spellings = ["29", "$29.00", "029", r"\text{29}", r"\boxed{29}", "29, in total, so she pays that much"]
    rows = candidates(*((0.2, spelling) for spelling in spellings), (0.9, "30"), (0.3, "$29"))
    for seed in range(5):
        chosen = select(rows, selection, seed)
        assert chosen is not None
        assert chosen.number == 7, "of the voters for 29 the one of the highest value stands for it"


def test_answers_that_differ_do_not_vote_together() -> None:
    chosen = select(candidates((0.9, "5,1"), (0.8, "5.1"), (0.1, "7"), (0.1, "7.0")), "majority")
    assert chosen is not None
    assert chosen.number == 2


def test_votes_and_results_of_a_search_are_canonical() -> None:
    spellings = ["29", "$29.00", "029", "**29**", "29 dollars in total"]
    llm = IntrospectiveLLM(SimulatedBackend(), extractor=lambda text: spellings[len(text) % len(spellings)])
    out = llm.generate("q", strategy="majority_vote", max_samples=8, seed=3)
    assert out.answer == "29"
    assert len({len(sample.text) % len(spellings) for sample in out.samples if sample.answer}) > 1
    assert {sample.answer for sample in out.samples} <= {"29", None}


def test_samples_without_an_answer_do_not_vote() -> None:
    chosen = select(candidates((0.9, None), (0.9, None), (0.1, "b")), "majority")
    assert chosen is not None
    assert chosen.number == 2
    unanswered = select(candidates((0.2, None), (0.9, None)), "majority")
    assert unanswered is not None
    assert unanswered.number == 1
    assert select([], "value") is None
