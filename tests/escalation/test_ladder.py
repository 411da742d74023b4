from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from tests.escalation.asked import (
    CONFIG,
    EVERY,
    NEVER_SURE,
    PROMPTS,
    Invoked,
    astrong,
    broken,
    strong,
)
from tests.scripted import FaultyBackend, freed, unchanged
from zip_introspect import (
    Calibration,
    CalibrationError,
    ConfigError,
    EscalationError,
    EscalationPolicy,
    HandedOn,
    HandOn,
    IntrospectiveLLM,
    Ladder,
    PromptError,
    Reply,
    Rung,
    SearchFinished,
)
from zip_introspect.demo.problems import held_out
from zip_introspect.testing.simulator import SimulatedBackend


def test_a_sure_answer_stays_where_it_is(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, broken, policy=EscalationPolicy(min_confidence=0.0))
    assert [ladder.generate(prompt).samples for prompt in PROMPTS] == [llm.generate(p).samples for p in PROMPTS]
    assert all(ladder.generate(prompt).escalation is None for prompt in PROMPTS)


@pytest.mark.parametrize("model", [strong, astrong, Invoked(), lambda prompt: Reply("x", answer="42")])
def test_a_doubtful_answer_is_handed_on(llm: IntrospectiveLLM, model: Any) -> None:
    result = Ladder(llm, Rung(model, expected_reward=0.9), policy=NEVER_SURE).generate(PROMPTS[0])
    alone = llm.generate(PROMPTS[0])
    assert (result.answer, result.confidence, result.finish_reason) == ("42", 0.9, "stop")
    assert result.usage.generated_tokens == alone.usage.generated_tokens
    assert result.escalation is not None
    first, second = result.escalation.attempts
    assert (first.outcome, second.outcome) == ("doubtful", "accepted")
    assert first.result is not None
    assert first.result.samples == alone.samples
    assert re.search(r"confidence is 0\.\d+, below 1", result.escalation.reason)
    assert json.loads(result.to_json())["escalation"]["target"] == result.escalation.target == second.target


def test_hopeless_questions_leave_early_and_sure_ones_stay(llm: IntrospectiveLLM) -> None:
    policy = EscalationPolicy(expected_utility=True)
    ladder = Ladder(llm, Rung(strong, expected_reward=0.9, cost=0.3), policy=policy)
    results = ladder.batch(EVERY[:60])
    assert [result.answer for result in results[:4]] == [ladder.generate(prompt).answer for prompt in EVERY[:4]]
    kept = [result for result in results if result.escalation is None]
    left = [result for result in results if result.escalation is not None]
    assert len(kept) > 5
    assert len(left) > 5
    assert all(result.confidence >= 0.6 for result in kept)
    saved = [result.escalation.tokens_saved for result in left]
    assert sum(item or 0.0 for item in saved) > 0
    first = [result.escalation.attempts[0] for result in left]
    assert all(item.confidence <= 0.6 for item in first if item.result.stop_reason != "handed_on")


def test_at_the_prompt_nothing_is_generated(llm: IntrospectiveLLM) -> None:
    expected = {prompt: llm.introspect(prompt).confidence for prompt in PROMPTS}
    bar = sum(sorted(expected.values())[5:7]) / 2
    results = Ladder(llm, strong, policy=EscalationPolicy(min_prompt_confidence=bar)).batch(PROMPTS)
    assert [result.escalation is not None for result in results] == [expected[prompt] < bar for prompt in PROMPTS]
    for result in results:
        if result.escalation is not None:
            assert result.usage.generated_tokens == 0
            assert result.escalation.attempts[0].outcome == "handed_on"
            assert result.escalation.tokens_saved is not None
            assert result.escalation.tokens_saved > 0


