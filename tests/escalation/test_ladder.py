from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scripted import FaultyBackend, SeedRecorder, freed, nan_in_the_last, out_of_memory, unchanged
from zip_introspect import (
    Budget,
    BudgetError,
    Calibration,
    CalibrationError,
    ConfigError,
    EscalationError,
    EscalationPolicy,
    GenerationConfig,
    HandedOn,
    HandOn,
    IntrospectiveLLM,
    Ladder,
    PromptError,
    Reply,
    Rung,
    SearchFinished,
    Usage,
)
from zip_introspect.demo.problems import held_out
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, max_samples=4)
NEVER_SURE = EscalationPolicy(min_confidence=1.0)
EVERY = [f"question {number}" for number in range(200)]
with IntrospectiveLLM(SimulatedBackend(), CONFIG) as _llm:
    PROMPTS = [prompt for prompt, result in zip(EVERY, _llm.batch(EVERY), strict=True) if 0 < result.confidence < 1.0][
        :12
    ]
"""Some that the simulated model answers, though never surely."""


@pytest.fixture
def llm() -> IntrospectiveLLM:
    return IntrospectiveLLM(SimulatedBackend(), CONFIG)


@pytest.fixture(scope="module")
def demo() -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.demo() as model:
        yield model


def strong(prompt: Any) -> str:
    return "ans 42"


async def astrong(prompt: Any) -> str:
    await asyncio.sleep(0)
    return "ans 42"


def broken(prompt: Any) -> str:
    raise ConnectionError("the line is dead")


def nothing(prompt: Any) -> str:
    return str(next(iter([])))


def endless(prompt: Any) -> str:
    time.sleep(30)
    return "too late"


class Invoked:
    """What the ladder sees of a LangChain Runnable."""

    name = "runnable"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def invoke(self, prompt: Any) -> str:
        return strong(prompt)

    def batch(self, prompts: list[Any], return_exceptions: bool = False) -> list[Any]:
        self.batches.append(len(prompts))
        return [ValueError("not this one") if prompt == PROMPTS[1] else strong(prompt) for prompt in prompts]


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


def test_a_model_that_fails_or_hangs_is_passed_over(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, broken, Rung(endless, timeout=0.1), lambda prompt: {}, strong, policy=NEVER_SURE)
    begun = time.perf_counter()
    results = [ladder.generate(PROMPTS[0]), asyncio.run(ladder.agenerate(PROMPTS[0])), ladder.batch(PROMPTS[:1])[0]]
    assert time.perf_counter() - begun < 20
    for result in results:
        assert result.answer == "42"
        assert result.escalation is not None
        told = [(item.outcome, item.reason) for item in result.escalation.attempts[1:4]]
        assert told[0] == ("failed", "ConnectionError: the line is dead")
        assert told[1] == ("timeout", "it took longer than 0.1 seconds")
        assert told[2] == (
            "failed",
            "EscalationError: it returned a dict; expected text, a number, a message or a Reply",
        )


def test_where_all_fail_the_best_answer_so_far_is_given_and_says_so(llm: IntrospectiveLLM) -> None:
    alone = llm.generate(PROMPTS[0])
    result = Ladder(llm, broken, policy=NEVER_SURE).generate(PROMPTS[0])
    assert (result.text, result.confidence, result.samples) == (alone.text, alone.confidence, alone.samples)
    assert any("no model was sure enough" in warning and "dead" in warning for warning in result.warnings)
    early = Ladder(llm, Rung(broken, cost=-1.0), policy=EscalationPolicy(expected_utility=True)).generate(PROMPTS[0])
    assert early.text == alone.text
    assert early.escalation is not None
    assert [item.outcome for item in early.escalation.attempts] == ["handed_on", "failed", "accepted"]


