"""What was expected against what was paid, and how often the lower quote was the dearer one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.evaluation.stored import CONFIG, simulated
from zip_introspect import Budget
from zip_introspect.evaluation.measures.foretelling import Forecast, at_prompt, of_samples, of_searches, reversals
from zip_introspect.evaluation.measures.guarding import guarded

COSTS = st.lists(st.integers(1, 5), min_size=4, max_size=4)


@given(COSTS, COSTS)
def test_the_rank_correlation_is_spearmans(expected: list[int], paid: list[int]) -> None:
    found = Forecast("any", np.array(expected, float), np.array(paid, float)).rank_correlation
    if len(set(expected)) == 1 or len(set(paid)) == 1:
        assert np.isnan(found.value)
    else:
        assert found.value == pytest.approx(stats.spearmanr(expected, paid).statistic)
        assert -1.0 <= found.low <= found.high <= 1.0


def test_the_ratio_is_that_of_the_sums() -> None:
    found = Forecast("any", np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert found.ratio.value == pytest.approx(6 / 4)
    assert found.quantiles[1] == pytest.approx(np.median([2.0, 4 / 3]))


@given(COSTS, COSTS, COSTS, COSTS)
def test_a_reversal_is_a_lower_quote_that_was_paid_more(a: list[int], p: list[int], b: list[int], q: list[int]) -> None:
    quoted = [(x < y, i, j) for x, i, y, j in zip(a, p, b, q, strict=True) if x != y]
    found = reversals(a, p, b, q)
    if not quoted:
        assert np.isnan(found.value)
        return
    assert found.value == pytest.approx(np.mean([i > j if less else j > i for less, i, j in quoted]))
    assert reversals(b, q, a, p).value == found.value


def test_list_prices_hold_for_all_questions_and_what_is_never_right_is_dearest() -> None:
    assert reversals(1.0, [2.0, np.inf, 1.0, np.inf], 3.0, [1.0, 5.0, 2.0, np.inf]).value == 0.5


def test_what_is_expected_is_what_introspection_says() -> None:
    llm, rollouts = simulated(questions=6)
    told = [llm.introspect(problem.question.text).expected_tokens for problem in rollouts.problems]
    assert at_prompt(rollouts).tolist() == pytest.approx(told, rel=5e-3)  # stored in half precision
    mean, first, fellows = of_samples(rollouts)
    lengths = np.array([[len(item.tokens) for item in problem.rollouts] for problem in rollouts.problems])
    assert mean.paid.tolist() == lengths.mean(1).tolist()
    assert (first.paid.tolist(), fellows.expected.tolist()) == (lengths[:, 0].tolist(), lengths[:, 1:].mean(1).tolist())


@pytest.mark.parametrize("strategy", ["zip_rc", "best_of_n"])
def test_searches_are_foretold_by_their_first_decision(strategy: str) -> None:
    llm, rollouts = simulated(questions=6)
    config = CONFIG.replace(strategy=strategy, max_samples=3)
    found = of_searches("any", rollouts, config)
    live = llm.batch([problem.question.text for problem in rollouts.problems], config=config)
    assert found.paid.tolist() == [result.usage.generated_tokens for result in live]
    for expected, result in zip(found.expected, live, strict=True):
        first = result.decisions[0]
        assert result.expected is not None
        told = first.utility.expected_compute if first.utility else 3 * result.expected.remaining
        assert expected == pytest.approx(told, rel=1e-2)


def test_the_guard_is_measured_as_it_works() -> None:
    llm, rollouts = simulated(questions=12)
    expected = at_prompt(rollouts)
    share = float(np.sort(expected)[[5, 6]].mean()) / rollouts.max_new_tokens
    (found,) = guarded(rollouts, [share])
    budget = Budget(max_expected_share=share)
    live = llm.batch([problem.question.text for problem in rollouts.problems], budget=budget, max_samples=1)
    refused = np.array([not result.samples for result in live])
    assert found.refused.value == pytest.approx(refused.mean()) == 0.5
    rights = np.array([[item.right for item in problem.rollouts] for problem in rollouts.problems])
    tokens = np.array([[len(item.tokens) for item in problem.rollouts] for problem in rollouts.problems])
    cut = np.array([[not item.finished for item in problem.rollouts] for problem in rollouts.problems])
    assert found.right.value == pytest.approx(rights[refused].sum() / rights.sum())
    assert found.tokens.value == pytest.approx(tokens[refused].sum() / tokens.sum())
    assert np.isnan(found.runaways.value) == (not cut.any())
    refusing = [item.refused.value for item in guarded(rollouts)]
    assert refusing == sorted(refusing, reverse=True)
    assert 0.0 < refusing[0] <= 0.6
