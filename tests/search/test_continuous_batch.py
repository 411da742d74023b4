from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scripted import FaultyBackend, SeedRecorder, nan_in_the_joint, nan_in_the_last, out_of_memory, stalled
from tests.searches import outcomes, request, results, untimed
from zip_introspect import strategies
from zip_introspect.backend.contract import Advanced, Prefilled, SequenceId
from zip_introspect.budget import Budget, Ledger
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BackendError, ConfigError, GridError, NonFiniteLogitsError, PromptError
from zip_introspect.events import DecisionMade, Event, SampleFinished, SearchFailed, SearchFinished, SearchStarted
from zip_introspect.result import GenerationResult
from zip_introspect.search import continuous_batch
from zip_introspect.search import request as request_module
from zip_introspect.search.request import Request, check
from zip_introspect.strategies import BestOfN
from zip_introspect.testing.simulator import SimulatedBackend

STRATEGIES = ["zip_rc", "best_of_n", "majority_vote", "single"]


@settings(max_examples=50)
@given(
    text=st.text("abc", min_size=1, max_size=4),
    strategy=st.sampled_from(STRATEGIES),
    max_tokens=st.none() | st.integers(1, 150),
    max_samples=st.none() | st.integers(1, 9),
    max_depth=st.none() | st.integers(1, 45),
    affordable=st.none() | st.integers(1, 150),
    interval=st.integers(1, 20),
    max_new_tokens=st.integers(1, 45),
    smoothing=st.integers(1, 5),
)
def test_no_budget_is_ever_exceeded(
    text: str,
    strategy: str,
    max_tokens: int | None,
    max_samples: int | None,
    max_depth: int | None,
    affordable: int | None,
    interval: int,
    max_new_tokens: int,
    smoothing: int,
) -> None:
    money = {} if affordable is None else {"max_cost": affordable * 0.003, "price_per_token": 0.003}
    budget = Budget(max_tokens=max_tokens, max_samples=max_samples, max_depth=max_depth, **money)
    backend = SimulatedBackend()
    (result,) = results(
        backend,
        [
            request(
                text, budget, strategy=strategy, interval=interval, max_new_tokens=max_new_tokens, smoothing=smoothing
            )
        ],
    )
    usage = result.usage
    assert usage.generated_tokens == sum(sample.tokens for sample in result.samples)
    assert usage.generated_tokens <= (max_tokens or 10**9)
    assert len(result.samples) <= min(max_samples or 8, 1 if strategy == "single" else 8)
    assert usage.depth <= (max_depth or 10**9)
    assert usage.cost is None or (affordable is not None and usage.cost <= affordable * 0.003)
    assert all(1 <= sample.tokens <= max_new_tokens for sample in result.samples)
    assert backend.held == 0
    assert result.to_json()
    if result.finish_reason == "budget":
        assert usage.generated_tokens in (max_tokens, affordable) or usage.depth == max_depth
    if result.finish_reason == "stop":
        assert result.text.endswith(f"ans {result.answer}")
        assert smoothing > 1 or float(result.answer or "nan") == pytest.approx(result.confidence)


@pytest.mark.parametrize("strategy", sorted(set(strategies.names()) - {"waits", "fork_once"}))
@pytest.mark.parametrize("cold", [{"temperature": 0.0}, {"temperature": 1e-40}, {"top_k": 1}])
def test_one_sample_is_enough_where_all_are_the_same(strategy: str, cold: dict[str, Any]) -> None:
    for most in (dict[str, Any](), {"max_samples": 5}):
        (result,) = results(SimulatedBackend(), [request(strategy=strategy, **cold, **most)])
        (sample,) = result.samples
        assert sample.finish == "stop"
        assert result.usage.generated_tokens == sample.tokens
        said = [warning for warning in result.warnings if "all samples are the same" in warning]
        assert len(said) == (strategy != "single")
    hot = results(SimulatedBackend(), [request(strategy=strategy, max_samples=1)])[0]
    assert not hot.warnings
    budget = Budget(max_samples=1)
    assert not results(SimulatedBackend(), [request(budget=budget, strategy=strategy, **cold)])[0].warnings


def test_no_seed_is_a_fresh_one_for_each_prompt_and_the_result_repeats_by_it() -> None:
    requests = [request("the same", seed=None) for _ in range(2)]
    one, two = results(SimulatedBackend(), requests)
    (three,) = results(SimulatedBackend(), requests[:1])
    assert len({one.seed, two.seed, three.seed}) == 3
    assert len({item.samples[0].token_ids for item in (one, two, three)}) > 1
    for result in (one, two, three):
        (again,) = results(SimulatedBackend(), [request("the same", seed=result.seed)])
        assert untimed(again) == untimed(result)


