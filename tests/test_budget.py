from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.budget import Budget, Ledger
from zip_introspect.errors import BudgetError


@pytest.mark.parametrize("field", ["max_tokens", "max_samples", "max_depth", "max_seconds", "max_cost"])
@pytest.mark.parametrize("value", [0, -1])
def test_zero_and_negative_limits_are_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(BudgetError, match=rf"{field} is {value}: .*greater than 0"):
        Budget(**{field: value})


def test_money_without_a_price_is_contradictory() -> None:
    with pytest.raises(BudgetError, match=r"max_cost=1\.0 needs price_per_token"):
        Budget(max_cost=1.0)


@pytest.mark.parametrize("value", [True, 2.5, "many", [3]])
def test_a_budget_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(BudgetError, match=r"expected a Budget, a whole number of generated tokens, or None"):
        Budget.of(value)  # type: ignore[arg-type]


def test_an_int_is_a_number_of_tokens() -> None:
    assert Budget.of(200) == Budget(max_tokens=200)
    assert Budget.of(None) == Budget()
    with pytest.raises(BudgetError, match="max_tokens is 0"):
        Budget.of(0)


def test_a_prompt_dearer_than_the_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match="already costs"):
        Ledger(Budget(max_cost=0.1, price_per_token=0.01, price_per_prompt_token=0.01), prompt_tokens=10)


@given(
    wanted=st.lists(st.integers(0, 30), max_size=10),
    left=st.integers(1, 200),
    depth=st.integers(1, 40),
)
def test_shares_never_exceed_the_budget_and_waste_none_of_it(wanted: list[int], left: int, depth: int) -> None:
    ledger = Ledger(Budget(max_tokens=left, max_depth=depth), 1)
    steps = ledger.share(wanted)
    capped = [min(count, depth) for count in wanted]
    assert all(0 <= step <= cap for step, cap in zip(steps, capped, strict=True))
    assert sum(steps) == min(left, sum(capped))
    unmet = [step for step, cap in zip(steps, capped, strict=True) if step < cap]
    # Nobody who wants more has less than anyone else by more than the rounding.
    assert not unmet or max(steps) - min(unmet) <= 1


@given(
    price=st.floats(1e-6, 1.0),
    prompt_price=st.floats(0.0, 0.01),
    prompt=st.integers(1, 50),
    tokens=st.integers(1, 500),
)
def test_money_left_is_the_most_tokens_whose_cost_fits(
    price: float, prompt_price: float, prompt: int, tokens: int
) -> None:
    budget = Budget(
        max_cost=prompt * prompt_price + tokens * price, price_per_token=price, price_per_prompt_token=prompt_price
    )
    ledger = Ledger(budget, prompt)
    left = ledger.tokens_left
    assert left is not None
    ledger.tokens = left
    assert ledger.cost is not None
    assert budget.max_cost is not None
    assert ledger.cost <= budget.max_cost
    ledger.tokens = left + 1
    assert ledger.cost > budget.max_cost


def test_seconds_shrink_the_steps_to_the_slowest_recent_pace() -> None:
    now = [0.0]
    ledger = Ledger(Budget(max_seconds=1.0), 1, clock=lambda: now[0])
    assert ledger.share([16, 16]) == [1, 1]  # no pace is known yet
    now[0] = 0.1
    ledger.spend(tokens=2, depth=1, seconds=0.1)
    assert ledger.share([16]) == [9]
    now[0] = 0.95
    ledger.spend(tokens=9, depth=9, seconds=0.85)
    assert ledger.exhausted() == "seconds"


def test_an_unknown_pace_limits_the_next_call_and_no_plan() -> None:
    now = [0.0]
    ledger = Ledger(Budget(max_seconds=10.0), 1, clock=lambda: now[0])
    assert (ledger.depth_left, ledger.plan([16, 16]), ledger.share([16, 16])) == (None, [16, 16], [1, 1])
    now[0] = 2.0  # it compiled, allocated ...
    ledger.spend(tokens=2, depth=1, seconds=2.0)
    assert (ledger.depth_left, ledger.plan([16, 16]), ledger.share([16, 16])) == (None, [16, 16], [4, 4])
    now[0] = 2.25
    ledger.spend(tokens=8, depth=4, seconds=0.25)
    assert (ledger.depth_left, ledger.plan([200])) == (124, [124])  # 7.75 seconds at 1/16
    assert ledger.share([200]) == [124]  # and the first call says no more of those to come
    now[0] = 11.0
    assert (ledger.depth_left, ledger.plan([16]), ledger.share([16])) == (0, [0], [0])
    assert ledger.exhausted() == "seconds"


@given(
    paces=st.lists(st.sampled_from([0.125, 0.25]), min_size=2, max_size=12),
    slow=st.integers(0, 20),
    depth=st.none() | st.integers(100, 200),
)
def test_one_slow_call_changes_no_plan(paces: list[float], slow: int, depth: int | None) -> None:
    now = [0.0]
    ledger = Ledger(Budget(max_seconds=1_000.0, max_depth=depth), 1, clock=lambda: now[0])
    for place, pace in enumerate(paces):
        seconds = 60.0 if place == slow else pace
        now[0] += seconds
        ledger.spend(tokens=1, depth=1, seconds=seconds)
    left = ledger.depth_left
    assert left is not None
    in_time = 1_000.0 - now[0]
    others = [pace for place, pace in enumerate(paces) if place not in (0, slow)]
    if others:
        fastest, slowest = in_time / min(others), in_time / max(others)
        spare = depth - len(paces) if depth else fastest
        assert min(int(slowest), spare) <= left <= min(int(fastest), spare)


def test_exhaustion_names_the_limit() -> None:
    ledger = Ledger(Budget(max_tokens=5, max_depth=9), 1)
    assert ledger.exhausted() is None
    ledger.spend(5, 5, 0.0)
    assert ledger.exhausted() == "tokens"
    ledger = Ledger(Budget(max_depth=5), 1)
    ledger.spend(9, 5, 0.0)
    assert ledger.exhausted() == "depth"


def test_the_tighter_of_two_budgets_holds_on_every_limit() -> None:
    priced = Budget(max_cost=3.0, price_per_token=0.5, price_per_prompt_token=0.1, max_tokens=10)
    other = Budget(max_tokens=4, max_seconds=2.0)
    both = Budget(max_tokens=4, max_seconds=2.0, max_cost=3.0, price_per_token=0.5, price_per_prompt_token=0.1)
    assert priced.within(other) == other.within(priced) == both
