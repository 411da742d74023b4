"""A plan against a plain account of the same questions, whatever the models say and however they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect import Budget, BudgetError, ConfigError, EscalationPolicy, Reply, Rung, Usage
from zip_introspect.escalation import drivers
from zip_introspect.escalation.bounds import HeldByItself
from zip_introspect.escalation.models import HandedOut, Model
from zip_introspect.escalation.plan import Call, EscalationPlan, Outcome

PROMPT = "a question"
Says = Callable[[Call], Reply]


class Told(Model):
    """Says what it is told to, and notes that it was asked."""

    def __init__(self, says: Says, asked: list[Call] | None = None) -> None:
        self.name, self.says = "told", says
        self.asked = [] if asked is None else asked

    def ask(self, call: Call, prompt: Any, settings: Any) -> Reply:
        self.asked.append(call)
        return self.says(call)

    async def aask(self, call: Call, prompt: Any, settings: Any) -> Reply:
        return self.ask(call, prompt, settings)


class ToldWithinABudget(Told):
    """The same, and it keeps to the budget that it is given."""

    bounds = HeldByItself()
    knows_confidence = True


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fails(_: Call) -> Reply:
    raise ValueError("no")


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


def made(
    scripts: list[Scripted], policy: EscalationPolicy, budget: Budget, clock: Clock
) -> tuple[EscalationPlan, list[Call]]:
    """The plan of a ladder that does as scripted, and whom it asked."""
    scripts = [Scripted(0.5 if s.confidence is None else s.confidence, *_rest(s)) for s in scripts[:1]] + scripts[1:]
    asked: list[Call] = []

    def says(call: Call) -> Reply:
        script = scripts[call.place]
        clock.now += 0.5
        assert len(asked) <= len(scripts)
        if budget.max_tokens is not None:
            assert call.budget.max_tokens is not None
            assert call.place == 0 or script.tokens <= call.budget.max_tokens
        if script.fails:
            raise ValueError("no")
        tokens = min(script.tokens, call.budget.max_tokens or script.tokens)
        usage = Usage(3, tokens, tokens, tokens, 0.0)
        return Reply(f"text {call.place}", "1", script.confidence, usage, complete=script.complete)

    rungs = [
        Rung(
            (Told if place else ToldWithinABudget)(says, asked),
            name=f"rung {place}",
            expected_reward=script.reward,
            cost=script.cost,
            max_tokens=script.tokens,
        )
        for place, script in enumerate(scripts)
    ]
    return EscalationPlan(rungs, policy, [policy.min_confidence] * len(scripts), PROMPT, budget, clock), asked


def run(
    scripts: list[Scripted], policy: EscalationPolicy, budget: Budget, driver: str = "drive"
) -> tuple[Outcome, list[int]]:
    """What is made of a question, by one of the drivers, and the places that were asked."""
    plan, asked = made(scripts, policy, budget, Clock())
    return driven(plan, driver), [call.place for call in asked]


def driven(plan: EscalationPlan, driver: str) -> Outcome:
    flow = plan.flow()
    if driver == "drive":
        return drivers.drive(flow, PROMPT, {})
    if driver == "adrive":
        return asyncio.run(drivers.adrive(flow, PROMPT, {}))
    if driver == "stream":
        *_, outcome = drivers.stream(flow, PROMPT, {})
    else:

        async def collected() -> list[Any]:
            return [item async for item in drivers.astream(flow, PROMPT, {})]

        *_, outcome = asyncio.run(collected())
    assert isinstance(outcome, Outcome)
    return outcome


def _rest(script: Scripted) -> tuple[Any, ...]:
    return script.fails, script.complete, script.tokens, script.reward, script.cost


@given(SCRIPTS, POLICIES, st.none() | st.integers(1, 100))
def test_a_ladder_asks_each_once_and_takes_what_is_sure_enough(
    scripts: list[Scripted], policy: EscalationPolicy, limit: int | None
) -> None:
    outcome, asked = run(scripts, policy, Budget(max_tokens=limit))
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
    outcome, asked = run(scripts, EscalationPolicy(expected_utility=True), Budget())
    worths = {place: script.reward - script.cost for place, script in enumerate(scripts) if place}
    best = max(worths.values(), default=-1.0)
    assert (len(asked) > 1) == (best > confidence)
    if len(asked) > 1:
        assert worths[asked[1]] == best
    if len(asked) == 1:
        assert outcome.escalation is None


@given(SCRIPTS, POLICIES, st.none() | st.integers(1, 100))
def test_every_driver_asks_the_same_models_and_comes_to_the_same_outcome(
    scripts: list[Scripted], policy: EscalationPolicy, limit: int | None
) -> None:
    expected = run(scripts, policy, Budget(max_tokens=limit))
    for driver in ("adrive", "stream", "astream"):
        assert run(scripts, policy, Budget(max_tokens=limit), driver) == expected


def test_a_question_that_left_early_comes_back_where_no_stronger_model_answers() -> None:
    def small(call: Call) -> Reply:
        if call.hand_on is not None:
            return Reply("", None, 0.0, complete=False, handed_on=True, tokens_saved=40.0)
        return Reply("ans 1", "1", 0.2)

    def asked(otherwise: str) -> list[tuple[int, bool]]:
        policy = EscalationPolicy(expected_utility=True, otherwise=otherwise)
        calls: list[Call] = []
        rungs = [Rung(ToldWithinABudget(small, calls)), Rung(Told(fails, calls), expected_reward=0.9)]
        outcome = drivers.drive(EscalationPlan(rungs, policy, [None, None], PROMPT, Budget()).flow(), PROMPT, {})
        if otherwise == "return_best":
            assert outcome.reply is not None
            assert outcome.reply.text == "ans 1"
            assert outcome.escalation is not None
            assert [item.outcome for item in outcome.escalation.attempts] == ["handed_on", "failed", "accepted"]
        return [(call.place, call.hand_on is not None) for call in calls]

    assert asked("return_best") == [(0, True), (1, False), (0, False)]
    assert asked("abstain") == [(0, True), (1, True)]


def test_what_cannot_be_held_to_a_budget_is_refused_before_anyone_is_asked() -> None:
    policy = EscalationPolicy(min_confidence=0.5)
    rungs = [Rung(ToldWithinABudget(fails)), Rung(str)]
    for budget, name in (
        (Budget(max_tokens=5), "max_tokens=5"),
        (Budget(max_cost=2.0, price_per_token=0.1), r"max_cost=2"),
    ):
        with pytest.raises(BudgetError, match=f"{name}.*'str' can take; give it as Rung"):
            EscalationPlan(rungs, policy, [0.5, None], PROMPT, budget)


def test_money_and_time_are_counted_over_the_whole_ladder() -> None:
    policy, clock = EscalationPolicy(min_confidence=0.5), Clock()
    calls: list[Call] = []

    def first(_: Call) -> Reply:
        clock.now += 2.0
        return Reply("a", "1", 0.1, Usage(1, 6, 6, 6, 2.0, cost=3.0))

    def late(_: Call) -> Reply:
        clock.now += 7.0
        raise TimeoutError

    ladder = [
        Rung(ToldWithinABudget(first, calls)),
        Rung(Told(fails, calls), name="dear", max_cost=8.0),
        Rung(Told(late, calls), name="cheap", max_cost=1.0),
    ]
    budget = Budget(max_cost=10.0, price_per_token=0.5, max_seconds=9.0)
    plan = EscalationPlan(ladder, policy, [0.5, None, None], PROMPT, budget, clock)
    outcome = drivers.drive(plan.flow(), PROMPT, {})
    second = calls[1]
    assert second.rung.name == "cheap"
    assert second.budget.max_cost == 7.0
    assert second.budget.max_seconds == second.timeout == 7.0
    assert outcome.out_of_budget
    assert outcome.escalation is not None
    assert [item.outcome for item in outcome.escalation.attempts] == ["doubtful", "skipped", "timeout"]
    assert "7 left" in outcome.escalation.attempts[1].reason
    assert outcome.usage.cost == 4.0
    assert outcome.usage.seconds == 9.0


@pytest.mark.parametrize("driver", ["drive", "adrive", "stream", "astream"])
def test_what_was_handed_out_and_what_was_asked_wrongly_end_the_plan(driver: str) -> None:
    def broken(_: Call) -> Reply:
        raise HandedOut(ConnectionError("dead"))

    def refuses(_: Call) -> Reply:
        raise ConfigError("alpha is 2")

    policy = EscalationPolicy(min_confidence=0.5)
    sure = Rung(Told(lambda _: Reply("ans 1")))
    for says, error in ((broken, ConnectionError), (refuses, ConfigError)):
        plan = EscalationPlan([Rung(ToldWithinABudget(says)), sure], policy, [0.5, None], PROMPT, Budget())
        with pytest.raises(error):
            driven(plan, driver)
    later = EscalationPlan(
        [Rung(ToldWithinABudget(fails)), Rung(Told(refuses)), sure], policy, [None] * 3, PROMPT, Budget()
    )
    assert driven(later, driver).place == 2


@pytest.mark.parametrize("driver", ["stream", "astream"])
def test_a_model_that_streams_no_reply_is_passed_over(driver: str) -> None:
    class Silent(ToldWithinABudget):
        def stream(self, *_: Any) -> Any:
            yield from ()

        async def astream(self, *_: Any) -> Any:
            for item in list[Any]():
                yield item

    rungs = [Rung(Silent(fails)), Rung(Told(lambda _: Reply("ans 1")))]
    policy = EscalationPolicy(min_confidence=0.5)
    outcome = driven(EscalationPlan(rungs, policy, [0.5, None], PROMPT, Budget()), driver)
    assert outcome.place == 1
    assert outcome.escalation is not None
    assert "Silent streamed no Reply" in outcome.escalation.reason