class Counted(BestOfN):
    """Best of N that counts how often it is made."""

    name: ClassVar[str] = "counted"
    made: ClassVar[int] = 0

    def __init__(self, config: GenerationConfig) -> None:
        super().__init__(config)
        Counted.made += 1


def test_a_prompt_has_one_strategy_and_one_ledger_and_a_sample_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(strategies.base._REGISTRY, "counted", Counted)
    monkeypatch.setattr(Counted, "made", 0)
    ledgers: list[Ledger] = []
    texts: list[str] = []

    def opened(*arguments: Any, **options: Any) -> Ledger:
        ledgers.append(Ledger(*arguments, **options))
        return ledgers[-1]

    def extractor(text: str) -> str | None:
        texts.append(text)
        return text[-1:]

    monkeypatch.setattr(request_module, "Ledger", opened)
    requests = [request(text, strategy="counted", max_samples=3) for text in "abcd"]
    events = list(continuous_batch.run(SimulatedBackend(), requests, extractor=extractor, concurrency=2))
    found = [event.result for event in events if isinstance(event, SearchFinished)]
    assert (Counted.made, len(ledgers), len(texts)) == (4, 4, 12)
    told = {event.answer for event in events if isinstance(event, SampleFinished)}
    assert {sample.answer for result in found for sample in result.samples} == told


@settings(max_examples=15)
@given(
    strategy=st.sampled_from(STRATEGIES),
    texts=st.lists(st.text("abc", min_size=1, max_size=3), min_size=2, max_size=5),
    seed=st.integers(-5, 1000),
    room=st.none() | st.integers(9, 30),
)
def test_a_seed_fixes_the_result_whatever_the_batch(
    strategy: str, texts: list[str], seed: int, room: int | None
) -> None:
    requests = [request(text, strategy=strategy, seed=seed) for text in texts]
    together = results(SimulatedBackend(max_sequences=room), requests, concurrency=3)
    alone = [results(SimulatedBackend(), [each])[0] for each in requests]
    assert [untimed(result) for result in together] == [untimed(result) for result in alone]


def test_samples_do_not_depend_on_the_interval() -> None:
    one, many = (
        results(SimulatedBackend(), [request(strategy="best_of_n", interval=interval)])[0] for interval in (1, 7)
    )
    assert [sample.token_ids for sample in one.samples] == [sample.token_ids for sample in many.samples]
    other = results(SimulatedBackend(), [request(strategy="best_of_n", seed=1)])[0]
    assert [sample.token_ids for sample in one.samples] != [sample.token_ids for sample in other.samples]


def test_the_events_tell_the_whole_story_in_order() -> None:
    events = list(continuous_batch.run(SimulatedBackend(), [request(beta=0.02)], live=True))
    assert isinstance(events[0], SearchStarted)
    final = events[-1]
    assert isinstance(final, SearchFinished)
    decisions = [event.decision for event in events if isinstance(event, DecisionMade)]
    assert tuple(decisions) == final.result.decisions
    assert [decision.index for decision in decisions] == list(range(len(decisions)))
    running: set[int] = set()
    alive: set[int] = set()
    for decision in decisions:
        alive -= set(decision.finished)
        running -= set(decision.finished)
        assert set(decision.continued) <= running
        assert set(decision.paused) <= running
        assert set(decision.resumed) <= alive - running
        assert {sample for sample, _ in decision.outlooks} == alive
        alive |= set(decision.started)
        running = set(decision.started) | set(decision.continued) | set(decision.resumed)
        if decision.stop:
            assert set(decision.dropped) == alive
    finished = {event.sample for event in events if isinstance(event, SampleFinished)}
    assert finished == {sample.number for sample in final.result.samples if sample.status == "finished"}
    for sample in final.result.samples:
        assert sample.status in ("finished", "dropped")
        assert [point.tokens for point in sample.trace] == sorted(point.tokens for point in sample.trace)
        if sample.finish:
            assert sample.trace[-1].value == sample.value


def test_samples_are_paused_and_resumed() -> None:
    requests = [request(str(place), beta=0.2, interval=1) for place in range(12)]
    decisions = [decision for result in results(SimulatedBackend(), requests) for decision in result.decisions]
    assert any(decision.paused for decision in decisions)
    assert any(decision.resumed for decision in decisions)


