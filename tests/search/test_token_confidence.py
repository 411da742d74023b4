"""The confidences of a sample's tokens, gathered while it grows, and what becomes of them in results."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import FaultyBackend
from tests.searches import request, results
from zip_introspect import Calibration, IntrospectiveLLM
from zip_introspect.backend.contract import Advanced
from zip_introspect.backend.streams import prompt_seed
from zip_introspect.config import GenerationConfig, SamplingParams
from zip_introspect.errors import BackendError, HeadError
from zip_introspect.heads.head import Head, Searched
from zip_introspect.result import TokenConfidence
from zip_introspect.search.confidence import OF_ANOTHER_SOURCE, UNCALIBRATED, calibration_of
from zip_introspect.search.token_confidence import ConfidenceTrace
from zip_introspect.testing.heads import random_head
from zip_introspect.testing.simulator import SimulatedBackend

TOKENS_MEAN = Calibration(
    method="isotonic", confidences=(0.0, 1.0), probabilities=(0.2, 0.6), examples=10, source="tokens"
)


def plainly(rows: list[tuple[float, float]], window: int) -> TokenConfidence:
    """By the definition, from all rows at once."""
    drawn, likeliest = np.array(rows).T
    size = min(window, len(rows))
    starts = range(len(rows) - size + 1)
    groups = [-float(np.mean(likeliest[start : start + size])) for start in starts]
    likely = [float(np.exp(np.mean(drawn[start : start + size]))) for start in starts]
    return TokenConfidence(
        likelihood=float(np.exp(np.mean(drawn))),
        group_likelihood=likely[-1],
        lowest_likelihood=min(likely),
        mean=-float(np.mean(likeliest)),
        group=groups[-1],
        lowest=min(groups),
    )


def close(found: TokenConfidence | None, expected: TokenConfidence) -> None:
    assert found is not None
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected), abs=1e-6)


ROWS = st.lists(st.tuples(st.integers(-9, 0), st.integers(-30, -1)), min_size=1, max_size=25)


@given(ROWS, st.integers(1, 12), st.lists(st.integers(0, 9), max_size=4))
def test_however_it_grows_it_is_what_the_definition_says(
    rows: list[tuple[float, float]], window: int, pieces: list[int]
) -> None:
    trace, done = ConfidenceTrace(window), 0
    assert trace.read() is None
    for count in (*pieces, len(rows)):
        part = rows[done : done + count]
        trace.grow(np.array(part, np.float64).reshape(len(part), 2))
        done += len(part)
        if done:
            close(trace.read(), plainly(rows[:done], window))
    assert done == len(rows)


@given(ROWS, ROWS, ROWS, st.integers(1, 12))
def test_forks_go_on_apart(
    shared: list[tuple[float, float]], one: list[tuple[float, float]], other: list[tuple[float, float]], window: int
) -> None:
    first = ConfidenceTrace(window)
    first.grow(np.array(shared))
    second = first.fork()
    first.grow(np.array(one))
    second.grow(np.array(other))
    close(first.read(), plainly(shared + one, window))
    close(second.read(), plainly(shared + other, window))


@pytest.mark.parametrize("head", [True, False])
def test_nobody_is_asked_unless_somebody_reads_them(head: bool) -> None:
    backend = SimulatedBackend(head=head)
    (silent,) = results(backend, [request()])
    assert all(sample.token_confidence is None for sample in silent.samples)
    (told,) = results(backend, [request(confidence_source="tokens")])
    assert [sample.token_ids for sample in told.samples] == [sample.token_ids for sample in silent.samples]
    assert all(sample.token_confidence for sample in told.samples)
    assert told.chosen is not None
    chosen = told.samples[told.chosen]
    assert chosen.token_confidence is not None
    assert (told.confidence_source, told.confidence) == ("tokens", chosen.token_confidence.likelihood)
    assert json.loads(told.to_json())["samples"][0]["token_confidence"]["lowest"] > 0
    assert told.chosen == silent.chosen


def test_they_are_those_of_the_backend() -> None:
    backend = SimulatedBackend(head=False)
    (result,) = results(backend, [request(confidence_source="tokens", confidence_window=3, strategy="single")])
    (sample,) = result.samples
    (prompt,) = backend.prefill([tuple(b"a problem")])
    sampling = SamplingParams(seed=prompt_seed(result.seed, tuple(b"a problem")), confidences=True)
    (sequence,) = backend.fork(prompt.sequence, [0], sampling)
    (run,) = backend.advance([sequence], [40])
    assert run.confidences is not None
    assert run.tokens.tolist() == list(sample.token_ids)
    close(sample.token_confidence, plainly([tuple(row) for row in run.confidences.tolist()], 3))


def test_what_a_stop_string_cuts_off_does_not_count() -> None:
    backend = SimulatedBackend(head=False)
    whole, cut = (
        results(backend, [request(confidence_source="tokens", strategy="single", interval=40, stop=stop)])[0].samples[0]
        for stop in ((), ("ans",))
    )
    assert cut.finish == "stop_string"
    assert len(cut.token_ids) == len(whole.token_ids) - 1
    assert cut.token_confidence is not None
    assert whole.token_confidence is not None
    # The end of sequence is certain here, so that it changes the mean of logarithms by its place alone.
    count = len(whole.token_ids)
    assert cut.token_confidence.likelihood == pytest.approx(whole.token_confidence.likelihood ** (count / (count - 1)))


def test_another_source_may_be_named() -> None:
    llm = IntrospectiveLLM(SimulatedBackend(seed=3))
    head = llm.generate("a question")
    agreed = llm.generate("a question", confidence_source="agreement")
    assert (head.confidence_source, agreed.confidence_source) == ("head", "agreement")
    ended = [sample.answer for sample in agreed.samples if sample.status == "finished"]
    assert agreed.confidence == ended.count(agreed.answer) / (len(ended) + 1)
    bare = IntrospectiveLLM(SimulatedBackend(head=False))
    with pytest.raises(HeadError, match="confidence_source='head' reads what the head"):
        bare.generate("a question", confidence_source="head")


def test_a_backend_that_reports_none_is_refused_before_work() -> None:
    backend = SimulatedBackend(head=False)
    backend.info = dataclasses.replace(backend.info, confidences=False)
    with IntrospectiveLLM(backend) as llm:
        said = r"confidence_source='tokens' reads how sure .* simulated reports none .*transformers or llama-cpp"
        with pytest.raises(BackendError, match=said):
            llm.generate("a question", confidence_source="tokens")
        with pytest.raises(BackendError, match="strategy deep_conf reads how sure"):
            llm.generate("a question", strategy="deep_conf")
        assert llm.generate("a question").confidence_source == "agreement"


def test_a_backend_that_says_it_reports_them_and_does_not_is_named() -> None:
    def silent(found: list[Advanced]) -> list[Advanced]:
        return [dataclasses.replace(item, confidences=None) for item in found]

    llm = IntrospectiveLLM(FaultyBackend(silent, at=1))
    with pytest.raises(BackendError, match=r"gave no confidences for the tokens of sample \d") as raised:
        llm.generate("a question", confidence_source="tokens", interval=2, beta=0.0)
    assert raised.value.partial[0].samples


def test_it_is_labelled_until_a_calibration_has_learnt_from_tokens() -> None:
    of_agreement = TOKENS_MEAN.replace(source=None)
    cases: tuple[tuple[Calibration | None, Literal["tokens"] | None, str | None], ...] = (
        (None, "tokens", UNCALIBRATED),
        (of_agreement, "tokens", UNCALIBRATED),
        (TOKENS_MEAN, "tokens", None),
        (of_agreement, None, None),
        (TOKENS_MEAN, None, OF_ANOTHER_SOURCE),
    )
    for known, source, warning in cases:
        with IntrospectiveLLM(SimulatedBackend(seed=3, head=False), calibration=known) as llm:
            result = llm.generate("a question", confidence_source=source)
        assert [said for said in result.warnings if said in (UNCALIBRATED, OF_ANOTHER_SOURCE)] == (
            [warning] if warning else []
        )
        expected = pytest.approx(0.2 + 0.4 * result.confidence) if known and not warning else None
        assert result.calibrated_confidence == expected


def test_a_heads_file_may_say_what_each_source_means() -> None:
    of_head = TOKENS_MEAN.replace(source=None, probabilities=(0.0, 1.0))
    kind = {"strategy": "best_of_n", "selection": "value", "max_samples": 4}
    head, backend = random_head(8), SimulatedBackend()
    searched = tuple(Searched(**kind, calibration=found) for found in (TOKENS_MEAN, of_head))
    backend.head = Head(head.about.replace(searched=searched), head.weights, None)
    config = GenerationConfig(strategy="best_of_n", max_samples=4)
    for source, expected in ((None, of_head), ("head", of_head), ("tokens", TOKENS_MEAN), ("agreement", None)):
        assert calibration_of(backend, config.replace(confidence_source=source)) == expected


def test_a_batch_shares_passes_with_those_who_ask_for_nothing() -> None:
    backend = SimulatedBackend(head=False)
    texts = ("one", "two", "three")
    apart = [results(backend, [request(text, confidence_source="tokens")])[0] for text in texts]
    asking = [request(text, confidence_source="tokens" if place != 1 else None) for place, text in enumerate(texts)]
    for place, (result, alone) in enumerate(zip(results(backend, asking), apart, strict=True)):
        assert [sample.token_ids for sample in result.samples] == [sample.token_ids for sample in alone.samples]
        told = [sample.token_confidence for sample in result.samples]
        assert told == ([sample.token_confidence for sample in alone.samples] if place != 1 else [None] * len(told))
    assert not backend.held
