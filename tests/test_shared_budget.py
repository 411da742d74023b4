"""One budget that many draw on: never exceeded, given back, divided."""

from __future__ import annotations

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.budget import Budget, Ledger
from zip_introspect.errors import BudgetError
from zip_introspect.introspection.demand import PRICES
from zip_introspect.shared_budget import Share, SharedBudget, total_of


@pytest.mark.parametrize(
    "limit", [Budget(max_samples=3), Budget(max_depth=3), Budget(max_expected_share=0.5)], ids=repr
)
def test_limits_of_one_prompt_are_refused_by_name(limit: Budget) -> None:
    (name,) = limit.model_fields_set
    with pytest.raises(BudgetError, match=f"{name} holds for one prompt"):
        SharedBudget(limit.replace(max_tokens=5))


def test_a_budget_without_a_limit_is_refused() -> None:
    with pytest.raises(BudgetError, match="without a limit"):
        SharedBudget(Budget(price_per_token=1.0))
    for calls in (-1, 1.5, True):
        with pytest.raises(BudgetError, match=f"calls is {calls}"):
            SharedBudget(10, calls=calls)  # type: ignore[arg-type]


def test_two_totals_are_refused_and_one_is_taken_as_it_is() -> None:
    shared = SharedBudget(10)
    assert total_of(shared, None) is shared
    assert total_of(Budget(max_tokens=3), shared) is shared
    assert total_of(None, None) is None
    with pytest.raises(BudgetError, match="give one of the two"):
        total_of(shared, 10)


def test_copies_draw_on_the_same_and_none_is_pickled() -> None:
    shared = SharedBudget(10)
    assert copy.copy(shared) is shared
    assert copy.deepcopy({"budget": shared})["budget"] is shared
    with pytest.raises(TypeError, match="lives in one process"):
        pickle.dumps(shared)


def test_prices_that_differ_are_refused() -> None:
    shared = SharedBudget(Budget(max_cost=1.0, price_per_token=0.1))
    assert shared.open(Budget(max_tokens=3)).budget == Budget(max_tokens=3, price_per_token=0.1)
    with pytest.raises(BudgetError, match="different prices"):
        shared.open(Budget(price_per_token=0.2))


def test_seconds_count_from_the_first_call() -> None:
    now = [10.0]
    shared = SharedBudget(Budget(max_seconds=5.0), clock=lambda: now[0])
    now[0] = 20.0
    assert shared.open(Budget()).budget.max_seconds == 5.0
    now[0] = 23.0
    assert shared.seconds_left == 2.0
    assert shared.open(Budget(max_seconds=1.0)).budget.max_seconds == 1.0
    assert shared.open(Budget()).budget.max_seconds == 2.0
    now[0] = 30.0
    late = shared.open(Budget()).budget.max_seconds
    assert late is not None
    assert 0 < late < 1e-3


@given(
    limit=st.integers(1, 60),
    money=st.booleans(),
    moves=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20), st.integers(0, 20), st.booleans()), max_size=60),
    priced=st.booleans(),
)
def test_the_total_is_never_exceeded_and_reservations_come_back(
    limit: int, money: bool, moves: list[tuple[int, int, int, bool]], priced: bool
) -> None:
    price = 0.1 if money else None
    limits = Budget(max_cost=limit * 0.1, price_per_token=price) if money else Budget(max_tokens=limit)
    shared = SharedBudget(limits)
    ledgers: dict[int, Ledger] = {}
    reserved: dict[int, int] = {}
    for who, wanted, taken, ends in moves:
        if who not in ledgers:
            part = shared.open(Budget())
            ledger = Ledger(part.budget, 3, part=part, priced=priced)
            if not ledger.begin(100):
                ledger.close()
                continue
            ledgers[who] = ledger
        ledger = ledgers[who]
        if who in reserved:
            ledger.spend(min(taken, reserved.pop(who)), 1, 0.0)
        else:
            reserved[who] = ledger.share([wanted])[0]
        assert shared.tokens + sum(reserved.values()) <= limit
        if money:
            assert shared.cost is not None
            assert limits.max_cost is not None
            assert shared.cost <= limits.max_cost
        if ends:
            ledger.close()
            ledgers.pop(who)
            reserved.pop(who, None)
    for ledger in ledgers.values():
        ledger.close()
    assert (shared.tokens_left or 0) == limit - shared.tokens
    part = shared.open(Budget())
    assert part.begin(0, 1) == (shared.tokens < limit)
    assert part.tokens_left(priced=True) == limit - shared.tokens  # nothing is reserved any more


