"""Searches of a model that thinks: thoughts are closed in time, budgets hold, and answers are read behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scripted import FaultyBackend, unchanged
from tests.searches import outcomes, request, results, untimed
from zip_introspect import strategies
from zip_introspect.backend.contract import Advanced, Backend, SequenceId
from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig, Thinking
from zip_introspect.errors import BackendError, ConfigError, HeadError, NonFiniteLogitsError
from zip_introspect.events import SampleAdvanced, SearchFinished
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.result import GenerationResult, SampleResult
from zip_introspect.search import continuous_batch
from zip_introspect.shared_budget import SharedBudget
from zip_introspect.testing.simulator import HURRY, SYMBOLS, SimulatedBackend

WORLD: dict[str, Any] = {"open": None, "close": "\nans"}
"""A simulated sample's evidence is its thought; what it reveals is its answer."""
NAMES = [name for name in strategies.names() if strategies.get(name).__module__.startswith("zip_introspect.")]


def asked(text: str = "a problem", budget: Budget | None = None, *, thinking: dict[str, Any], **config: Any) -> Any:
    rules = Thinking(**{**WORLD, "answer_budget": 3, **thinking})
    return request(text, budget, max_new_tokens=60, thinking=rules, **config)


def evidence(sample: SampleResult) -> int:
    """Tokens that a sample drew before its answer."""
    return sum(token < SYMBOLS for token in sample.token_ids)


def check(sample: SampleResult, most: int) -> None:
    """Whether a sample keeps to a thinking budget and says what became of it."""
    assert sample.thought is not None
    assert evidence(sample) <= most
    assert (HURRY in sample.token_ids) == (sample.thought.closed in ("count", "joint"))
    if sample.thought.closed is None:
        assert sample.text == ""
        assert sample.answer is None
    else:
        assert sample.thought.tokens == evidence(sample) + 1
        if sample.complete:
            assert sample.answer == sample.text.split()[-1]


def tried(result: GenerationResult) -> int:
    """Tokens by which it was tried what closing a thought is worth, at least: branches may say the same."""
    paths = {sample.token_ids[: end + 1] for sample in result.samples for end in range(sample.tokens)}
    own = len(paths) if any(sample.parent is not None for sample in result.samples) else 0
    return result.usage.generated_tokens - (own or sum(sample.tokens for sample in result.samples))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["count", "joint"])
def test_every_strategy_closes_thoughts(name: str, by: str) -> None:
    backend = SimulatedBackend()
    wanted = [asked(f"problem {i}", strategy=name, max_samples=4, thinking={"budget": 6, "by": by}) for i in range(6)]
    for result in results(backend, wanted):
        assert result.complete
        for sample in result.samples:
            check(sample, 6)
        assert tried(result) >= 0
        assert tried(result) == 0 or by == "joint" or name == "beam_search"
    assert backend.held == 0


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(NAMES),
    by=st.sampled_from(["count", "joint", "never"]),
    most=st.one_of(st.none(), st.integers(1, 12)),
    interval=st.integers(1, 9),
    tokens=st.one_of(st.none(), st.integers(1, 60)),
    depth=st.one_of(st.none(), st.integers(1, 30)),
    held=st.one_of(st.none(), st.integers(3, 6)),
)
def test_no_budget_is_exceeded(
    name: str, by: str, most: int | None, interval: int, tokens: int | None, depth: int | None, held: int | None
) -> None:
    backend = SimulatedBackend(max_sequences=held)
    wanted = asked(
        "a problem",
        Budget(max_tokens=tokens, max_depth=depth),
        strategy=name,
        max_samples=4,
        interval=interval,
        thinking={"budget": most, "by": by, "probe_interval": 2},
    )
    (result,) = results(backend, [wanted])
    assert result.usage.generated_tokens <= (tokens or 10_000)
    assert result.usage.depth <= (depth or 10_000)
    assert tried(result) >= 0
    for sample in result.samples:
        # Who cannot pay for closing a thought may think on.
        check(sample, 60 if by == "never" or tokens or depth or most is None else most)
    assert backend.held == 0