def test_a_stop_string_ends_a_sample_and_is_not_part_of_it() -> None:
    plain = results(SimulatedBackend(), [request(strategy="single")])[0]
    stop = plain.text[2:4]
    (result,) = results(SimulatedBackend(), [request(strategy="single", stop=(stop, "never"))])
    sample = result.samples[0]
    assert result.text == plain.text[: plain.text.index(stop)]
    assert sample.finish == "stop_string"
    assert result.finish_reason == "stop"
    # The token that completes the stop string is kept, the rest of the interval is not, and both were paid for.
    assert SimulatedBackend().decode(sample.token_ids) == result.text + stop
    assert result.usage.generated_tokens == 4
    # The value is that of the last prefix before the end, as with an end of sequence.
    shorter = results(SimulatedBackend(), [request(strategy="single", interval=1, max_new_tokens=sample.tokens)])[
        0
    ].samples[0]
    assert shorter.trace[-2].tokens == sample.tokens - 1
    assert sample.value == pytest.approx(shorter.trace[-2].value)


def test_a_sample_cut_at_max_new_tokens_is_worth_the_lowest_reward() -> None:
    (result,) = results(SimulatedBackend(), [request(strategy="best_of_n", max_new_tokens=2, max_samples=3)])
    assert result.finish_reason == "length"
    assert result.confidence == 0.0
    assert result.answer is None
    assert {sample.finish for sample in result.samples} == {"length"}
    assert "no sample finished" in result.warnings[0]


def test_zip_rc_never_stops_without_an_answer() -> None:
    requests = [request(str(place), beta=50.0, max_samples=2) for place in range(30)]
    for result in results(SimulatedBackend(), requests):
        assert result.finish_reason == "stop"
        assert result.answer is not None


def test_a_small_budget_goes_to_samples_that_can_end_within_it() -> None:
    tight = [request(str(place), Budget(max_tokens=40), beta=0.01) for place in range(60)]
    answered = [result.answer is not None for result in results(SimulatedBackend(), tight)]
    spread = [request(str(place), Budget(max_tokens=40), strategy="best_of_n") for place in range(60)]
    scattered = [result.answer is not None for result in results(SimulatedBackend(), spread)]
    assert sum(answered) > 50 > 20 > sum(scattered)


def test_final_values_are_those_of_the_smoothed_joint() -> None:
    (result,) = results(SimulatedBackend(), [request(strategy="single", smoothing=1)])
    (smoothed,) = results(SimulatedBackend(), [request(strategy="single", smoothing=2, interval=1)])
    sharp = results(SimulatedBackend(), [request(strategy="single", interval=1)])[0].samples[0].trace
    assert result.confidence == sharp[-1].value
    # The last non-terminal prefix and the one before it, averaged (eq. 27).
    assert smoothed.confidence == pytest.approx((sharp[-2].value + sharp[-3].value) / 2, abs=1e-6)


@pytest.mark.parametrize("live", [False, True])
def test_non_finite_logits_fail_their_prompt_alone_and_keep_its_samples(live: bool) -> None:
    backend = FaultyBackend(nan_in_the_last)
    events: list[Event] = list(
        continuous_batch.run(
            backend, [request("a", strategy="best_of_n"), request("b", strategy="best_of_n")], live=live
        )
    )
    (failed,) = [event for event in events if isinstance(event, SearchFailed)]
    (sound,) = [event for event in events if isinstance(event, SearchFinished)]
    assert (sound.prompt, failed.prompt) == (0, 1)
    assert isinstance(failed.error, NonFiniteLogitsError)
    assert "NaN or infinite in sample 7 of prompt 1" in str(failed.error)
    assert "7 (5 tokens)" in str(failed.error)
    assert isinstance(failed.error, BackendError)
    (partial,) = failed.error.partial
    assert len(partial.samples) == 8
    assert partial.finish_reason == "error"
    assert partial.samples[7].tokens == 5
    assert partial.samples[0].text
    assert backend.held == 0


def test_nan_joint_logits_are_an_error_with_partial_results_too() -> None:
    backend = FaultyBackend(nan_in_the_joint)
    with pytest.raises(NonFiniteLogitsError, match="Kept in `partial`: samples 0") as caught:
        results(backend, [request(strategy="best_of_n")])
    assert len(caught.value.partial[0].samples) == 8
    assert backend.held == 0


def test_a_prompt_whose_logits_are_not_finite_fails_alone_with_an_empty_result() -> None:
    class BadPrompt(SimulatedBackend):
        def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
            if any(bytes(prompt) == b"bad" for prompt in prompts):
                raise NonFiniteLogitsError("the logits after prompt 0 hold NaN")
            return super().prefill(prompts)

    backend = BadPrompt()
    events = list(continuous_batch.run(backend, [request("bad"), request("good")]))
    (failed,) = [event for event in events if isinstance(event, SearchFailed)]
    assert [event.prompt for event in events if isinstance(event, SearchFinished)] == [1]
    assert isinstance(failed.error, BackendError)
    (partial,) = failed.error.partial
    assert (partial.finish_reason, partial.samples, partial.usage.prompt_tokens) == ("error", (), 3)
    assert partial.to_json()
    assert backend.held == 0