@pytest.mark.parametrize("strategy", ["single", "best_of_n", "majority_vote"])
def test_every_strategy_hands_on_at_the_prompt_and_at_its_end(strategy: str, llm: IntrospectiveLLM) -> None:
    at_prompt = Ladder(llm, strong, policy=EscalationPolicy(min_prompt_confidence=1.0))
    result = at_prompt.generate(PROMPTS[0], strategy=strategy)
    assert (result.answer, result.usage.generated_tokens) == ("42", 0)
    weighed = Ladder(llm, Rung(strong, cost=-1.0), policy=EscalationPolicy(expected_utility=True))
    assert weighed.generate(PROMPTS[0], strategy=strategy).answer == "42"


def test_the_choice_to_hand_on_can_be_given_without_a_ladder(llm: IntrospectiveLLM) -> None:
    result = llm.generate(PROMPTS[0], hand_on=HandOn(worth=2.0))
    assert (result.finish_reason, result.stop_reason, result.usage.generated_tokens) == ("handed_on", "handed_on", 0)
    assert result.decisions[-1].tokens_saved is not None
    both = llm.batch(PROMPTS[:2], hand_on=[None, HandOn(below=1.0)])
    assert [item.finish_reason == "handed_on" for item in both] == [False, True]
    with pytest.raises(ConfigError, match="hand_on is a list of 1 for 2 prompts"):
        llm.batch(PROMPTS[:2], hand_on=[None])
    with pytest.raises(ConfigError, match=r"hand_on\.worth is nan"):
        HandOn(worth=float("nan"))


def test_where_all_fail_the_best_answer_so_far_is_given_and_says_so(llm: IntrospectiveLLM) -> None:
    alone = llm.generate(PROMPTS[0])
    result = Ladder(llm, broken, policy=NEVER_SURE).generate(PROMPTS[0])
    assert (result.text, result.confidence, result.samples) == (alone.text, alone.confidence, alone.samples)
    assert any("no model was sure enough" in warning and "dead" in warning for warning in result.warnings)
    early = Ladder(llm, Rung(broken, cost=-1.0), policy=EscalationPolicy(expected_utility=True)).generate(PROMPTS[0])
    assert early.text == alone.text
    assert early.escalation is not None
    assert [item.outcome for item in early.escalation.attempts] == ["handed_on", "failed", "accepted"]


@pytest.mark.parametrize("otherwise", ["abstain", "raise"])
def test_a_ladder_may_decline_to_answer(llm: IntrospectiveLLM, otherwise: str) -> None:
    policy = EscalationPolicy(min_confidence=1.0, otherwise=otherwise)
    for ladder in (Ladder(llm, policy=policy), Ladder(llm, broken, policy=policy)):
        if otherwise == "raise":
            with pytest.raises(EscalationError, match="no model was sure enough") as caught:
                ladder.generate(PROMPTS[0])
            assert caught.value.partial is not None
            assert caught.value.partial.text == llm.generate(PROMPTS[0]).text
            kept = ladder.batch(PROMPTS[:2], return_exceptions=True)
            assert all(isinstance(item, EscalationError) for item in kept)
            continue
        result = ladder.generate(PROMPTS[0])
        assert (result.text, result.answer, result.finish_reason) == ("", None, "abstained")
        assert result.escalation is not None
        assert result.escalation.target is None
        assert result.escalation.attempts[0].text == llm.generate(PROMPTS[0]).text


def test_a_middle_model_that_is_sure_enough_ends_the_climb(llm: IntrospectiveLLM, demo: IntrospectiveLLM) -> None:
    policy = EscalationPolicy(min_confidence=0.95)
    result = Ladder(llm, demo, broken, policy=policy).generate("Solve 3*x+16=31")
    assert result.answer == "5"
    assert result.chosen is not None
    assert result.samples[result.chosen].answer == "5"
    assert result.escalation is not None
    assert [item.outcome for item in result.escalation.attempts] == ["doubtful", "accepted"]


def test_a_level_of_error_needs_a_calibrated_model() -> None:
    policy = EscalationPolicy(max_error=0.05)
    with pytest.raises(CalibrationError, match="needs a calibration"):
        Ladder(IntrospectiveLLM(SimulatedBackend()), strong, policy=policy)
    found = Calibration(
        method="temperature",
        examples=9,
        thresholds=({"level": 0.05, "delta": 0.1, "confidence": 0.7, "answered": 0.5},),
    )
    llm = IntrospectiveLLM(SimulatedBackend(), CONFIG, calibration=found)
    ladder = Ladder(llm, strong, policy=policy)
    for prompt in PROMPTS:
        assert (ladder.generate(prompt).escalation is None) == (llm.generate(prompt).confidence >= 0.7)