@pytest.mark.parametrize("by", ["count", "joint"])
@pytest.mark.parametrize("total", [40, 150, 600])
def test_a_shared_budget_pays_for_closing_too(by: str, total: int) -> None:
    shared = SharedBudget(total)
    with IntrospectiveLLM(SimulatedBackend()) as llm:
        found = llm.batch(
            [f"problem {number}" for number in range(8)],
            total_budget=shared,
            max_new_tokens=60,
            thinking=Thinking(**{**WORLD, "answer_budget": 3, "budget": 6, "by": by, "probe_interval": 2}),
        )
    assert sum(result.usage.generated_tokens for result in found) == shared.tokens <= total
    assert any(sample.thought is not None and sample.thought.closed for item in found for sample in item.samples)


def test_what_the_thought_leaves_is_the_answers() -> None:
    """Without a budget of its own a thought is closed where the answer's share of max_new_tokens begins."""
    backend = SimulatedBackend(max_length=40)
    thinking = Thinking(**WORLD, answer_budget=4)
    wanted = [request(f"{i}", strategy="single", max_new_tokens=12, thinking=thinking) for i in range(20)]
    found = [result.samples[0] for result in results(backend, wanted)]
    closed = [sample for sample in found if sample.thought is not None and sample.thought.closed == "count"]
    assert closed
    assert all(evidence(sample) == 12 - 4 - 1 for sample in closed)
    assert all(sample.complete and sample.answer is not None for sample in found)
    without = results(backend, [request(f"{i}", strategy="single", max_new_tokens=12) for i in range(20)])
    assert 0 < sum(not result.complete for result in without) <= len(closed)  # which have no answer then


@pytest.mark.parametrize("name", ["majority_vote", "zip_rc", "single", "best_of_n"])
@pytest.mark.parametrize("limit", ["max_tokens", "max_depth"])
def test_a_budget_is_not_thought_away(name: str, limit: str) -> None:
    """Before the last of it is spent a thought is closed and answered: where nothing would be, there is an answer."""
    backend = SimulatedBackend(max_length=100)
    budget = Budget(**{limit: 24 if limit == "max_tokens" else 9})

    def complete(by: str) -> int:
        thinking = {"by": by}
        wanted = [asked(f"{i}", budget, strategy=name, max_samples=4, thinking=thinking) for i in range(6)]
        found = results(backend, wanted)
        assert all(result.usage.generated_tokens <= (budget.max_tokens or 1000) for result in found)
        assert all(result.usage.depth <= (budget.max_depth or 1000) for result in found)
        return sum(result.complete for result in found)

    assert complete("count") == 6
    assert complete("never") < 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [12, 64])
def test_the_first_decision_does_not_spend_the_budget(name: str, tokens: int) -> None:
    """Where all that a strategy would begin could not be closed any more, one sample begins."""
    backend = SimulatedBackend(max_length=200)
    thinking = Thinking(**WORLD, answer_budget=3)
    more: dict[str, Any] = {"strategy": name, "max_samples": 4, "interval": 16, "max_new_tokens": 100}
    wanted = [request(f"{i}", Budget(max_tokens=tokens), thinking=thinking, **more) for i in range(6)]
    for result in results(backend, wanted):
        assert result.complete
        assert result.usage.generated_tokens <= tokens


LATE: dict[str, Any] = {"open": "d", "close": "\nans", "forced": "abab\nans", "answer_budget": 4}
"""Samples of a simulated world think from the first "d" on, which may come late, or never."""


@pytest.mark.parametrize("by", ["count", "joint"])
@pytest.mark.parametrize("interval", [1, 3, 16])
@pytest.mark.parametrize("short", ["max_new_tokens", "context"])
def test_a_thought_that_opens_late_breaks_nothing(by: str, interval: int, short: str) -> None:
    """It is closed where an answer fits behind that; else the sample is cut, as it is without thinking."""
    backend = SimulatedBackend(max_length=40)
    longest = 14
    if short == "context":
        backend.info = replace(backend.info, max_context=longest + len(request("q").tokens))
    thinking = Thinking(**LATE, by=by, probe_interval=1)
    config: dict[str, Any] = {"interval": interval, "max_new_tokens": longest if short == "max_new_tokens" else 512}
    wanted = [
        request("q", seed=seed, thinking=thinking, strategy="single", max_samples=1, **config) for seed in range(80)
    ]
    found = results(backend, wanted)
    assert {result.finish_reason for result in found} == {"stop", "length"}
    for (sample,) in (result.samples for result in found):
        assert sample.tokens <= longest
        assert sample.finish in ("stop", "length")
        assert sample.thought is not None
        if sample.thought.closed in ("count", "joint"):
            assert sample.thought.tokens < longest
    late = [sample for result in found for sample in result.samples if "d" not in backend.decode(sample.token_ids[:9])]
    assert any("d" in backend.decode(sample.token_ids) for sample in late)


