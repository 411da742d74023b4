"""Agreement against its definition: draws of a Dirichlet process, as a Chinese restaurant seats its guests."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.answers.agreement import agreement

SAID = st.lists(st.sampled_from("abc"), max_size=20)


def test_few_samples_are_not_sure_of_themselves() -> None:
    assert agreement("a", []) == 1 / 2
    assert agreement("a", ["a"] * 7) == 8 / 9
    assert agreement("a", ["a", "b", "b"]) == 2 / 5


@given(st.sampled_from("abc"), SAID)
def test_agreement_is_a_share_that_others_lower(chosen: str, others: list[str]) -> None:
    sure = agreement(chosen, others)
    assert 0 < sure < 1
    assert agreement(chosen, [*others, chosen]) > sure
    assert agreement(chosen, [*others, "another"]) < sure


@given(SAID.filter(bool))
def test_shares_of_all_answers_leave_something_for_the_unseen(said: list[str]) -> None:
    shares = []
    for answer in set(said):
        others = list(said)
        others.remove(answer)
        shares.append(agreement(answer, others))
    assert sum(shares) == pytest.approx(len(said) / (len(said) + 1))


def test_the_next_of_many_draws_agrees_as_often_as_it_says() -> None:
    draws = random.Random(0)
    expected, agreed = 0.0, 0
    for _ in range(20_000):
        said: list[int] = []
        for count in range(5):
            new = draws.random() * (count + 1) >= count
            said.append(count if new else draws.choice(said))
        expected += agreement(str(said[0]), [str(item) for item in said[1:4]])
        agreed += said[4] == said[0]
    assert agreed / 20_000 == pytest.approx(expected / 20_000, abs=0.01)
