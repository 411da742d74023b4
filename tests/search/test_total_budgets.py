"""One budget for many searches: never exceeded, and where it suffices, nothing is changed by it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scripted import GatedBackend, freed
from tests.searches import untimed
from zip_introspect import (
    BackendError,
    Budget,
    BudgetError,
    EscalationPolicy,
    GenerationConfig,
    GenerationResult,
    IntrospectiveLLM,
    Ladder,
    PromptError,
    Reply,
    SharedBudget,
)
from zip_introspect.backend.contract import Advanced, SequenceId
from zip_introspect.shared_budget import Share
from zip_introspect.strategies import MetaAction, MetaState
from zip_introspect.strategies.majority_vote import MajorityVote
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, max_new_tokens=40)
PROMPTS = [f"question {number}" for number in range(24)]
STRATEGIES = ["zip_rc", "best_of_n", "majority_vote", "single", "adaptive_consistency", "zip_rc_reward_pruning"]
LONGEST = 40


def model(config: GenerationConfig = CONFIG, backend: SimulatedBackend | None = None) -> IntrospectiveLLM:
    return IntrospectiveLLM(backend or SimulatedBackend(), config)


def spent(results: list[GenerationResult]) -> int:
    return sum(result.usage.generated_tokens for result in results)


@settings(max_examples=25, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    total=st.integers(1, 1500),
    count=st.integers(1, len(PROMPTS)),
    alpha=st.sampled_from([0.1, 1.0]),
    own=st.none() | st.integers(1, 60),
)
def test_a_total_is_never_exceeded_by_a_token(
    strategy: str, total: int, count: int, alpha: float, own: int | None
) -> None:
    with model() as llm:
        shared = SharedBudget(total)
        results = llm.batch(PROMPTS[:count], strategy=strategy, alpha=alpha, budget=own, total_budget=shared)
    assert spent(results) == shared.tokens <= total
    assert all(own is None or result.usage.generated_tokens <= own for result in results)
    for result in results:
        if result.finish_reason == "budget" and not result.complete:
            assert result.answer is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_total_that_suffices_changes_nothing(strategy: str) -> None:
    ample = len(PROMPTS) * 8 * LONGEST
    with model() as llm:
        free = llm.batch(PROMPTS, strategy=strategy)
        held = llm.batch(PROMPTS, strategy=strategy, total_budget=ample)
    assert list(map(untimed, held)) == list(map(untimed, free))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("own", "each"),
    [
        (Budget(max_tokens=30), 30),
        (Budget(max_samples=2), 2 * LONGEST),
        (Budget(max_depth=6, max_samples=4), 24),
        (Budget(max_cost=3.0, price_per_token=0.1), 30),
        ([Budget(max_tokens=50), *[Budget(max_tokens=10)] * (len(PROMPTS) - 1)], None),
    ],
    ids=["tokens", "samples", "depth", "cost", "list"],
)
def test_a_total_that_suffices_for_the_limits_of_each_changes_nothing(
    strategy: str, own: Any, each: int | None
) -> None:
    total = 50 + 10 * (len(PROMPTS) - 1) if each is None else each * len(PROMPTS)
    with model() as llm:
        free = llm.batch(PROMPTS, strategy=strategy, budget=own)
        held = llm.batch(PROMPTS, strategy=strategy, budget=own, total_budget=total)
    assert list(map(untimed, held)) == list(map(untimed, free))


def test_what_never_began_costs_nothing_and_keeps_its_warnings() -> None:
    limits = Budget(max_cost=1.0, price_per_token=0.01, price_per_prompt_token=0.01)
    shared = SharedBudget(limits)
    with model() as llm:
        results = llm.batch(PROMPTS, total_budget=shared, temperature=0.0)
    assert shared.cost is not None
    assert sum(result.usage.cost or 0.0 for result in results) == pytest.approx(shared.cost)
    never = [result for result in results if not result.samples and result.usage.cost == 0.0]
    assert never
    assert all("all samples are the same" in result.warnings[0] for result in never)


def test_a_scarce_total_answers_more_than_even_shares() -> None:
    config = CONFIG.replace(beta=0.001, strategy="zip_rc")
    prompts = [f"question {number}" for number in range(150)]
    with model(config) as llm:
        free = spent(llm.batch(prompts, max_samples=1))
        for share in (0.3, 0.6):
            total = int(free * share)
            priced = llm.batch(prompts, total_budget=total)
            even = llm.batch(prompts, budget=total // len(prompts))
            worth = [sum(r.confidence for r in results if r.complete) for results in (priced, even)]
            assert worth[0] > worth[1]
            assert spent(priced) <= total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("money", [1.0, 2.0, 6.0])
def test_money_is_not_spent_on_prompts_that_nothing_is_left_to_answer(money: float, seed: int) -> None:
    prices = Budget(price_per_token=0.01, price_per_prompt_token=0.001)
    long = [f"{prompt} " * 6 for prompt in [*PROMPTS, *PROMPTS]]  # each costs as much as several tokens
    with model(backend=SimulatedBackend(seed=seed)) as llm:
        for strategy in ("zip_rc", "single"):
            shared = SharedBudget(prices.replace(max_cost=money))
            results = llm.batch(long, strategy=strategy, total_budget=shared)
            assert shared.cost is not None
            assert shared.cost <= money
            left, one_by_one = money, 0
            for prompt in long:
                try:
                    result = llm.generate(prompt, strategy="single", budget=prices.replace(max_cost=left))
                except BudgetError:
                    break
                left, one_by_one = left - (result.usage.cost or 0.0), one_by_one + result.complete
                if left <= 0:
                    break
            answered = sum(result.complete for result in results)
            assert 3 * answered >= one_by_one, (answered, one_by_one)


def test_what_one_call_spends_the_next_one_lacks() -> None:
    shared = SharedBudget(Budget(max_tokens=70, price_per_token=0.5))
    with model() as llm:
        results = [llm.generate(prompt, strategy="single", budget=shared) for prompt in PROMPTS[:8]]
        streamed = list(llm.stream("more", budget=shared))[-1]
    assert spent(results) == shared.tokens == 70
    assert shared.tokens_left == 0
    assert shared.cost == 35.0
    assert [result.usage.cost for result in results] == [0.5 * result.usage.generated_tokens for result in results]
    assert results[-1].finish_reason == "budget"
    assert results[-1].text == ""
    assert "shared budget is spent" in results[-1].stop_detail
    assert streamed.result.finish_reason == "budget"  # type: ignore[union-attr]


def test_two_models_share_one_budget_from_their_own_threads() -> None:
    shared = SharedBudget(700)
    results: list[GenerationResult] = []
    with model() as one, model(backend=SimulatedBackend(seed=1)) as other:
        threads = [
            threading.Thread(target=lambda llm=llm: results.extend(llm.batch(PROMPTS, total_budget=shared)))
            for llm in (one, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 2 * len(PROMPTS)
    assert spent(results) == shared.tokens <= 700


async def test_tasks_share_one_budget() -> None:
    shared = SharedBudget(200, calls=len(PROMPTS))
    with model() as llm:
        results = await asyncio.gather(*(llm.agenerate(prompt, budget=shared) for prompt in PROMPTS))
        more = await llm.abatch(PROMPTS, total_budget=300)
    assert spent(results) == shared.tokens <= 200
    assert spent(more) <= 300


def test_a_call_that_is_cancelled_gives_back_what_it_reserved() -> None:
    backend = GatedBackend()
    shared = SharedBudget(100)
    with model(CONFIG.replace(strategy="best_of_n"), backend) as llm:
        backend.close_gate(after=0)
        events = llm.stream("to be given up", budget=shared)
        assert backend.reached.wait(60)
        events.close()
        backend.gate.set()
        assert freed(backend)
        result = llm.generate("another", budget=shared, strategy="single")
    taken = result.usage.generated_tokens
    assert result.complete
    assert shared.tokens >= taken
    assert shared.tokens_left == 100 - shared.tokens
    part = shared.open(Budget())
    assert part.begin(1, 1)
    assert part.tokens_left(priced=True) == shared.tokens_left  # nothing is reserved


def reserving(shared: SharedBudget) -> Share:
    """Another model's call, whose share has begun."""
    other = shared.open(Budget())
    assert other.begin(1, LONGEST)
    return other