def test_prompts_have_their_own_luck_and_a_prompt_keeps_its_own() -> None:
    backend = SeedRecorder()
    results(backend, [request(text, strategy="single", seed=3) for text in ("a", "b", "a")])
    first, other, again = backend.seeds
    assert first == again != other


def test_a_search_that_cannot_begin_leaves_no_sequence_behind() -> None:
    class Misshapen(SimulatedBackend):
        def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
            first, *rest = super().prefill(prompts)
            return [first, *(Prefilled(item.sequence, item.joint_logits[:-1]) for item in rest)]

    backend = Misshapen()
    first, *others = outcomes(backend, [request(text) for text in "abc"])
    assert isinstance(first, GenerationResult), "the others' joints are not its concern"
    assert all(isinstance(error, GridError) for error in others)
    assert backend.held == 0


def test_no_more_prompts_run_than_the_backend_keeps_the_state_of() -> None:
    class Counting(SimulatedBackend):
        most = 0

        def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
            self.most = max(self.most, self.held)
            return super().advance(sequences, steps)

    backend = Counting()
    requests = [request(f"question {number}", strategy="best_of_n", max_samples=3) for number in range(9)]
    expected = results(Counting(), requests)
    backend.info = dataclasses.replace(backend.info, resident_sequences=9)
    assert [item.samples for item in results(backend, requests)] == [item.samples for item in expected]
    assert backend.most == 8, "two prompts, with three samples each"


def test_a_backend_that_does_not_move_is_an_error_and_not_a_loop() -> None:
    backend = FaultyBackend(stalled)
    with pytest.raises(BackendError, match="gave no token for sample 0 of prompt 0, which may take 4"):
        results(backend, [request(strategy="best_of_n")])
    assert backend.held == 0


@pytest.mark.parametrize("limit", [{"max_tokens": 40}, {"max_depth": 12}])
def test_a_budget_that_ends_a_search_is_its_reason_with_answers_too(limit: dict[str, int]) -> None:
    reasons = set()
    for place in range(40):
        (result,) = results(SimulatedBackend(), [request(f"p{place}", Budget(**limit), beta=1e-6)])
        spent = (result.usage.generated_tokens, result.usage.depth)
        if any(sample.finish == "stop" for sample in result.samples) and (
            spent[0] == limit.get("max_tokens") or spent[1] == limit.get("max_depth")
        ):
            reasons.add(result.finish_reason)
    assert reasons == {"budget"}


def test_a_backend_that_raises_leaves_no_sequence_behind() -> None:
    backend = FaultyBackend(out_of_memory)
    for error in outcomes(backend, [request(), request("b")]):
        assert isinstance(error, BackendError)
        assert "MemoryError: no room" in str(error)
        (partial,) = error.partial
        assert partial.finish_reason == "error"
        assert sum(sample.tokens for sample in partial.samples) == partial.usage.generated_tokens > 0
    assert backend.held == 0


@pytest.mark.parametrize("after", range(0, 12, 2))
def test_closing_the_iterator_leaves_no_sequence_behind(after: int) -> None:
    backend = SimulatedBackend()
    events = continuous_batch.run(backend, [request(str(place)) for place in range(3)], live=True)
    for _ in range(after):
        next(events)
    events.close()
    assert backend.held == 0


def test_a_small_backend_runs_samples_in_turns() -> None:
    backend = SimulatedBackend(max_sequences=4)
    found = results(backend, [request(str(place), strategy="best_of_n") for place in range(3)])
    wide = results(SimulatedBackend(), [request(str(place), strategy="best_of_n") for place in range(3)])
    assert [sorted(s.token_ids for s in result.samples) for result in found] == [
        sorted(s.token_ids for s in result.samples) for result in wide
    ]
    with pytest.raises(BackendError, match="a search needs 2"):
        results(SimulatedBackend(max_sequences=1), [request()])


def test_bad_requests_are_refused_before_the_model_runs() -> None:
    backend = SimulatedBackend()
    longest = backend.info.max_context
    with pytest.raises(PromptError, match="no tokens"):
        check(Request((), GenerationConfig()), backend)
    with pytest.raises(PromptError, match=rf"has {longest} tokens.*Shorten the prompt by 1 tokens"):
        check(Request((1,) * longest, GenerationConfig()), backend)
    with pytest.raises(ConfigError, match=r"strategy is 'zipp'; expected one of .*majority_vote, .*zip_rc"):
        check(request(strategy="zipp"), backend)
