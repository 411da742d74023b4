from __future__ import annotations

import time
from typing import Any

import pytest

from tests.escalation.asked import (
    CONFIG,
    EVERY,
    NEVER_SURE,
    PROMPTS,
    broken,
    strong,
)
from tests.scripted import FaultyBackend, out_of_memory
from zip_introspect import (
    Budget,
    BudgetError,
    EscalationPolicy,
    IntrospectiveLLM,
    Ladder,
    Reply,
    Rung,
    Usage,
)
from zip_introspect.testing.simulator import SimulatedBackend


def test_the_budget_holds_over_all_models_together(llm: IntrospectiveLLM) -> None:
    second = IntrospectiveLLM(SimulatedBackend(max_length=50), CONFIG)
    for limit in (1, 7, 30, 100):
        result = Ladder(llm, second, policy=NEVER_SURE).generate(PROMPTS[0], budget=limit)
        assert result.usage.generated_tokens <= limit
        assert result.escalation is not None
        if limit == 1:
            assert result.finish_reason == "budget"
    with pytest.raises(BudgetError, match="max_tokens=30"):
        Ladder(llm, strong, policy=NEVER_SURE).generate(PROMPTS[0], budget=30)
    bounded = Ladder(llm, Rung(strong, max_tokens=1000), policy=NEVER_SURE).generate(PROMPTS[0], budget=500)
    assert bounded.finish_reason == "budget"
    assert bounded.answer == llm.generate(PROMPTS[0], budget=500).answer


def test_one_ledger_of_tokens_seconds_and_money(llm: IntrospectiveLLM) -> None:
    def dear(prompt: Any) -> Reply:
        time.sleep(0.05)
        return Reply("ans 42", usage=Usage(20, 30, 30, 0, 0.0))

    ladder = Ladder(llm, Rung(dear, max_cost=5.0, price_per_token=0.1), policy=NEVER_SURE)
    budget = Budget(max_cost=1000.0, price_per_token=0.5)
    result, alone = ladder.generate(PROMPTS[0], budget=budget), llm.generate(PROMPTS[0], budget=budget)
    assert alone.usage.cost is not None
    assert result.usage.cost == pytest.approx(alone.usage.cost + 3.0)
    assert result.usage.generated_tokens == alone.usage.generated_tokens + 30
    assert result.usage.prompt_tokens == alone.usage.prompt_tokens + 20
    assert result.usage.seconds >= 0.05


@pytest.mark.parametrize("limits", [{"max_seconds": 3_600.0}, {"max_tokens": 50_000}, {"max_depth": 50_000}])
def test_an_ample_limit_hands_on_nothing_more(llm: IntrospectiveLLM, limits: dict[str, Any]) -> None:
    rung = Rung(strong, expected_reward=0.9, cost=0.3, max_tokens=100)
    ladder = Ladder(llm, rung, policy=EscalationPolicy(expected_utility=True))
    timed = Ladder(Rung(llm, timeout=600.0), rung, policy=EscalationPolicy(expected_utility=True))
    free, limited, slow = (
        ladder.batch(EVERY[:30]),
        ladder.batch(EVERY[:30], budget=Budget(**limits)),
        timed.batch(EVERY[:30]),
    )
    assert 0 < sum(result.escalation is not None for result in free) < 30
    for result, *others in zip(free, limited, slow, strict=True):
        for other in others:
            assert (other.decisions, other.text) == (result.decisions, result.text)
            assert (other.escalation is None) == (result.escalation is None)


def test_an_answer_that_was_finished_before_the_budget_ended_counts_as_one() -> None:
    with IntrospectiveLLM(SimulatedBackend(), CONFIG) as llm:
        ladder = Ladder(llm, min_confidence=0.2, otherwise="abstain")
        cases = [
            (prompt, limit, result)
            for limit in (20, 40, 60)
            for prompt, result in zip(
                EVERY[:60], llm.batch(EVERY[:60], budget=limit, strategy="best_of_n"), strict=True
            )
            if result.finish_reason == "budget" and result.confidence > 0.5
        ]
        assert len(cases) > 5
        for prompt, limit, alone in cases:
            assert ladder.generate(prompt, budget=limit, strategy="best_of_n").text == alone.text


def test_what_a_broken_model_may_have_spent_counts_as_spent(llm: IntrospectiveLLM) -> None:
    backend = FaultyBackend(out_of_memory, at=3)
    with IntrospectiveLLM(backend, CONFIG) as broken_llm:
        result = Ladder(broken_llm, llm, strong, policy=NEVER_SURE).generate
        with pytest.raises(BudgetError):
            result(PROMPTS[0], budget=60)
        ladder = Ladder(broken_llm, llm, policy=NEVER_SURE)
        backend.calls = 0
        begun = ladder.generate(PROMPTS[0], budget=60)
        assert (begun.finish_reason, begun.usage.generated_tokens) == ("budget", 60)
        assert begun.text, "what it had when it broke is the best there is"
        backend.calls = 0
        assert ladder.batch(PROMPTS[:2])[0].answer == llm.generate(PROMPTS[0]).answer


def test_a_rung_that_knows_its_budget_is_held_to_its_own_limits_too(llm: IntrospectiveLLM) -> None:
    second = IntrospectiveLLM(SimulatedBackend(), CONFIG)
    result = Ladder(llm, Rung(second, max_tokens=3), policy=NEVER_SURE).generate(PROMPTS[0])
    assert result.escalation is not None
    assert result.escalation.attempts[1].usage.generated_tokens <= 3
    first = Ladder(Rung(llm, max_tokens=5), strong, policy=NEVER_SURE).generate(PROMPTS[0])
    assert first.usage.generated_tokens <= 5
    with pytest.raises(BudgetError, match="needs price_per_token"):
        Ladder(llm, Rung(second, max_cost=1.0), policy=NEVER_SURE).generate(PROMPTS[0])


def test_limits_of_samples_and_steps_are_for_models_that_have_them(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, strong, policy=NEVER_SURE)
    assert ladder.generate(PROMPTS[0], budget=Budget(max_samples=1)).answer == "42"
    assert ladder.generate(PROMPTS[0], budget=Budget(max_depth=10)).answer == "42"


def test_asking_the_first_again_under_too_small_a_rest_is_no_error(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, Rung(broken, max_cost=0.92), min_prompt_confidence=1.0)
    budget = Budget(max_cost=1.0, price_per_token=0.01, price_per_prompt_token=0.005)
    result = ladder.generate(PROMPTS[0], budget=budget)
    assert result.escalation is not None
    assert [item.outcome for item in result.escalation.attempts] == ["handed_on", "failed", "skipped"]
    assert result.finish_reason == "budget"
