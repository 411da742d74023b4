"""Ladders of ladders: the inner one is a model among others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.escalation.asked import CONFIG, NEVER_SURE, PROMPTS, broken, strong
from zip_introspect import (
    Budget,
    BudgetError,
    CalibrationError,
    ConfigError,
    EscalationError,
    EscalationPolicy,
    GenerationResult,
    HandedOn,
    HandOn,
    IntrospectiveLLM,
    Ladder,
    Rung,
    SearchFinished,
)
from zip_introspect.testing.simulator import SimulatedBackend


def test_a_ladder_may_be_asked_first_in_between_or_last(llm: IntrospectiveLLM) -> None:
    other = IntrospectiveLLM(SimulatedBackend(max_length=30), CONFIG)
    pair = Ladder(llm, other, policy=NEVER_SURE)
    flat = Ladder(llm, other, strong, policy=NEVER_SURE).generate(PROMPTS[0])
    first = Ladder(pair, strong, policy=NEVER_SURE).generate(PROMPTS[0])
    assert first.answer == flat.answer == "42"
    assert first.usage.generated_tokens == flat.usage.generated_tokens
    assert first.escalation is not None
    inner = first.escalation.attempts[0]
    assert inner.result is not None
    assert inner.result.escalation is not None
    assert [item.outcome for item in inner.result.escalation.attempts] == ["doubtful", "doubtful"]
    last = Ladder(other, Ladder(llm, strong, policy=NEVER_SURE), policy=NEVER_SURE).generate(PROMPTS[0])
    assert last.answer == "42"
    assert last.escalation is not None
    assert [item.target for item in last.escalation.attempts] == ["simulated world", "ladder"]


def test_the_budget_of_the_outer_holds_within_the_inner(llm: IntrospectiveLLM) -> None:
    inner = Ladder(llm, Rung(strong, max_tokens=10), policy=NEVER_SURE)
    outer = Ladder(inner, IntrospectiveLLM(SimulatedBackend(), CONFIG), policy=NEVER_SURE)
    for limit in (1, 7, 30, 100, 1000):
        assert outer.generate(PROMPTS[0], budget=limit).usage.generated_tokens <= limit
    unbounded = Ladder(llm, Ladder(llm, strong, policy=NEVER_SURE), policy=NEVER_SURE)
    with pytest.raises(BudgetError, match=r"'strong' can take; give it as Rung"):
        unbounded.generate(PROMPTS[0], budget=100)
    dear = Ladder(llm, Rung(Ladder(llm, policy=NEVER_SURE), max_cost=1.0), policy=NEVER_SURE)
    with pytest.raises(BudgetError, match="needs price_per_token"):
        dear.generate(PROMPTS[0])
    assert dear.generate(PROMPTS[0], budget=Budget(price_per_token=0.5)).usage.cost is not None


def test_an_inner_ladder_that_declines_or_fails_is_passed_over(llm: IntrospectiveLLM) -> None:
    for otherwise, outcome in (("abstain", "doubtful"), ("raise", "failed")):
        inner = Ladder(llm, broken, policy=EscalationPolicy(min_confidence=1.0, otherwise=otherwise))
        result = Ladder(inner, strong, policy=NEVER_SURE).generate(PROMPTS[0])
        assert result.answer == "42"
        assert result.escalation is not None
        assert result.escalation.attempts[0].outcome == outcome
        assert result.escalation.attempts[0].usage.generated_tokens > 0
    alone = Ladder(inner, policy=NEVER_SURE).generate(PROMPTS[0])
    assert alone.text == llm.generate(PROMPTS[0]).text, "what an inner one would not give is still the best there is"
    with pytest.raises(EscalationError):
        inner.generate(PROMPTS[0])


def test_what_a_ladder_cannot_be_is_refused(llm: IntrospectiveLLM) -> None:
    inner = Ladder(llm, strong, policy=NEVER_SURE)
    with pytest.raises(CalibrationError, match="needs a calibration"):
        Ladder(inner, strong, policy=EscalationPolicy(max_error=0.1))
    for ask in (inner.generate, inner.batch, inner.stream):
        with pytest.raises(ConfigError, match="hand_on was given"):
            ask(PROMPTS[0] if ask != inner.batch else PROMPTS[:1], hand_on=HandOn(worth=1.0))  # type: ignore[arg-type]


def test_events_of_inner_ladders_come_through_and_the_end_is_told_once(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(Ladder(llm, broken, policy=NEVER_SURE), strong, policy=NEVER_SURE)
    events = list(ladder.stream(PROMPTS[0]))
    assert [event.target for event in events if isinstance(event, HandedOn)] == ["broken", "strong"]
    assert [isinstance(event, SearchFinished) for event in events].count(True) == 1
    assert isinstance(events[-1], SearchFinished)


Shape = Any
"""A ladder: a tuple of a number of samples, a name or a shape for each rung."""

STRONGER = st.sampled_from(["strong", "broken", "small"])
SHAPES = st.recursive(
    st.tuples(st.integers(1, 3), STRONGER),
    lambda inner: st.tuples(st.integers(1, 3) | inner, STRONGER | inner),
    max_leaves=4,
)
LLMS = {most: IntrospectiveLLM(SimulatedBackend(), CONFIG.replace(max_samples=most)) for most in (1, 2, 3)}
NAMED = {"strong": strong, "broken": broken, "small": IntrospectiveLLM(SimulatedBackend(max_length=20), CONFIG)}


def built(shape: Shape, bar: float) -> Any:
    if isinstance(shape, int):
        return LLMS[shape]
    if isinstance(shape, str):
        return NAMED[shape]
    return Ladder(*(built(rung, bar) for rung in shape), min_confidence=bar)


@given(shape=SHAPES, bar=st.sampled_from([0.3, 0.7, 1.0]), prompt=st.sampled_from(PROMPTS))
@settings(max_examples=40, deadline=None)
def test_all_ways_to_ask_any_ladder_come_to_the_same(shape: Shape, bar: float, prompt: str) -> None:
    ladder = built(shape, bar)

    async def streamed() -> GenerationResult:
        *_, end = [event async for event in ladder.astream(prompt)]
        return end.result  # type: ignore[no-any-return]

    *_, end = ladder.stream(prompt)
    found = [
        ladder.generate(prompt),
        asyncio.run(ladder.agenerate(prompt)),
        end.result,
        asyncio.run(streamed()),
        ladder.batch([prompt])[0],
        asyncio.run(ladder.abatch([prompt]))[0],
    ]
    assert len({told(result) for result in found}) == 1


def told(result: GenerationResult) -> tuple[Any, ...]:
    """What does not hang on the time it took."""
    attempts = result.escalation.attempts if result.escalation else ()
    return (
        result.text,
        result.answer,
        result.confidence,
        result.finish_reason,
        result.usage.generated_tokens,
        tuple((item.target, item.outcome, item.reason, told(item.result) if item.result else ()) for item in attempts),
    )
