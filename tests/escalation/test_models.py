from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.escalation.asked import (
    CONFIG,
    NEVER_SURE,
    PROMPTS,
    astrong,
    broken,
    endless,
    nothing,
    strong,
)
from tests.scripted import FaultyBackend, SeedRecorder, nan_in_the_last, out_of_memory
from zip_introspect import (
    EscalationError,
    IntrospectiveLLM,
    Ladder,
    Rung,
)
from zip_introspect.testing.simulator import SimulatedBackend


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


def test_a_function_may_fail_in_any_way(llm: IntrospectiveLLM) -> None:
    ladder = Ladder(llm, nothing, Rung(nothing, timeout=5.0), strong, policy=NEVER_SURE)
    for result in (ladder.generate(PROMPTS[0]), asyncio.run(ladder.agenerate(PROMPTS[0]))):
        assert result.answer == "42"
        assert result.escalation is not None
        assert [item.target for item in result.escalation.attempts[1:3]] == ["nothing", "nothing (2)"]


async def test_an_async_function_can_be_asked_where_a_loop_is_running(llm: IntrospectiveLLM) -> None:
    assert Ladder(llm, astrong, policy=NEVER_SURE).generate(PROMPTS[0]).answer == "42"
