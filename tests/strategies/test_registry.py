"""What holds of every strategy that we register, whatever the state of the search."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scripted import FaultyBackend, nan_in_the_last
from tests.searches import outcomes, request, results
from tests.strategies.states import made, states
from zip_introspect import strategies
from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import NonFiniteLogitsError
from zip_introspect.result import GenerationResult
from zip_introspect.strategies import MetaState, Strategy
from zip_introspect.testing.simulator import SimulatedBackend

OURS = [name for name in strategies.names() if strategies.get(name).__module__.startswith("zip_introspect.")]
WITHOUT_HEAD = [name for name in OURS if name in strategies.by_need()["no head"]]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "adaptive_consistency": [{}, {"criterion": "dirichlet", "overtaken": 0.2}],
    "beam_search": [{}, {"width": 1, "drop": 0}],
    "best_of_majority": [{}, {"share": 1.0, "answers": 3}],
    "deep_conf": [{}, {"warmup": 1, "keep": 0.5, "window": 1}],
    "early_stopping_consistency": [{}, {"window": 2}],
    "majority_vote": [{}, {"max_length": 6}],
    "opt_scale": [{}, {"confidence": 0.3, "target": 2.0}, {"weight": 0.01}],
    "step_prune": [{}, {"max_tokens_held": 1}, {"max_tokens_held": 60}],
    "zip_rc_reward_pruning": [{}, {"threshold": 0.9}],
}
CASES = [(name, options) for name in OURS for options in OPTIONS.get(name, [{}])]
CHOOSING = [(name, options) for name, options in CASES if strategies.get(name).verdict is not Strategy.verdict]


def test_every_strategy_is_in_the_one_group_of_what_it_needs() -> None:
    groups = strategies.by_need()
    assert sorted(name for found in groups.values() for name in found) == strategies.names()
    assert "beam_search" in groups["forks"]
    assert {"zip_rc", "opt_scale", "step_prune", "best_of_majority"} <= set(groups["a head"])
    assert {"adaptive_consistency", "early_stopping_consistency", "majority_vote"} <= set(groups["no head"])
    listed = strategies.listed()
    assert listed.index("adaptive_consistency") < listed.index("zip_rc") < listed.index("beam_search")


@pytest.mark.parametrize("name", OURS)
def test_every_option_says_what_it_is(name: str) -> None:
    kind = strategies.get(name)
    assert all(field.description for field in kind.Options.model_fields.values())
    assert inspect.getdoc(kind) != inspect.getdoc(kind.__mro__[1]), "a strategy says itself what it does"


def check(state: MetaState, action: strategies.MetaAction, forks: bool) -> None:
    """That a search can carry a meta-action out, and comes to an end by it or goes on."""
    leaves = {leaf.sample for leaf in state.leaves}
    branches = sum(count for _, count in action.forks)
    assert set(action.run) <= leaves
    assert len(set(action.run)) == len(action.run)
    assert {sample for sample, _ in action.forks} <= leaves
    assert set(action.drop) <= leaves
    assert not set(action.drop) & {*action.run, *(sample for sample, _ in action.forks)}
    assert 0 <= action.new <= action.new + branches <= state.room
    assert not action.forks or forks
    assert action.reason
    moving = bool(action.run or action.new or branches)
    assert moving if action.stop is None else not moving


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(max_examples=40)
@given(data=st.data())
def test_any_state_gets_a_meta_action_that_can_be_carried_out(name: str, options: dict[str, Any], data: Any) -> None:
    kind = strategies.get(name)
    state = data.draw(states(joints=True, strategy=name, strategy_options=options))
    strategy = made(state.config)
    check(state, strategy.decide(state), kind.needs_forks)
    assert 1 <= strategy.samples_at_once() <= strategy.samples_at_most()


@pytest.mark.parametrize("name", WITHOUT_HEAD)
@settings(max_examples=40)
@given(data=st.data())
def test_what_needs_no_head_decides_the_same_without_one(name: str, data: Any) -> None:
    for options in OPTIONS.get(name, [{}]):
        state = data.draw(states(joints=False, strategy=name, strategy_options=options))
        check(state, made(state.config).decide(state), forks=False)


@pytest.mark.parametrize(("name", "options"), CHOOSING)
@settings(max_examples=40)
@given(data=st.data())
def test_a_verdict_is_of_samples_that_ended(name: str, options: dict[str, Any], data: Any) -> None:
    state = data.draw(states(joints=True, strategy=name, strategy_options=options))
    verdict = made(state.config).verdict(state.finished)
    if verdict is not None:
        complete = {sample.sample for sample in state.finished if sample.complete}
        assert {verdict.number, *verdict.others} <= complete
        assert len({verdict.number, *verdict.others}) == 1 + len(verdict.others)
        assert 0.0 <= verdict.confidence <= 1.0


def search(name: str, options: dict[str, Any], backend: SimulatedBackend, budget: Budget, **config: Any) -> Any:
    asked = [
        request(f"a problem {number}", budget, strategy=name, strategy_options=options, **config) for number in range(3)
    ]
    return zip(asked, results(backend, asked), strict=True)


LIMITS = [
    (Budget(), {}),
    (Budget(), {"max_samples": 1}),
    (Budget(), {"temperature": 0.0}),
    (Budget(), {"max_new_tokens": 1}),
    (Budget(), {"max_new_tokens": 12, "interval": 100}),
    (Budget(max_tokens=1), {}),
    (Budget(max_tokens=37), {}),
    (Budget(max_depth=9), {}),
    (Budget(max_samples=2), {"max_samples": 12}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize(("budget", "config"), LIMITS)
def test_every_search_comes_to_an_end_within_its_limits(
    name: str, options: dict[str, Any], budget: Budget, config: dict[str, Any]
) -> None:
    for places in (None, 3):
        backend = SimulatedBackend(max_sequences=places)
        for asked, result in search(name, options, backend, budget, **config):
            within(asked.config, budget, result)
        assert backend.held == 0


def within(config: GenerationConfig, budget: Budget, result: GenerationResult) -> None:
    """That a result keeps to its limits, and is whole."""
    strategy = made(config)
    assert len(result.samples) <= min(strategy.samples_at_most(), budget.max_samples or 4096)
    assert result.usage.generated_tokens <= (budget.max_tokens or 10**9)
    assert result.usage.depth <= (budget.max_depth or 10**9)
    assert all(sample.tokens <= config.max_new_tokens for sample in result.samples)
    assert len(result.samples) <= 1 or config.temperature
    assert {sample.status for sample in result.samples} <= {"finished", "dropped"}
    assert result.chosen is not None
    assert result.submitted[0] == result.chosen
    chosen = result.samples[result.chosen]
    assert result.complete == chosen.complete == any(sample.complete for sample in result.samples)
    assert (result.finish_reason == "stop") <= chosen.complete
    assert np.isfinite(result.confidence)


@pytest.mark.parametrize("name", WITHOUT_HEAD)
@pytest.mark.parametrize(("budget", "config"), LIMITS)
def test_without_a_head_agreement_is_the_confidence(name: str, budget: Budget, config: dict[str, Any]) -> None:
    for options in OPTIONS.get(name, [{}]):
        for asked, result in search(name, options, SimulatedBackend(head=False), budget, **config):
            within(asked.config, budget, result)
            assert result.confidence_source == "agreement"
            assert all(sample.value is None for sample in result.samples)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_samples_in_the_backend_are_never_more_than_was_said(name: str, options: dict[str, Any]) -> None:
    for asked, result in search(name, options, SimulatedBackend(), Budget(), max_samples=12):
        at_once, held = made(asked.config).samples_at_once(), set[int]()
        for decision in result.decisions:
            held -= {*decision.finished}
            assert len(held) <= at_once
            held |= {*decision.started, *(sample for _, sample in decision.forked)}
            assert len(held) <= at_once
            held -= {*decision.dropped}


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("at", [0, 2])
def test_what_there_is_when_the_model_fails_is_kept(name: str, options: dict[str, Any], at: int) -> None:
    backend = FaultyBackend(nan_in_the_last, at=at)
    (found,) = outcomes(backend, [request("a problem", strategy=name, strategy_options=options, max_samples=6)])
    assert backend.held == 0
    if isinstance(found, GenerationResult):  # it had ended before
        assert backend.calls <= at
        return
    assert isinstance(found, NonFiniteLogitsError)
    (kept,) = found.partial
    assert kept.finish_reason == "error"
    assert kept.submitted[:1] == (() if kept.chosen is None else (kept.chosen,))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_texts_without_answers_are_searched_too(name: str, options: dict[str, Any]) -> None:
    asked = request("a chat", strategy=name, strategy_options=options)
    (result,) = results(SimulatedBackend(), [asked], extractor=lambda text: None)
    assert (result.answer, result.answers) == (None, ())
    assert result.finish_reason == ("stop" if result.complete else "length")