def test_ladders_that_make_no_sense_are_refused(llm: IntrospectiveLLM) -> None:
    weigh = EscalationPolicy(expected_utility=True)
    with pytest.raises(ConfigError, match=r"the first model is .*; expected an IntrospectiveLLM"):
        Ladder(strong, policy=NEVER_SURE)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is no stronger model"):
        Ladder(llm, policy=weigh)
    with pytest.raises(ConfigError, match="nothing is said of 'strong'"):
        Ladder(llm, strong, policy=weigh)
    ladder = Ladder(llm, strong, policy=NEVER_SURE)
    for bad in ("", "  ", [{"role": "assistant", "content": "a"}]):
        with pytest.raises(PromptError):
            ladder.generate(bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="alpha"):
        ladder.generate(PROMPTS[0], alpha=2.0)
    with pytest.raises(PromptError, match="one string"):
        ladder.batch("one string")
    with pytest.raises(PromptError, match="prompt 1: "):
        ladder.batch([PROMPTS[0], ""])


def test_streams_say_who_is_asked_and_end_once(llm: IntrospectiveLLM) -> None:
    second = IntrospectiveLLM(SimulatedBackend(max_length=30), CONFIG)
    ladder = Ladder(llm, second, strong, policy=NEVER_SURE)

    async def collected() -> list[Any]:
        return [event async for event in ladder.astream(PROMPTS[0])]

    for events in (list(ladder.stream(PROMPTS[0])), asyncio.run(collected())):
        kinds = [event.kind for event in events]
        assert kinds.count("finished") == 1
        assert isinstance(events[-1], SearchFinished)
        assert events[-1].result.answer == "42"
        assert [event.target for event in events if isinstance(event, HandedOn)] == [
            rung.name for rung in ladder.rungs[1:]
        ]
        assert kinds.count("started") == 2


def test_a_closed_stream_and_a_cancelled_call_release_everything() -> None:
    backend = FaultyBackend(unchanged, pace=0.01)
    llm = IntrospectiveLLM(backend, CONFIG)
    ladder = Ladder(llm, strong, policy=NEVER_SURE)
    stream = ladder.stream(PROMPTS[0])
    assert next(stream).kind == "started"
    stream.close()
    assert freed(backend)

    async def cancelled() -> None:
        task = asyncio.create_task(ladder.agenerate(PROMPTS[0]))
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert freed(backend)


def test_on_the_embedded_model_a_solver_mends_what_it_gets_wrong(demo: IntrospectiveLLM) -> None:
    problems = held_out(7, 20)
    answers = {problem.prompt: str(problem.answer) for problem in problems}
    ladder = Ladder(
        demo, Rung(answers.__getitem__, cost=0.3, name="exact"), policy=EscalationPolicy(expected_utility=True)
    )
    results = ladder.batch([problem.prompt for problem in problems], beta=0.2)
    alone = demo.batch([problem.prompt for problem in problems], beta=0.2)
    right = [problem.grade(f"ans {result.answer}") for problem, result in zip(problems, results, strict=True)]
    alone_right = [problem.grade(result.text) for problem, result in zip(problems, alone, strict=True)]
    assert sum(right) >= sum(alone_right)
    handed = [result for result in results if result.escalation]
    assert 0 < len(handed) < len(problems) / 2
    tokens, before = (sum(item.usage.generated_tokens for item in group) for group in (results, alone))
    assert tokens < before


def test_criteria_may_be_given_without_a_policy(llm: IntrospectiveLLM) -> None:
    assert Ladder(llm, strong, min_confidence=1.0).policy == NEVER_SURE
    with pytest.raises(ConfigError, match="policy and min_confidence were given"):
        Ladder(llm, strong, policy=NEVER_SURE, min_confidence=0.5)
