"""Faults of ladders that were found: refusals that used budgets up, nested ladders, waiting, replies of odd shape."""

from __future__ import annotations

import time
from typing import Any

import pytest

from zip_introspect import Budget, BudgetError, HeadError, IntrospectiveLLM, Ladder, Rung
from zip_introspect.escalation.reply import Reply
from zip_introspect.result import Usage
from zip_introspect.testing.simulator import SimulatedBackend


def strong(prompt: Any) -> str:
    return "ans 1"


@pytest.fixture
def llm() -> IntrospectiveLLM:
    return IntrospectiveLLM(SimulatedBackend())


def test_a_question_that_a_model_refuses_costs_nothing(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, Rung(strong, max_tokens=50), min_confidence=0.3)
    result = ladder.generate("x" * llm.info.max_context, budget=Budget(max_tokens=2_000))
    assert result.text == "ans 1"
    assert result.escalation is not None
    assert result.escalation.attempts[0].usage.generated_tokens == 0


def test_a_nested_ladder_without_room_for_its_models_is_refused_before_any_runs(llm: IntrospectiveLLM) -> None:
    inner = Ladder(llm, strong, min_confidence=0.9)
    for limits in ({"max_tokens": 5_000}, {"max_cost": 5.0, "price_per_token": 0.001}):
        with pytest.raises(BudgetError, match="nothing says how much a call of 'strong' can take"):
            Ladder(llm, Rung(inner, **limits), min_confidence=0.99).generate("q")


def test_a_first_model_that_expects_nothing_at_the_prompt_is_refused(llm: IntrospectiveLLM) -> None:
    blind = IntrospectiveLLM(SimulatedBackend(head=False))
    for first in (blind, Ladder(llm, strong, min_confidence=0.5)):
        with pytest.raises(HeadError, match="needs what a head expects at the prompt"):
            Ladder(first, strong, min_prompt_confidence=0.9)
    above = Ladder(llm, blind, min_prompt_confidence=1.0).generate("q")
    assert above.escalation is not None
    assert above.escalation.attempts[-1].outcome == "accepted", "further up nobody asks it for that"


def test_waiting_for_a_turn_counts_where_seconds_do(llm: IntrospectiveLLM) -> None:
    def slow(prompt: Any) -> str:
        time.sleep(0.3)
        return "ans 1"

    begun = time.perf_counter()
    results = Ladder(llm, slow, min_confidence=1.0).batch(["q"] * 10, budget=Budget(max_seconds=1.0), max_samples=1)
    assert time.perf_counter() - begun < 2.5
    late = [item.outcome for result in results if result.escalation for item in result.escalation.attempts[1:]]
    assert {"accepted"} < set(late)
    assert all(result.text for result in results), "the first model's answer is there all the same"


def test_a_reply_of_odd_shape_is_passed_over(llm: IntrospectiveLLM) -> None:
    odd = Reply("ans 3", usage=None)  # type: ignore[arg-type]
    result = Ladder(llm, lambda prompt: odd, strong, min_confidence=1.0).generate("q")
    assert result.text == "ans 1"


def test_sums_of_money_are_not_refused_for_their_rounding(llm: IntrospectiveLLM) -> None:
    def broken(prompt: Any) -> str:
        raise ValueError("no")

    rungs = [Rung(broken, max_cost=0.1, name=f"broken {place}") for place in range(2)]
    first, last = Rung(llm, price_per_token=1e-30), Rung(strong, max_cost=0.1, name="last")
    ladder = Ladder(first, *rungs, last, min_confidence=1.0)
    assert ladder.generate("q", budget=Budget(max_cost=0.3, price_per_token=1e-30)).text == "ans 1"


def test_cached_tokens_of_a_message_are_counted() -> None:
    class Message:
        content = text = "ans 38"
        usage_metadata = {  # noqa: RUF012 - as LangChain's messages have it
            "input_tokens": 1_000,
            "output_tokens": 50,
            "total_tokens": 1_050,
            "input_token_details": {"cache_read": 900},
        }

    assert Reply.of(Message()).usage == Usage(1_000, 50, 50, 0, 0.0, cached_tokens=900)