class Reserved(SimulatedBackend):
    """Its first call takes so long that another has reserved the rest of the budget when it ends."""

    def __init__(self, shared: SharedBudget, other: Share) -> None:
        super().__init__()
        self.shared, self.other, self.rounds = shared, other, 0

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        results = super().advance(sequences, steps)
        self.rounds += 1
        if self.rounds == 1:
            with self.other.lock:
                self.other.reserve((self.shared.tokens_left or 0) - sum(len(item.tokens) for item in results))
        return results


def test_whoever_waits_for_others_keeps_its_deadline() -> None:
    shared = SharedBudget(60)
    other = reserving(shared)
    try:
        with model(backend=Reserved(shared, other)) as llm:
            result = llm.generate(PROMPTS[0], budget=Budget(max_seconds=0.2), total_budget=shared)
    finally:
        other.close()
    assert result.finish_reason == "budget"
    assert "seconds" in result.stop_detail


def test_nobody_waits_behind_one_who_waits_for_others() -> None:
    shared = SharedBudget(60)
    other = reserving(shared)
    other.reserve(60)
    with model() as llm:
        events = llm.stream(PROMPTS[0], total_budget=shared, budget=Budget(max_tokens=8))
        free = llm.generate(PROMPTS[1], budget=Budget(max_seconds=20.0))  # in time, or never
        other.close()
        last = list(events)[-1]
    assert free.complete
    assert last.result.usage.generated_tokens > 0  # type: ignore[union-attr]


