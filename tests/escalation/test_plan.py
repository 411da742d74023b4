"""A climb against a plain account of the same questions, whatever the models say and however they fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect import Budget, BudgetError, EscalationPolicy, IntrospectiveLLM, Reply, Rung, Usage
from zip_introspect.escalation.plan import Climb
from zip_introspect.testing.simulator import SimulatedBackend

LLM = IntrospectiveLLM(SimulatedBackend())


@dataclass
class Scripted:
    """What a rung does when it is asked."""

    confidence: float | None
    fails: bool
    complete: bool
    tokens: int
    reward: float
    cost: float


SCRIPTS = st.lists(
    st.builds(
        Scripted,
        confidence=st.none() | st.floats(0.0, 1.0),
        fails=st.booleans(),
        complete=st.booleans(),
        tokens=st.integers(1, 50),
        reward=st.floats(0.0, 1.0),
        cost=st.floats(0.0, 0.5),
    ),
    min_size=1,
    max_size=5,
)
POLICIES = st.builds(
    EscalationPolicy,
    min_confidence=st.floats(0.0, 1.0),
    expected_utility=st.booleans(),
    otherwise=st.sampled_from(["return_best", "abstain", "raise"]),
)


def rungs(scripts: list[Scripted]) -> list[Rung]:
    return [
        Rung(
            LLM if place == 0 else str,
            name=f"rung {place}",
            expected_reward=script.reward,
            cost=script.cost,
            max_tokens=script.tokens,
        )
        for place, script in enumerate(scripts)
    ]


def climbed(scripts: list[Scripted], policy: EscalationPolicy, budget: Budget) -> tuple[Climb, list[int]]:
    """Ask as the climb says until it has nobody left; whom it asked."""
    scripts = [Scripted(0.5 if s.confidence is None else s.confidence, *_rest(s)) for s in scripts[:1]] + scripts[1:]
    climb = Climb(rungs(scripts), policy, [policy.min_confidence] * len(scripts), "a question", budget)
    asked = []
    while call := climb.next():
        asked.append(call.place)
        script = scripts[call.place]
        assert len(asked) <= len(scripts)
        if budget.max_tokens is not None:
            assert call.budget.max_tokens is not None
            if call.place:
                assert script.tokens <= call.budget.max_tokens
        if script.fails:
            climb.failed(call, ValueError("no"), 0.5)
        else:
            tokens = min(script.tokens, call.budget.max_tokens or script.tokens)
            usage = Usage(3, tokens, tokens, tokens, 0.0)
            reply = Reply(f"text {call.place}", "1", script.confidence, usage, complete=script.complete)
            climb.replied(call, reply, 0.5)
    return climb, asked


def _rest(script: Scripted) -> tuple[Any, ...]:
    return script.fails, script.complete, script.tokens, script.reward, script.cost


@given(SCRIPTS, POLICIES, st.none() | st.integers(1, 100))
def test_a_ladder_asks_each_once_and_takes_what_is_sure_enough(
    scripts: list[Scripted], policy: EscalationPolicy, limit: int | None
) -> None:
    climb, asked = climbed(scripts, policy, Budget(max_tokens=limit))
    outcome = climb.outcome()
    assert len(set(asked)) == len(asked)
    assert asked[0] == 0
    if not policy.expected_utility:
        assert asked == sorted(asked)
    if limit is not None:
        assert outcome.usage.generated_tokens <= limit
    answered = [place for place in asked if not scripts[place].fails]
    sure = [place for place in answered if _sure(scripts, place, policy)]
    if outcome.trouble is None:
        assert sure[-1:] == asked[-1:] == [outcome.place]
        assert not outcome.raises
    else:
        assert outcome.raises == (policy.otherwise == "raise" or not answered)
        assert (outcome.reply is None) == (policy.otherwise == "abstain" or not answered)
        if limit is None:
            assert sorted(asked) == list(range(len(scripts)))
            assert policy.expected_utility or not sure
    if outcome.reply is not None and outcome.trouble is not None:
        ranks = [(scripts[place].complete, _confidence(scripts, place)) for place in answered]
        assert max(ranks) == (outcome.reply.complete, outcome.confidence)
    if outcome.escalation is None:
        assert asked == [0]
        assert outcome.trouble is None
    else:
        told = [item for item in outcome.escalation.attempts if item.outcome != "skipped"]
        assert [item.target for item in told] == [f"rung {place}" for place in asked]
        for item, place in zip(told, asked, strict=True):
            assert (item.outcome == "failed") == scripts[place].fails


def _confidence(scripts: list[Scripted], place: int) -> float:
    said = scripts[place].confidence
    return (0.5 if place == 0 else scripts[place].reward) if said is None else said


def _sure(scripts: list[Scripted], place: int, policy: EscalationPolicy) -> bool:
    script = scripts[place]
    said = 0.5 if place == 0 and script.confidence is None else script.confidence
    return script.complete and (said is None or said >= (policy.min_confidence or 0.0))


@given(SCRIPTS, st.floats(0.0, 1.0))
def test_utilities_send_a_question_to_the_model_that_is_worth_most(scripts: list[Scripted], confidence: float) -> None:
    scripts[0].confidence, scripts[0].fails, scripts[0].complete = confidence, False, True
    climb, asked = climbed(scripts, EscalationPolicy(expected_utility=True), Budget())
    worths = {place: script.reward - script.cost for place, script in enumerate(scripts) if place}
    best = max(worths.values(), default=-1.0)
    assert (len(asked) > 1) == (best > confidence)
    if len(asked) > 1:
        assert worths[asked[1]] == best
    if len(asked) == 1:
        assert climb.outcome().escalation is None


def test_a_question_that_left_early_comes_back_where_no_stronger_model_answers() -> None:
    def run(otherwise: str) -> list[tuple[int, bool]]:
        policy = EscalationPolicy(expected_utility=True, otherwise=otherwise)
        climb = Climb([Rung(LLM), Rung(str, expected_reward=0.9)], policy, [None, None], "q", Budget())
        asked = []
        while call := climb.next():
            asked.append((call.place, call.hand_on is not None))
            if call.place:
                climb.failed(call, ValueError("no"), 0.0)
            elif call.hand_on is not None:
                climb.replied(call, Reply("", None, 0.0, complete=False, handed_on=True, tokens_saved=40.0), 0.0)
            else:
                climb.replied(call, Reply("ans 1", "1", 0.2), 0.0)
        outcome = climb.outcome()
        if otherwise == "return_best":
            assert outcome.reply is not None
            assert outcome.reply.text == "ans 1"
            assert outcome.escalation is not None
            assert [item.outcome for item in outcome.escalation.attempts] == ["handed_on", "failed", "accepted"]
        return asked

    assert run("return_best") == [(0, True), (1, False), (0, False)]
    assert run("abstain") == [(0, True), (1, True)]


def test_what_cannot_be_held_to_a_budget_is_refused_before_anyone_is_asked() -> None:
    policy = EscalationPolicy(min_confidence=0.5)
    for budget, name in (
        (Budget(max_tokens=5), "max_tokens=5"),
        (Budget(max_cost=2.0, price_per_token=0.1), r"max_cost=2"),
    ):
        with pytest.raises(BudgetError, match=f"{name}.*'str' can take; give it as Rung"):
            Climb([Rung(LLM), Rung(str)], policy, [0.5, None], "q", budget)


def test_money_and_time_are_counted_over_the_whole_ladder() -> None:
    policy = EscalationPolicy(min_confidence=0.5)
    ladder = [Rung(LLM), Rung(str, name="dear", max_cost=8.0), Rung(sorted, name="cheap", max_cost=1.0)]
    budget = Budget(max_cost=10.0, price_per_token=0.5, max_seconds=9.0)
    climb = Climb(ladder, policy, [0.5, None, None], "q", budget)
    first = climb.next()
    assert first is not None
    climb.replied(first, Reply("a", "1", 0.1, Usage(1, 6, 6, 6, 2.0, cost=3.0)), 2.0)
    second = climb.next()
    assert second is not None
    assert second.rung.name == "cheap"
    assert second.budget.max_cost == 7.0
    assert second.budget.max_seconds == second.timeout == 7.0
    climb.failed(second, TimeoutError(), 7.0)
    assert climb.next() is None
    outcome = climb.outcome()
    assert outcome.out_of_budget
    assert outcome.escalation is not None
    assert [item.outcome for item in outcome.escalation.attempts] == ["doubtful", "skipped", "timeout"]
    assert "7 left" in outcome.escalation.attempts[1].reason
    assert outcome.usage.cost == 4.0
    assert outcome.usage.seconds == 9.0
