from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.escalation.asked import (
    CONFIG,
    NEVER_SURE,
    PROMPTS,
    Invoked,
    strong,
)
from zip_introspect import (
    Budget,
    BudgetError,
    ConfigError,
    IntrospectiveLLM,
    Ladder,
    PromptError,
    Rung,
)
from zip_introspect.testing.simulator import SimulatedBackend


def test_batches_ask_runnables_beside_each_other_and_keep_errors_apart(llm: IntrospectiveLLM) -> None:
    for asynchronous in (False, True):
        runnable = Invoked()
        ladder = Ladder(llm, runnable, policy=NEVER_SURE)
        asked = [*PROMPTS[:3], ""]
        if asynchronous:
            results = asyncio.run(ladder.abatch(asked, return_exceptions=True))
        else:
            results = ladder.batch(asked, return_exceptions=True)
        assert runnable.asked == 3
        assert runnable.most > 1
        assert [item.answer for item in (results[0], results[2])] == ["42", "42"]
        assert results[1].text == llm.generate(PROMPTS[1]).text
        assert results[1].escalation.attempts[1].reason == "ValueError: not this one"
        assert isinstance(results[3], PromptError)
    assert ladder.batch([]) == []
    assert [item.answer for item in asyncio.run(ladder.abatch([PROMPTS[0], PROMPTS[2]]))] == ["42"] * 2


def test_functions_are_asked_one_at_a_time_in_sync_code_and_beside_each_other_in_async_code(
    llm: IntrospectiveLLM,
) -> None:
    running: list[int] = [0, 0]

    def slow(prompt: Any) -> str:
        running[0] += 1
        running[1] = max(running)
        time.sleep(0.02)
        running[0] -= 1
        return "ans 42"

    ladder = Ladder(llm, slow, policy=NEVER_SURE)
    ladder.batch(PROMPTS)
    assert running == [0, 1]
    asyncio.run(ladder.abatch(PROMPTS))
    assert running[1] > 1


def test_the_first_models_samples_share_passes_with_those_of_the_other_prompts() -> None:
    class Counted(SimulatedBackend):
        calls = 0

        def advance(self, *args: Any) -> Any:
            self.calls += 1
            return super().advance(*args)

    backend = Counted()
    ladder = Ladder(IntrospectiveLLM(backend, CONFIG), strong, policy=NEVER_SURE)
    alone = [ladder.generate(prompt) for prompt in PROMPTS]
    one_by_one, backend.calls = backend.calls, 0
    together = ladder.batch(PROMPTS)
    assert backend.calls < one_by_one / 3
    assert [item.usage.generated_tokens for item in together] == [item.usage.generated_tokens for item in alone]


def test_bad_input_in_a_batch_is_the_prompts_own(llm: IntrospectiveLLM) -> None:
    dear = Budget(max_cost=5.0, price_per_token=0.001, price_per_prompt_token=0.01)
    ladder = Ladder(llm, Rung(strong, max_cost=0.1), policy=NEVER_SURE)
    results = ladder.batch([PROMPTS[0], "long " * 200], budget=dear, return_exceptions=True)
    assert results[0].answer == "42"
    assert isinstance(results[1], BudgetError)
    with pytest.raises(BudgetError):
        ladder.batch([PROMPTS[0], "long " * 200], budget=dear)
    rewards = {PROMPTS[0]: 0.9}
    weighed = Ladder(llm, Rung(strong, expected_reward=rewards.__getitem__), expected_utility=True)  # type: ignore[arg-type]
    results = weighed.batch(PROMPTS[:2], return_exceptions=True)
    assert [isinstance(item, ConfigError) for item in results] == [False, True]


def test_each_call_of_a_batch_is_charged_its_own_seconds(llm: IntrospectiveLLM) -> None:
    def slow(prompt: Any) -> str:
        time.sleep(0.05)
        return "ans 42"

    results = Ladder(llm, slow, policy=NEVER_SURE).batch(PROMPTS[:6])
    for result in results:
        assert 0.05 <= result.escalation.attempts[1].usage.seconds < 0.25