def test_a_prompt_waits_for_the_money_that_others_have_reserved() -> None:
    shared = SharedBudget(Budget(max_cost=1.0, price_per_token=0.01, price_per_prompt_token=0.01))
    other = reserving(shared)
    other.reserve(60)
    with model() as llm:
        events = llm.stream("x" * 45, total_budget=shared, strategy="single")
        llm.generate(PROMPTS[1], budget=Budget(max_seconds=20.0))  # rounds have passed
        other.settle(5)
        other.close()
        last = list(events)[-1]
    assert last.result.usage.generated_tokens > 0  # type: ignore[union-attr]


def test_who_is_overtaken_while_it_decides_waits_and_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedBudget(100)
    other = reserving(shared)
    decide, asked = MajorityVote.decide, []

    def overtaken(strategy: MajorityVote, state: MetaState) -> MetaAction:
        asked.append(state.decision)
        if len(asked) == 2:
            other.reserve(shared.tokens_left or 0)
            threading.Timer(0.05, other.close).start()
        return decide(strategy, state)

    with model() as llm:
        free = llm.generate(PROMPTS[0], strategy="majority_vote", max_samples=2)
        monkeypatch.setattr(MajorityVote, "decide", overtaken)
        held = llm.generate(PROMPTS[0], strategy="majority_vote", max_samples=2, total_budget=shared)
    assert len(asked) == len(set(asked)) > 2
    assert untimed(held) == untimed(free)


def all_is_free(shared: SharedBudget) -> bool:
    """Whether the next call has all that is left to itself."""
    part = shared.open(Budget())
    assert part.begin(1, 1_000_000)
    return part.tokens_left(priced=False) == shared.tokens_left