def test_a_first_model_that_breaks_is_passed_over_too() -> None:
    with IntrospectiveLLM(FaultyBackend(nan_in_the_last, at=1), CONFIG) as llm:
        result = Ladder(llm, strong, policy=NEVER_SURE).generate(PROMPTS[0])
        assert result.answer == "42"
        assert result.usage.generated_tokens > 0
        assert result.escalation is not None
        assert "NaN" in result.escalation.reason
    with IntrospectiveLLM(FaultyBackend(out_of_memory, at=0), CONFIG) as llm:
        with pytest.raises(EscalationError, match=r"no model answered.*MemoryError.*the line is dead") as caught:
            Ladder(llm, broken, policy=NEVER_SURE).generate(PROMPTS[0])
        assert caught.value.partial is not None
        assert caught.value.partial.escalation is not None
        assert caught.value.partial.finish_reason == "error"


def test_a_prompt_too_long_for_the_first_goes_to_the_next(demo: IntrospectiveLLM) -> None:
    result = Ladder(demo, strong, policy=NEVER_SURE).generate("Solve x=1 " * 1000)
    assert result.answer == "42"
    assert result.escalation is not None
    assert "Shorten the prompt" in result.escalation.reason


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
        Ladder(strong, policy=NEVER_SURE)
    with pytest.raises(ConfigError, match="there is no stronger model"):
        Ladder(llm, policy=weigh)
    with pytest.raises(ConfigError, match="nothing is said of 'strong'"):
        Ladder(llm, strong, policy=weigh)
    ladder = Ladder(llm, strong, policy=NEVER_SURE)
    for bad in ("", "  ", [{"role": "assistant", "content": "a"}]):
        with pytest.raises(PromptError):
            ladder.generate(bad)
    with pytest.raises(ConfigError, match="alpha"):
        ladder.generate(PROMPTS[0], alpha=2.0)
    with pytest.raises(PromptError, match="one string"):
        ladder.batch("one string")
    with pytest.raises(PromptError, match="prompt 1: "):
        ladder.batch([PROMPTS[0], ""])


def test_batches_ask_each_model_once_and_keep_errors_apart(llm: IntrospectiveLLM) -> None:
    runnable = Invoked()
    ladder = Ladder(llm, runnable, policy=NEVER_SURE)
    results = ladder.batch([*PROMPTS[:3], ""], return_exceptions=True)
    assert runnable.batches == [3]
    assert [item.answer for item in (results[0], results[2])] == ["42", "42"]
    assert results[1].text == llm.generate(PROMPTS[1]).text
    assert results[1].escalation.attempts[1].reason == "ValueError: not this one"
    assert isinstance(results[3], PromptError)
    assert ladder.batch([]) == []
    assert [item.answer for item in asyncio.run(ladder.abatch(PROMPTS[:3]))] == ["42"] * 3


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


def test_slow_functions_do_not_hold_up_the_event_loop(llm: IntrospectiveLLM) -> None:
    def slow(prompt: Any) -> str:
        time.sleep(0.2)
        return threading.current_thread().name

    async def both() -> tuple[int, Any]:
        task = asyncio.create_task(Ladder(llm, slow, policy=NEVER_SURE).agenerate(PROMPTS[0]))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, await task

    ticks, result = asyncio.run(both())
    assert ticks > 5
    assert result.text != threading.main_thread().name


def test_settings_are_for_the_first_model_only() -> None:
    first, second = SeedRecorder(), SeedRecorder()
    ladder = Ladder(IntrospectiveLLM(first, CONFIG), IntrospectiveLLM(second, CONFIG), policy=NEVER_SURE)
    ladder.generate(PROMPTS[0], seed=5)
    alone = SeedRecorder()
    IntrospectiveLLM(alone, CONFIG).generate(PROMPTS[0])
    assert set(second.seeds) == set(alone.seeds)
    assert set(first.seeds) != set(second.seeds)


def test_no_seed_is_a_fresh_one_for_every_model_of_a_ladder() -> None:
    unseeded = CONFIG.replace(seed=None)
    models = [IntrospectiveLLM(SimulatedBackend(), unseeded) for _ in range(2)]
    ladder = Ladder(*models, policy=NEVER_SURE)
    results = [ladder.generate(PROMPTS[0]), *ladder.batch([PROMPTS[0]] * 2)]
    attempts = [item.result for result in results if result.escalation for item in result.escalation.attempts]
    assert len({item.seed for item in attempts if item}) == len(attempts) == 6
    for item in attempts:
        assert item is not None
        assert item.samples == models[0].generate(PROMPTS[0], seed=item.seed).samples
    assert ladder.generate(PROMPTS[0], seed=7).escalation.attempts[0].result.seed == 7  # type: ignore[union-attr]
    assert (
        Ladder(IntrospectiveLLM(FaultyBackend(out_of_memory, at=0), unseeded), strong, policy=NEVER_SURE)
        .generate(PROMPTS[0])
        .seed
        == 0
    ), "no search ran to its end"


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
        with pytest.raises(EscalationError) as caught:
            ladder.generate(PROMPTS[0], budget=60)
        assert caught.value.partial.usage.generated_tokens == 60
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


