"""What the joint expects to cost more than a share of the budget is handed on, or not begun."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from zip_introspect import (
    Budget,
    BudgetError,
    EscalationPolicy,
    HandOn,
    HeadError,
    IntrospectiveLLM,
    Ladder,
    strategies,
)
from zip_introspect.cli.app import app
from zip_introspect.demo.problems import held_out
from zip_introspect.testing.simulator import SimulatedBackend

PROMPTS = [problem.prompt for problem in held_out(0, 8)]
UNSURE = EscalationPolicy(min_confidence=0.0)


@pytest.fixture(scope="module")
def demo() -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.demo() as model:
        yield model


@pytest.fixture(scope="module")
def expected(demo: IntrospectiveLLM) -> list[float]:
    return [demo.introspect(prompt).expected_tokens for prompt in PROMPTS]


def test_a_question_is_begun_where_one_sample_fits_the_share(demo: IntrospectiveLLM, expected: list[float]) -> None:
    longest = demo.config.max_new_tokens
    low, high = sorted(expected)[3:5]
    for budget in (
        Budget(max_expected_share=(low + high) / 2 / longest),
        Budget(max_tokens=1_000, max_expected_share=(low + high) / 2 / 1_000),
        Budget(max_cost=5.0, price_per_token=0.01, max_expected_share=(low + high) / 2 / 500),
    ):
        results = demo.batch(PROMPTS, budget=budget, max_samples=2)
        assert [bool(item.samples) for item in results] == [length <= low for length in expected]
        free = demo.batch(PROMPTS, budget=budget.replace(max_expected_share=None), max_samples=2)
        for result, without in zip(results, free, strict=True):
            if result.samples:
                assert (result.text, result.usage.generated_tokens) == (without.text, without.usage.generated_tokens)
                continue
            assert (result.finish_reason, result.stop_reason, result.text) == ("budget", "budget", "")
            assert result.usage.generated_tokens == 0
            assert result.expected is not None
            assert f"expected to take {result.expected.remaining:.0f} tokens" in result.stop_detail
            assert result.decisions[-1].tokens_saved


@pytest.mark.parametrize("strategy", strategies.names())
def test_no_strategy_begins_what_is_expected_to_run_on(strategy: str, demo: IntrospectiveLLM) -> None:
    result = demo.generate(PROMPTS[0], strategy=strategy, budget=Budget(max_expected_share=0.01))
    assert (result.usage.generated_tokens, result.finish_reason) == (0, "budget")
    result = demo.generate(PROMPTS[0], strategy=strategy, budget=Budget(max_expected_share=0.01), hand_on=HandOn())
    assert (result.usage.generated_tokens, result.finish_reason) == (0, "handed_on")


def test_a_ladder_hands_it_on(demo: IntrospectiveLLM) -> None:
    budget = Budget(max_expected_share=0.01)
    ladder = Ladder(demo, lambda prompt: "ans 42", policy=UNSURE)
    for result in (
        ladder.generate(PROMPTS[0], budget=budget),
        asyncio.run(ladder.agenerate(PROMPTS[0], budget=budget)),
    ):
        assert (result.answer, result.usage.generated_tokens) == ("42", 0)
        assert result.escalation is not None
        assert result.escalation.attempts[0].outcome == "handed_on"
        assert "expected to take" in result.escalation.reason
    assert ladder.generate(PROMPTS[0]).escalation is None


def test_where_no_stronger_model_answers_it_stays_unpaid(demo: IntrospectiveLLM) -> None:
    def fails(prompt: object) -> str:
        raise RuntimeError("out of order")

    result = Ladder(demo, fails, policy=UNSURE).generate(PROMPTS[0], budget=Budget(max_expected_share=0.01))
    assert (result.text, result.usage.generated_tokens) == ("", 0)
    assert any("out of order" in warning for warning in result.warnings)


def test_a_stronger_model_without_a_head_is_asked_all_the_same(demo: IntrospectiveLLM) -> None:
    bare = IntrospectiveLLM(SimulatedBackend(head=False))
    for stronger in (bare, Ladder(bare, policy=UNSURE)):
        ladder = Ladder(demo, stronger, policy=UNSURE)
        result = ladder.generate(PROMPTS[0], budget=Budget(max_expected_share=0.01, max_tokens=5_000))
        assert result.escalation is not None
        assert [item.outcome for item in result.escalation.attempts] == ["handed_on", "accepted"]


def test_without_a_head_it_is_refused_before_anything_runs(demo: IntrospectiveLLM) -> None:
    bare = IntrospectiveLLM(SimulatedBackend(head=False))
    with pytest.raises(HeadError, match="max_expected_share of the budget"):
        bare.generate("a question", budget=Budget(max_expected_share=0.5))
    for first in (bare, Ladder(bare, policy=UNSURE)):
        with pytest.raises(HeadError, match=r"max_expected_share=0\.5 needs"):
            Ladder(first, demo, policy=UNSURE).generate("a question", budget=Budget(max_expected_share=0.5))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_is_more_than_nothing_and_no_more_than_all(share: float) -> None:
    with pytest.raises(BudgetError, match="max_expected_share"):
        Budget(max_expected_share=share)


def test_it_can_be_asked_for_on_the_command_line() -> None:
    done = CliRunner().invoke(app, ["ask", PROMPTS[0], "--max-expected-share", "0.01"])
    assert done.exit_code == 0, done.stderr
    assert "more than a share of 0.01" in " ".join(done.stdout.split())
    assert CliRunner().invoke(app, ["ask", PROMPTS[0], "--max-expected-share", "2"]).exit_code == 1
