"""Probes: what they read of a sample as it grows, and of a model that is driven; and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zip_introspect import ConfigError, HeadError, IntrospectiveLLM
from zip_introspect.backend.streams import prompt_seed
from zip_introspect.config import SamplingParams
from zip_introspect.heads.network import Input
from zip_introspect.heads.probe import AboutProbe, Probe, ProbeReader, watch
from zip_introspect.heads.targets import AnyTarget, Bernoulli
from zip_introspect.training.on_policy import collect

PROMPT, SAMPLING = "Solve 3*x+5=35", SamplingParams(seed=3)


def random_probe(
    size: int, target: AnyTarget, inputs: tuple[Input, ...] = ("last", "mean"), hidden: int = 0, seed: int = 0
) -> Probe:
    """One that nobody trained."""
    rng = np.random.default_rng(seed)
    sizes = [len(inputs) * size, *([hidden] if hidden else []), target.num_classes]
    weights: dict[str, NDArray[np.floating]] = {}
    for place, (width, out) in enumerate(pairwise(sizes)):
        weights |= {f"{place}.weight": rng.normal(size=(out, width)), f"{place}.bias": rng.normal(size=out)}
    return Probe(AboutProbe(target=target, inputs=inputs, hidden_size=size), weights)


@pytest.fixture(scope="module")
def llm() -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.demo(hidden_states=True) as opened:
        yield opened


@given(st.lists(st.integers(0, 4), max_size=5), st.sampled_from([("last",), ("mean",), ("mean", "last")]))
def test_a_reader_keeps_the_mean_of_all_that_came(parts: list[int], inputs: tuple[Input, ...]) -> None:
    probe, states = random_probe(3, Bernoulli(), inputs), np.random.default_rng(1).normal(size=(1 + sum(parts), 3))
    reader = ProbeReader(probe)
    found, place = [reader.read(states[0])], 1
    for count in parts:
        found.append(reader.read(states[place : place + count]))
        place += count
    means = np.stack([states[: row + 1].mean(0) for row in range(len(states))])
    np.testing.assert_allclose(np.concatenate(found), probe.probabilities(states, means), rtol=1e-4)


def test_what_is_watched_is_what_was_collected(llm: IntrospectiveLLM) -> None:
    assert llm.info.hidden_size is not None
    probe, prompt = random_probe(llm.info.hidden_size, Bernoulli(), hidden=4), llm.backend.encode(PROMPT)
    (whole,) = collect(llm.backend, [prompt], 1, SAMPLING, max_new_tokens=300, hidden_every=1)
    own = SAMPLING.replace(seed=prompt_seed(SAMPLING.seed, prompt))
    seen = list(watch(probe, llm.backend, prompt, own, max_new_tokens=300, interval=7))
    assert whole.hidden is not None
    assert np.concatenate([item.tokens for item in seen]).tolist() == whole.tokens.tolist()
    expected = probe.probabilities(whole.hidden.last, whole.hidden.mean)
    found = np.concatenate([item.probabilities for item in seen])
    np.testing.assert_allclose(found, expected, atol=0.05)  # collected states are in half precision
    assert len(seen[0].tokens) == 0
    assert all(len(item.tokens) <= 7 for item in seen)


def test_watching_ends_when_it_is_closed_or_there_are_tokens_enough(llm: IntrospectiveLLM) -> None:
    probe, prompt = random_probe(llm.info.hidden_size or 0, Bernoulli()), llm.backend.encode(PROMPT)
    seen = list(watch(probe, llm.backend, prompt, SAMPLING, max_new_tokens=10, interval=4))
    assert [len(item.tokens) for item in seen] == [0, 4, 4, 2]
    with closing(watch(probe, llm.backend, prompt, SAMPLING, max_new_tokens=10)) as stream:
        next(stream)
    assert llm.generate(PROMPT, max_samples=1).samples


def test_other_models_and_bad_counts_are_refused(llm: IntrospectiveLLM) -> None:
    size, prompt = llm.info.hidden_size or 0, llm.backend.encode(PROMPT)
    with pytest.raises(HeadError, match=f"reads hidden states of 3 numbers, and the model's have {size}"):
        next(watch(random_probe(3, Bernoulli()), llm.backend, prompt, SAMPLING, max_new_tokens=3))
    probe = random_probe(size, Bernoulli())
    with pytest.raises(ConfigError, match="max_new_tokens is 0 and interval 16; expected 1 or more"):
        next(watch(probe, llm.backend, prompt, SAMPLING, max_new_tokens=0))
    with pytest.raises(HeadError, match="open it with hidden_states=True"):
        ProbeReader(probe).read(None)
    taken = llm.backend.fingerprint()
    other = Probe(probe.about, probe.weights, replace(taken, rows=taken.rows[::-1].copy()))
    with pytest.raises(HeadError, match="another model"):
        next(watch(other, llm.backend, prompt, SAMPLING, max_new_tokens=3))


def test_a_probe_that_does_not_fit_its_target_is_refused() -> None:
    probe = random_probe(3, Bernoulli())
    with pytest.raises(HeadError, match="gives 3 logits, and its target has 2 classes"):
        Probe(probe.about, {"0.weight": np.zeros((3, 6)), "0.bias": np.zeros(3)})
    with pytest.raises(HeadError, match=r"the probe is malformed: .*expected each once"):
        AboutProbe(target=Bernoulli(), hidden_size=3, inputs=("last", "last"))