def test_who_does_not_think_decides_as_without_thinking() -> None:
    """But for a decision where a thought that had begun would have had to be closed."""
    backend = SimulatedBackend(max_length=200)
    plain, asked_to = (
        results(
            backend,
            [request(f"q{i}", thinking=rules, strategy="single", max_new_tokens=200, interval=32) for i in range(6)],
        )
        for rules in (None, Thinking(open="a" * 16, close="\nans", answer_budget=150))
    )
    assert max(result.usage.generated_tokens for result in plain) > 49 + 16
    for one, other in zip(plain, asked_to, strict=True):
        assert [sample.token_ids for sample in one.samples] == [sample.token_ids for sample in other.samples]
        assert len(other.decisions) <= len(one.decisions) + 1


def test_never_changes_nothing_but_the_text() -> None:
    backend = SimulatedBackend()
    plain, told = (
        results(backend, [request(f"{i}", max_new_tokens=60, thinking=rules) for i in range(8)])
        for rules in (None, Thinking(**WORLD, by="never"))
    )
    for one, other in zip(plain, told, strict=True):
        assert [sample.token_ids for sample in one.samples] == [sample.token_ids for sample in other.samples]
        assert (one.answer, one.confidence) == (other.answer, other.confidence)
        thought = other.thought
        assert thought is not None
        assert one.text == thought.text + "\nans" + other.text


def test_an_ample_budget_changes_nothing() -> None:
    backend = SimulatedBackend(max_length=40)
    plain, ample = (
        results(backend, [asked(f"{i}", thinking=rules) for i in range(8)])
        for rules in ({"by": "never"}, {"by": "count", "budget": 50})
    )
    assert [untimed(result) for result in plain] == [untimed(result) for result in ample]


def test_the_joint_closes_what_is_not_worth_its_price() -> None:
    """The same world, judged by the joint: at a high price thoughts end early, and more is left of the rewards."""
    backend, prompts, beta = SimulatedBackend(), [f"problem {i}" for i in range(60)], 0.5

    def asked_by(by: str) -> tuple[np.ndarray, np.ndarray]:
        thinking = {"by": by, "probe_interval": 4}
        found = results(
            backend, [asked(p, strategy="single", beta=beta, alpha=1.0, thinking=thinking) for p in prompts]
        )
        return (
            np.array([float(result.answer or 0.0) for result in found]),
            np.array([result.usage.generated_tokens for result in found]),
        )

    (reward, tokens), (on, tokens_on) = asked_by("joint"), asked_by("never")
    assert tokens.mean() < 0.6 * tokens_on.mean()
    price = beta / tokens_on.mean()
    assert (reward - price * tokens).mean() > (on - price * tokens_on).mean() + 0.05


def test_what_runs_beside_changes_nothing() -> None:
    backend = SimulatedBackend()
    wanted = [asked(f"{i}", max_samples=4, interval=3 + i % 3, thinking={"budget": 7, "by": "joint"}) for i in range(6)]
    together = results(backend, wanted)
    assert [untimed(result) for result in together] == [untimed(results(backend, [one])[0]) for one in wanted]


def test_growing_samples_tell_thought_and_answer_apart() -> None:
    events = list(
        continuous_batch.run(SimulatedBackend(), [asked(strategy="single", thinking={"budget": 5})], live=True)
    )
    grown = [event for event in events if isinstance(event, SampleAdvanced)]
    assert grown
    assert all(event.thinking is not None and set(event.thinking) <= set("abcd") for event in grown)
    assert grown[0].text == ""
    (finished,) = [event.result for event in events if isinstance(event, SearchFinished)]
    assert finished.thought is not None
    assert grown[-1].thinking == finished.thought.text
    assert GenerationResult.to_dict(finished)["samples"][0]["thought"]["closed"] == "count"


