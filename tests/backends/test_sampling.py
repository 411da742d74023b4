"""Drawing tokens, against a plain loop over the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zip_introspect.config import SamplingParams
from zip_introspect_transformers.sampling import RowSampler

CPU = torch.device("cpu")
VOCABULARY = 9

parameters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    top_k=st.integers(0, VOCABULARY + 2),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.1]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)
rows_of_logits = st.lists(
    st.lists(st.floats(-6, 6, width=16), min_size=VOCABULARY, max_size=VOCABULARY, unique=True), min_size=1, max_size=5
)


def kept_probabilities(logits: NDArray[np.float64], sampling: SamplingParams) -> NDArray[np.float64]:
    """The filters one after another, a token at a time."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    weights = {token: np.exp((logits[token] - logits[order[0]]) / sampling.temperature) for token in order}
    kept = order[: sampling.top_k] if sampling.top_k else order
    total, mass, nucleus = sum(weights[token] for token in kept), 0.0, []
    for token in kept:
        if sampling.top_p == 1 or mass < sampling.top_p or not nucleus:
            nucleus.append(token)
        mass += weights[token] / total
    floor = sampling.min_p * weights[nucleus[0]]
    result = np.zeros(len(logits))
    for token in nucleus:
        if weights[token] >= floor:
            result[token] = weights[token]
    return result / result.sum()


@given(rows_of_logits, st.data())
def test_draws_follow_the_inverse_cdf(logits: list[list[float]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(parameters, min_size=len(logits), max_size=len(logits)))
    uniforms = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=len(logits), max_size=len(logits)))
    drawn = RowSampler(rows, CPU).draw(
        torch.tensor(logits, dtype=torch.float32), torch.tensor(uniforms, dtype=torch.float64)
    )
    for row, token in enumerate(drawn.tolist()):
        if rows[row].temperature == 0:
            assert token == int(np.argmax(logits[row]))
            continue
        wanted = kept_probabilities(np.array(logits[row]), rows[row])
        before, after = wanted[:token].sum(), wanted[: token + 1].sum()
        assert before - 1e-5 <= uniforms[row] <= after + 1e-5
        assert wanted[token] > 0 or rows[row].top_p < 1, "only rounding at the edge of the nucleus may differ"


@given(st.floats(0, 1, exclude_max=True), st.sampled_from([1e-30, 0.5, 100.0]))
def test_masked_tokens_are_never_drawn(uniform: float, temperature: float) -> None:
    logits = torch.full((1, 50), -torch.inf)
    logits[0, [3, 4, 20]] = torch.tensor([1.0, 2.0, -30.0])
    for value in (uniform, 0.0, float(np.nextafter(1, 0))):
        drawn = RowSampler([SamplingParams(temperature=temperature)], CPU).draw(
            logits, torch.tensor([value], dtype=torch.float64)
        )
        assert drawn.item() in (3, 4, 20)


def test_a_broken_row_does_not_touch_the_others() -> None:
    logits = torch.stack([torch.full((6,), torch.nan), torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0, 0.0])])
    sampler = RowSampler([SamplingParams(top_p=0.5, top_k=3, min_p=0.1)] * 2, CPU)
    drawn = sampler.draw(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert 0 <= drawn[0] < 6
    assert drawn[1] == 1


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.7, top_k=4, min_p=0.01)])
def test_frequencies_are_the_probabilities(sampling: SamplingParams) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5, 1.5]])
    uniforms = torch.tensor(np.random.default_rng(0).random(20_000))
    drawn = RowSampler([sampling] * 20_000, CPU).draw(logits.expand(20_000, -1), uniforms)
    frequencies = np.bincount(drawn.numpy(), minlength=6) / 20_000
    np.testing.assert_allclose(frequencies, kept_probabilities(logits[0].double().numpy(), sampling), atol=0.015)