def test_a_finished_sample_survives_the_breakdown_of_another() -> None:
    for at in range(2, 12):
        with IntrospectiveLLM(FaultyBackend(nan_in_the_last, at=at), CONFIG) as llm:
            result = Ladder(llm, broken, min_confidence=1.0).generate(PROMPTS[0])
            assert result.usage.generated_tokens > 0
            if result.escalation is None or result.escalation.attempts[0].outcome != "failed":
                continue
            if any(sample.finish == "stop" for sample in result.samples):
                assert result.text
                assert result.answer is not None
                return
    raise AssertionError("no breakdown after a finished sample")


def test_bad_input_in_a_batch_is_the_prompts_own(llm: IntrospectiveLLM) -> None:
    dear = Budget(max_cost=5.0, price_per_token=0.001, price_per_prompt_token=0.01)
    ladder = Ladder(llm, Rung(strong, max_cost=0.1), policy=NEVER_SURE)
    results = ladder.batch([PROMPTS[0], "long " * 200], budget=dear, return_exceptions=True)
    assert results[0].answer == "42"
    assert isinstance(results[1], BudgetError)
    with pytest.raises(BudgetError):
        ladder.batch([PROMPTS[0], "long " * 200], budget=dear)
    rewards = {PROMPTS[0]: 0.9}
    weighed = Ladder(llm, Rung(strong, expected_reward=rewards.__getitem__), expected_utility=True)
    results = weighed.batch(PROMPTS[:2], return_exceptions=True)
    assert [isinstance(item, ConfigError) for item in results] == [False, True]


def test_asking_the_first_again_under_too_small_a_rest_is_no_error(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, Rung(broken, max_cost=0.92), min_prompt_confidence=1.0)
    budget = Budget(max_cost=1.0, price_per_token=0.01, price_per_prompt_token=0.005)
    result = ladder.generate(PROMPTS[0], budget=budget)
    assert result.escalation is not None
    assert [item.outcome for item in result.escalation.attempts] == ["handed_on", "failed", "skipped"]
    assert result.finish_reason == "budget"


def test_a_function_may_fail_in_any_way(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, nothing, Rung(nothing, timeout=5.0), strong, policy=NEVER_SURE)
    for result in (ladder.generate(PROMPTS[0]), asyncio.run(ladder.agenerate(PROMPTS[0]))):
        assert result.answer == "42"
        assert result.escalation is not None
        assert [item.target for item in result.escalation.attempts[1:3]] == ["nothing", "nothing (2)"]


async def test_an_async_function_can_be_asked_where_a_loop_is_running(llm: IntrospectiveLLM) -> None:
    assert Ladder(llm, astrong, policy=NEVER_SURE).generate(PROMPTS[0]).answer == "42"


def test_each_call_of_a_batch_is_charged_its_own_seconds(llm: IntrospectiveLLM) -> None:
    def slow(prompt: Any) -> str:
        time.sleep(0.05)
        return "ans 42"

    results = Ladder(llm, slow, policy=NEVER_SURE).batch(PROMPTS[:6])
    for result in results:
        assert 0.05 <= result.escalation.attempts[1].usage.seconds < 0.25


def test_criteria_may_be_given_without_a_policy(llm: IntrospectiveLLM) -> None:
    assert Ladder(llm, strong, min_confidence=1.0).policy == NEVER_SURE
    with pytest.raises(ConfigError, match="policy and min_confidence were given"):
        Ladder(llm, strong, policy=NEVER_SURE, min_confidence=0.5)