@pytest.mark.parametrize("bad", ["", "b" * (1 << 20)], ids=["refused at once", "refused on the engine's thread"])
def test_a_batch_that_is_refused_keeps_no_shares(bad: str) -> None:
    shared = SharedBudget(400)
    with model() as llm, pytest.raises(PromptError) as kept:
        llm.batch([*PROMPTS[:9], bad], budget=shared)
    assert all_is_free(shared), kept  # though the error, and so its traceback, is still there


def test_a_batch_of_a_closed_model_keeps_no_shares() -> None:
    shared = SharedBudget(400)
    llm = model()
    llm.close()
    with pytest.raises(BackendError) as kept:
        llm.batch(PROMPTS, budget=shared)
    with pytest.raises(BackendError) as also:
        llm.generate(PROMPTS[0], budget=shared)
    assert all_is_free(shared), (kept, also)


async def test_calls_that_are_cancelled_before_they_begin_keep_no_shares() -> None:
    backend, shared = GatedBackend(), SharedBudget(400)
    with model(backend=backend) as llm:
        backend.close_gate(after=0)
        busy = llm.stream("in the way")
        assert await asyncio.to_thread(backend.reached.wait, 60)
        calls: list[Any] = [llm.abatch(PROMPTS, budget=shared), llm.agenerate(PROMPTS[0], budget=shared)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)  # they are brought
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        free = all_is_free(shared)
        backend.gate.set()
        busy.close()
    assert free


def test_a_call_that_was_refused_is_one_of_those_expected() -> None:
    shared = SharedBudget(100, calls=3)
    with model() as llm:
        for bad in ("", "b" * (1 << 20)):
            with pytest.raises(PromptError):
                llm.generate(bad, budget=shared)
    assert all_is_free(shared)


def test_a_prompt_that_is_refused_takes_no_share() -> None:
    with model() as llm:
        results: list[Any] = llm.batch(["", *PROMPTS[:3]], total_budget=4 * 8 * LONGEST, return_exceptions=True)
        free = llm.batch(PROMPTS[:3])
    assert isinstance(results[0], PromptError)
    assert list(map(untimed, results[1:])) == list(map(untimed, free))


def test_results_come_as_they_are_there() -> None:
    with model() as llm:
        expected = llm.batch(PROMPTS)
        found = dict(llm.batch_as_completed(PROMPTS))
        assert sorted(found) == list(range(len(PROMPTS)))
        assert [untimed(found[place]) for place in sorted(found)] == list(map(untimed, expected))  # type: ignore[arg-type]
        with pytest.raises(PromptError, match="prompt 1"):
            list(llm.batch_as_completed(["a", ""]))
        kept = dict(llm.batch_as_completed(["a", ""], return_exceptions=True))
        assert isinstance(kept[1], PromptError)


async def test_results_are_awaited_as_they_are_there() -> None:
    with model() as llm:
        found = {place: result async for place, result in llm.abatch_as_completed(PROMPTS[:5])}
        expected = llm.batch(PROMPTS[:5])
    assert [untimed(found[place]) for place in range(5)] == list(map(untimed, expected))  # type: ignore[arg-type]


def test_closing_stops_the_others() -> None:
    backend = SimulatedBackend()
    with model(CONFIG.replace(strategy="best_of_n"), backend) as llm:
        results = llm.batch_as_completed(PROMPTS)
        next(results)
        results.close()
        assert freed(backend)


def test_two_totals_and_ladders_are_refused_by_name() -> None:
    with model() as llm:
        with pytest.raises(BudgetError, match="give one of the two"):
            llm.generate("a", budget=SharedBudget(5), total_budget=5)
        ladder = Ladder(llm, lambda prompt: Reply("42"), policy=EscalationPolicy(min_confidence=0.5))
        with pytest.raises(BudgetError, match="a ladder takes none"):
            ladder.generate("a", total_budget=5)
        with pytest.raises(BudgetError, match="a ladder takes none"):
            ladder.batch(["a"], budget=SharedBudget(5))  # type: ignore[arg-type]
