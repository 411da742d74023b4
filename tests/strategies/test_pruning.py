"""Strategies that drop samples on the way, on problems whose joints are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zip_introspect import IntrospectiveLLM, strategies
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError
from zip_introspect.result import GenerationResult
from zip_introspect.testing.simulator import SimulatedBackend

QUESTIONS = [f"question {number}" for number in range(24)]


def results(strategy: str, options: dict[str, Any] | None = None, **config: Any) -> list[GenerationResult]:
    """What a strategy makes of some problems whose joints are exact."""
    settings = {"interval": 4, "strategy": strategy, "strategy_options": options or {}, **config}
    with IntrospectiveLLM(SimulatedBackend(), GenerationConfig(**settings)) as llm:
        return llm.batch(QUESTIONS)


def test_long_samples_do_not_vote() -> None:
    everything, pruned = results("majority_vote"), results("majority_vote", {"max_length": 12})
    assert any(sample.tokens > 16 for result in everything for sample in result.samples)
    for result, before in zip(pruned, everything, strict=True):
        assert all(sample.tokens < 12 + 4 for sample in result.samples)
        finished = {sample.number: sample for sample in result.samples if sample.status == "finished"}
        same = {sample.number: sample for sample in before.samples}
        assert all(sample.token_ids == same[number].token_ids for number, sample in finished.items())
        assert {sample.status for sample in result.samples} <= {"finished", "dropped"}
        assert result.finish_reason == ("stop" if finished else "length")


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.8])
def test_reward_pruning_drops_what_is_worth_less_and_owes_an_answer(threshold: float) -> None:
    dropped = 0
    for result in results("zip_rc_reward_pruning", {"threshold": threshold}):
        answered = False
        for decision in result.decisions:
            answered |= any(result.samples[number].finish == "stop" for number in decision.finished)
            outlooks = dict(decision.outlooks)
            weak = {number for number, outlook in outlooks.items() if outlook.value < threshold}
            if decision.stop is None:
                assert set(decision.dropped) <= weak
                assert len(weak - set(decision.dropped)) <= (0 if answered else 1)
            dropped += len(decision.dropped)
        assert result.finish_reason == "stop"
        assert result.confidence == max(sample.value or 0.0 for sample in result.samples if sample.status == "finished")
    assert dropped > 20


def test_a_threshold_of_nothing_is_best_of_n() -> None:
    pruned, best = results("zip_rc_reward_pruning", {"threshold": 0.0}), results("best_of_n")
    assert [result.samples for result in pruned] == [result.samples for result in best]


@pytest.mark.parametrize(("width", "drop"), [(1, 0), (4, 1), (4, 2), (6, 2)])
def test_a_beam_keeps_its_width_and_branches_the_most_promising(width: int, drop: int) -> None:
    branched = 0
    for result in results("beam_search", {"width": width, "drop": drop}):
        for decision in result.decisions:
            if decision.stop is not None:
                continue
            running = len(decision.started) + len(decision.continued) + len(decision.forked)
            assert 0 < running <= width
            outlooks = dict(decision.outlooks)
            parents = [parent for parent, _ in decision.forked]
            assert len(parents) == len(set(parents)) == len(decision.dropped) <= drop
            for parent in parents:
                assert all(outlooks[parent].value >= outlooks[weak].value for weak in decision.dropped)
            branched += len(parents)
        assert result.finish_reason == "stop"
        assert not any(sample.status in ("active", "paused") for sample in result.samples)
    assert (branched > 0) == (drop > 0)


def test_a_beam_that_drops_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="drop=4 leaves nothing of a width of 4"):
        results("beam_search", {"width": 4, "drop": 4})


def test_confidence_pruning_sets_its_threshold_on_the_warm_up() -> None:
    dropped = 0
    for result in results("deep_conf", {"warmup": 3, "keep": 0.7, "window": 2}, max_samples=8):
        lowest: dict[int, float] = {}
        trace: dict[int, list[float]] = {}
        warm = [sample for sample in result.samples if sample.number < 3]
        assert all(sample.status == "finished" for sample in warm)
        threshold = None
        for decision in result.decisions:
            for number, outlook in decision.outlooks:
                trace.setdefault(number, []).append(outlook.value)
                group = float(np.mean(trace[number][-2:]))
                lowest[number] = min(group, lowest.get(number, group))
                if threshold is not None and decision.stop is None:
                    assert (number in decision.dropped) == (group < threshold)
            if 3 in decision.started:
                threshold = float(np.quantile([lowest[number] for number in range(3)], 0.3))
                assert decision.started == (3, 4, 5, 6, 7)
            dropped += len(decision.dropped)
    assert dropped > 10


def test_pass_at_k_and_weighted_best_of_n_run_the_samples_of_best_of_n() -> None:
    best = results("best_of_n", max_samples=4)
    for name in ("pass_at_k", "weighted_best_of_n"):
        assert [item.samples for item in results(name, max_samples=4)] == [item.samples for item in best]
    assert [name for name in strategies.names() if getattr(strategies.get(name), "oracle", False)] == ["pass_at_k"]


@pytest.mark.parametrize("name", sorted(set(strategies.names()) - {"waits", "zip_rc"}))
def test_options_that_a_strategy_does_not_take_are_refused_before_work(name: str) -> None:
    with pytest.raises(ConfigError, match="no_such_option"):
        results(name, {"no_such_option": 1})