def test_what_one_leaves_is_the_others() -> None:
    shared = SharedBudget(100)
    parts = [shared.open(Budget()) for _ in range(4)]
    assert all(part.begin(0, 1000) for part in parts[:2])
    assert [part.tokens_left(priced=False) for part in parts[:2]] == [25, 25]
    parts[0].settle(10)
    parts[0].close()
    assert parts[1].tokens_left(priced=False) == 30
    del parts[3]  # a call that never came to its turn
    assert parts[1].tokens_left(priced=False) == 45
    assert parts[2].begin(0, 1000)
    parts[1].settle(45)
    assert parts[1].tokens_left(priced=False) == 0
    assert parts[2].tokens_left(priced=False) == 45


def test_calls_that_are_expected_keep_their_share() -> None:
    shared = SharedBudget(100, calls=5)
    part = shared.open(Budget())
    assert part.begin(0, 1000)
    assert part.tokens_left(priced=False) == 20
    assert part.tokens_left(priced=True) == 100


def test_a_token_has_a_price_where_not_all_can_have_what_they_want() -> None:
    curve = np.where(PRICES < 1e-3, 100.0, 0.0)
    shared = SharedBudget(150)
    parts = [shared.open(Budget()) for _ in range(2)]
    assert all(part.begin(0, 100) for part in parts[:1])
    parts[0].expect(curve)
    assert shared.price > 0.0  # the other is taken to want the same
    parts[0].settle(60)
    parts[0].close()
    assert parts[1].begin(0, 80)
    assert shared.price == 0.0  # it could not take more than what is left


def test_whose_turn_has_not_come_waits_while_others_have_reserved_all() -> None:
    shared = SharedBudget(10)
    first, second = (shared.open(Budget()) for _ in range(2))
    assert first.begin(0, 100)
    assert second.begin(0, 100)
    first.reserve(10)
    assert second.waits
    assert not first.waits
    first.settle(4)
    assert not second.waits
    assert second.tokens_left(priced=True) == 6


def test_a_prompt_that_cannot_be_paid_for_waits_for_what_others_may_leave() -> None:
    shared = SharedBudget(Budget(max_cost=1.0, price_per_token=0.01, price_per_prompt_token=0.01))
    first, second = (shared.open(Budget()) for _ in range(2))
    assert first.begin(1, 60)
    first.reserve(60)
    assert not second.begin(45, 60)
    assert second.waits
    first.settle(5)
    assert not second.waits
    assert second.begin(45, 60)
    third = shared.open(Budget())
    assert not third.begin(60, 60)
    assert not third.waits  # whatever others leave, it is too little
    third.close()
    assert not third.begin(1, 1)
    assert not third.waits


def test_what_is_only_reserved_is_waited_for_and_not_beyond_own_limits() -> None:
    now = [0.0]
    shared = SharedBudget(10)
    other = shared.open(Budget())
    assert other.begin(0, 10)
    part = shared.open(Budget(max_seconds=5.0))
    ledger = Ledger(part.budget, 1, clock=lambda: now[0], part=part, priced=True)
    assert ledger.begin(10)
    other.reserve(10)
    assert ledger.waits
    assert ledger.exhausted() is None
    now[0] = 6.0
    assert not ledger.waits
    assert ledger.exhausted() == "seconds"
    now[0] = 0.0
    other.settle(10)
    assert not ledger.waits
    assert ledger.exhausted() == "total"


def test_only_as_many_are_to_come_as_the_money_carries() -> None:
    shared = SharedBudget(Budget(max_cost=1.0, price_per_token=0.01, price_per_prompt_token=0.01), calls=10)
    first, second, _third = (shared.open(Budget()) for _ in range(3))
    assert second.carried_beside([])
    assert first.begin(20, 50)
    assert first.tokens_left(priced=False) == 80  # the other nine prompts cost more than there is
    assert not second.carried_beside([first])  # nobody knows yet what an answer takes
    assert second.carried_beside([None])  # what runs elsewhere may never end before it
    first.settle(10)
    first.close()
    assert second.begin(20, 50)
    assert second.tokens_left(priced=False) == 15  # of 50, the prompt of one more costs 20: the rest is for both


def test_threads_draw_on_it_at_once() -> None:
    shared = SharedBudget(5_000)

    def draw() -> None:
        for _ in range(50):
            part: Share = shared.open(Budget())
            ledger = Ledger(part.budget, 1, part=part, priced=True)
            if ledger.begin(100):
                (steps,) = ledger.share([37])
                ledger.spend(steps, 1, 0.0)
            ledger.close()

    threads = [threading.Thread(target=draw) for _ in range(4)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that one looks at what is left while another is about to reserve it
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert shared.tokens == 5_000
    assert shared.tokens_left == 0
