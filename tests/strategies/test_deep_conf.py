"""DeepConf by the confidences of tokens, as its paper has it; by values it is tested with the others that prune."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect import IntrospectiveLLM
from zip_introspect.answers.extraction import key
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import ConfigError, HeadError
from zip_introspect.result import GenerationResult, SampleResult, TokenConfidence
from zip_introspect.strategies import DeepConf, Finished, Leaf, MetaState
from zip_introspect.testing.simulator import SimulatedBackend

QUESTIONS = [f"question {number}" for number in range(24)]
WINDOW = 6


def asked(head: bool = False, options: dict[str, Any] | None = None, **config: Any) -> list[GenerationResult]:
    settings = {"interval": 4, "strategy": "deep_conf", "strategy_options": options or {}, "max_samples": 8, **config}
    backend = SimulatedBackend(head=head)
    with IntrospectiveLLM(backend, GenerationConfig(confidence_window=WINDOW, **settings)) as llm:
        found = llm.batch(QUESTIONS)
    assert not backend.held
    return found


def lowest(sample: SampleResult, signal: str = "tokens") -> float:
    assert sample.token_confidence is not None
    return sample.token_confidence.lowest if signal == "tokens" else sample.token_confidence.lowest_likelihood


@pytest.mark.parametrize("signal", ["tokens", "likelihood"])
def test_samples_that_are_less_sure_than_the_warm_up_are_dropped_and_those_alone(signal: str) -> None:
    dropped = 0
    for result in asked(options={"signal": signal, "warmup": 3, "keep": 0.3, "consensus": 1.0}):
        warm, others = result.samples[:3], result.samples[3:]
        assert all(sample.status == "finished" for sample in warm)
        threshold = float(np.quantile([lowest(sample, signal) for sample in warm], 0.7))
        settled = "has 100%" in result.stop_detail
        for sample in others:
            if sample.status == "dropped" and not settled:
                assert lowest(sample, signal) < threshold
                assert sample.tokens >= WINDOW
                dropped += 1
    assert dropped > 4


def test_votes_are_weighed_by_the_lowest_group_of_those_above_the_threshold() -> None:
    weighed = 0
    for result in asked(options={"keep": 0.5, "consensus": 1.0}):
        threshold = float(np.quantile([lowest(sample) for sample in result.samples[:3]], 0.5))
        votes: defaultdict[str, float] = defaultdict(float)
        standing = [item for item in result.samples if item.status == "finished" and lowest(item) >= threshold]
        for sample in standing:
            if sample.complete and sample.answer is not None:
                votes[key(sample.answer)] += lowest(sample)
        assert result.answer is not None
        assert result.chosen is not None
        assert votes[key(result.answer)] == max(votes.values())
        of_it = [lowest(item) for item in standing if item.complete and item.answer == result.answer]
        assert lowest(result.samples[result.chosen]) == max(of_it)
        total = sum(map(lowest, standing))
        assert result.confidence == pytest.approx(votes[key(result.answer)] / (total + total / len(standing)))
        assert (result.confidence_source, result.selection) == ("agreement", "weighted_majority")
        weighed += len(votes) > 1
    assert weighed > 3


def test_it_stops_once_the_votes_agree() -> None:
    patient, hasty = asked(options={"consensus": 1.0}), asked(options={"consensus": 0.5})
    usual = asked()
    spent = [sum(result.usage.generated_tokens for result in found) for found in (hasty, usual, patient)]
    assert spent[0] < spent[1] <= spent[2]
    for result in hasty:
        agreed = [item for item in result.samples[:3] if item.complete]
        if len(agreed) == 3 and len({key(item.answer or "") for item in agreed}) == 1:
            assert len(result.samples) == 3, "a warm-up that agrees needs no further sample"
            assert "has 100% of the votes" in result.stop_detail


def test_with_a_head_it_goes_by_value_unless_told_otherwise() -> None:
    by_value, usual = asked(head=True, options={"signal": "value"}), asked(head=True)
    assert [result.samples for result in usual] == [result.samples for result in by_value]
    assert all(sample.token_confidence is None for result in usual for sample in result.samples)
    assert {result.confidence_source for result in usual} == {"head"}
    by_tokens, bare = asked(head=True, options={"signal": "tokens"}), asked()
    for told, without in zip(by_tokens, bare, strict=True):
        assert [item.token_ids for item in told.samples] == [item.token_ids for item in without.samples]
        assert (told.answer, told.confidence, told.chosen) == (without.answer, without.confidence, without.chosen)


def test_the_source_and_the_selection_of_the_settings_come_first() -> None:
    for result in asked(confidence_source="tokens", selection="majority"):
        assert result.chosen is not None
        chosen = result.samples[result.chosen]
        assert chosen.token_confidence is not None
        assert (result.selection, result.confidence_source) == ("majority", "tokens")
        assert result.confidence == chosen.token_confidence.likelihood


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(HeadError, match="strategy deep_conf reads what the head"):
        asked(options={"signal": "value"})
    with pytest.raises(ConfigError, match=r"window is of signal='value'.*confidence_window"):
        asked(options={"signal": "likelihood", "window": 3})


def test_texts_vote_where_there_is_no_answer() -> None:
    llm = IntrospectiveLLM(SimulatedBackend(max_length=4, head=False), extractor=lambda text: None)
    result = llm.generate("a question", strategy="deep_conf", max_samples=12)
    assert result.text
    assert result.confidence_source == "agreement"
    assert len(result.samples) == 12, "nothing to agree on, so all are drawn"


SURE = st.integers(1, 30).map(float)


@given(st.lists(SURE, min_size=1, max_size=6), st.lists(st.tuples(SURE, st.integers(1, 40)), max_size=6))
def test_whom_it_drops_is_a_matter_of_the_threshold_alone(
    warm: list[float], running: Sequence[tuple[float, int]]
) -> None:
    config = GenerationConfig(
        strategy_options={"signal": "tokens", "warmup": len(warm), "keep": 0.5, "consensus": 1.0},
        confidence_window=WINDOW,
        max_samples=len(warm) + len(running),
    )
    strategy, started = DeepConf(config), len(warm)
    # Two that are surest of all and differ leave the votes open.
    finished = [Finished(place, 9, 0.0, True, f"x{place}", sure(low)) for place, low in enumerate(warm)]
    finished += [Finished(90 + place, 9, 0.0, True, f"y{place}", sure(31.0)) for place in range(2)]
    leaves = [
        Leaf(place, length, np.empty((0, 0)), np.nan, np.nan, 9, True, sure(low))
        for place, (low, length) in enumerate(running, started)
    ]
    strategy.decide(state(config, [], finished, started))
    action = strategy.decide(state(config, leaves, finished, started + len(running)))
    threshold = np.quantile([*warm, 31.0, 31.0], 0.5)
    weak = {leaf.sample for leaf, (low, _) in zip(leaves, running, strict=True) if low < threshold}
    young = {leaf.sample for leaf in leaves if leaf.length < WINDOW}
    if action.stop is None:
        assert set(action.drop) == weak - young
        assert set(action.run) == {leaf.sample for leaf in leaves} - set(action.drop)
    else:
        assert not {leaf.sample for leaf in leaves} - (weak - young)


def sure(low: float) -> TokenConfidence:
    return TokenConfidence(0.5, 0.5, 0.5, low, low, low)


def state(config: GenerationConfig, leaves: list[Leaf], finished: list[Finished], started: int) -> MetaState:
    return MetaState(
        decision=0,
        bins=None,
        config=config,
        prompt_tokens=1,
        root_joint=np.empty((0, 0)),
        root_value=np.nan,
        root_remaining=np.nan,
        leaves=tuple(leaves),
        finished=tuple(finished),
        started=started,
        room=0,
        limit=9,
    )