class Forgetful(SimulatedBackend):
    """Its samples end, and never say so: what closes a thought is silent."""

    def decode(self, tokens: Sequence[int]) -> str:
        return super().decode([token for token in tokens if token < SYMBOLS])


@pytest.mark.parametrize("head", [True, False])
def test_who_ends_in_thought_has_no_answer(head: bool) -> None:
    thinking = {"by": "never", "close": (HURRY,)}
    (result,) = results(Forgetful(head=head), [asked(strategy="majority_vote", max_samples=3, thinking=thinking)])
    assert {sample.finish for sample in result.samples} == {"stop"}
    assert not any(sample.complete for sample in result.samples)
    assert (result.text, result.answer, result.confidence) == ("", None, 0.0)
    assert "no sample finished" in result.warnings[0]


# What goes wrong


class NotFinite(SimulatedBackend):
    """Closing a thought breaks its logits."""

    def append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
        return [
            Advanced(item.tokens, item.joint_logits * np.nan, finished=False)
            for item in super().append(sequences, tokens)
        ]


@pytest.mark.parametrize("by", ["count", "joint"])
def test_logits_that_break_are_told(by: str) -> None:
    backend = NotFinite()
    wanted = asked(strategy="single", thinking={"budget": 4, "by": by})
    (error,) = outcomes(backend, [wanted])
    assert isinstance(error, NonFiniteLogitsError)
    assert len(error.partial[0].samples) == 1
    assert backend.held == 0


class Unable(SimulatedBackend):
    """One that was written before backends took tokens."""

    append = Backend.append


def refused(config: dict[str, Any], thinking: dict[str, Any], backend: SimulatedBackend | None = None) -> BaseException:
    rules = Thinking(**{**WORLD, **thinking})
    wanted = request(**{"max_new_tokens": 20, **config}, thinking=rules)
    with pytest.raises((ConfigError, HeadError, BackendError)) as caught:
        outcomes(backend or SimulatedBackend(), [wanted])
    return caught.value


def test_what_cannot_be_done_is_refused_before_work() -> None:
    assert "expected letters" in str(refused({}, {"close": "</think>"}))
    assert "does not hold the marker" in str(refused({}, {"forced": "ab"}))
    assert "holds a stop string" in str(refused({"stop": "0.5"}, {"forced": "\nans 0.5"}))
    assert "neither reserved" in str(refused({}, {"close": (10**6,)}))
    assert "leaves none to think" in str(refused({}, {"answer_budget": 19}))
    assert "has none; use by='count'" in str(
        refused({"strategy": "majority_vote"}, {"by": "joint"}, SimulatedBackend(head=False))
    )
    assert "needs 3" in str(refused({}, {"by": "joint"}, SimulatedBackend(max_sequences=2)))
    assert "use by='never'" in str(refused({}, {}, Unable()))
    assert results(Unable(), [asked(thinking={"by": "never"})])[0].complete
    with pytest.raises(ConfigError, match="less than max_new_tokens=20"):
        GenerationConfig(max_new_tokens=20, thinking=Thinking(answer_budget=20))
    with pytest.raises(ConfigError, match="close is empty"):
        Thinking(close="")


def test_markers_may_be_ids() -> None:
    by_text, by_ids = (
        results(SimulatedBackend(), [asked(strategy="single", thinking={"budget": 4, "close": close})])[0]
        for close in ("\nans", (HURRY,))
    )
    assert by_text.samples[0].token_ids == by_ids.samples[0].token_ids
    assert by_text.answer == by_ids.answer


def test_a_fault_of_the_backend_frees_what_was_tried() -> None:
    class Failing(FaultyBackend):
        def append(self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]]) -> list[Advanced]:
            raise MemoryError("no room")

    backend = Failing(unchanged)
    (error,) = outcomes(backend, [asked(thinking={"by": "joint", "probe_interval": 1})])
    assert isinstance(error, BackendError)
    assert backend.held == 0
