"""Drawing tokens, against a plain loop over the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zip_introspect.config import COLDEST, SamplingParams
from zip_introspect_llama_cpp.sampling import NumpySampler
from zip_introspect_transformers.sampling import TorchSampler, _inverse_cdf

CPU = torch.device("cpu")
VOCABULARY = 9

parameters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    top_k=st.integers(0, VOCABULARY + 2),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.1]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)
# Far enough apart that float32 tells them apart after the highest is subtracted: equals are all among the best k.
apart = st.integers(-6 * 256, 6 * 256).map(lambda number: number / 256)
rows_of_logits = st.lists(
    st.lists(apart, min_size=VOCABULARY, max_size=VOCABULARY, unique=True), min_size=1, max_size=5
)


def kept_probabilities(logits: NDArray[np.float64], sampling: SamplingParams) -> NDArray[np.float64]:
    """The filters one after another, a token at a time."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    weights = {token: np.exp((logits[token] - logits[order[0]]) / sampling.temperature) for token in order}
    kept = order[: sampling.top_k] if sampling.top_k else order
    total, mass = sum(weights[token] for token in kept), 0.0
    nucleus: list[int] = []
    for token in kept:
        if sampling.top_p == 1 or mass < sampling.top_p or not nucleus:
            nucleus.append(token)
        mass += weights[token] / total
    floor = sampling.min_p * weights[nucleus[0]]
    result = np.zeros(len(logits))
    for token in nucleus:
        if weights[token] >= floor:
            result[token] = weights[token]
    return result / result.sum()  # type: ignore[no-any-return]


@given(rows_of_logits, st.data())
def test_draws_follow_the_inverse_cdf(logits: list[list[float]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(parameters, min_size=len(logits), max_size=len(logits)))
    uniforms = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=len(logits), max_size=len(logits)))
    drawn = TorchSampler(rows, CPU).draw(
        torch.tensor(logits, dtype=torch.float32), torch.tensor(uniforms, dtype=torch.float64)
    )
    for row, token in enumerate(drawn.tolist()):
        if rows[row].greedy:
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
        drawn = TorchSampler([SamplingParams(temperature=temperature)], CPU).draw(
            logits, torch.tensor([value], dtype=torch.float64)
        )
        assert drawn.item() in (3, 4, 20)


def test_a_broken_row_does_not_touch_the_others() -> None:
    logits = torch.stack([torch.full((6,), torch.nan), torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0, 0.0])])
    sampler = TorchSampler([SamplingParams(top_p=0.5, top_k=3, min_p=0.1)] * 2, CPU)
    drawn = sampler.draw(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert 0 <= drawn[0] < 6
    assert drawn[1] == 1


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.7, top_k=4, min_p=0.01)])
def test_frequencies_are_the_probabilities(sampling: SamplingParams) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5, 1.5]])
    uniforms = torch.tensor(np.random.default_rng(0).random(20_000))
    drawn = TorchSampler([sampling] * 20_000, CPU).draw(logits.expand(20_000, -1), uniforms)
    frequencies = np.bincount(drawn.numpy(), minlength=6) / 20_000
    np.testing.assert_allclose(frequencies, kept_probabilities(logits[0].double().numpy(), sampling), atol=0.015)


# Extremes, in every backend

RESERVED = slice(5, VOCABULARY)
"""Masked, and the last of the vocabulary: where an index that is out of its range would end up."""
LOWEST, HIGHEST = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)
ROUNDING = 8 * float(
    np.finfo(np.float32).eps
)  # two exponentials, each within 2 units of the last place, and a quotient
_below = float(np.nextafter(1, 0))

temperatures = st.floats(0, 100) | st.sampled_from([5e-324, 1e-46, 1e-45, COLDEST / 2, COLDEST, 1e-30, 1e-3, 1.0])
extremes = st.builds(
    SamplingParams,
    temperature=temperatures,
    top_k=st.integers(0, VOCABULARY + 2),
    top_p=st.floats(5e-324, 1) | st.sampled_from([5e-324, 1e-46, 1e-9, _below, 1.0]),
    min_p=st.floats(0, 1) | st.sampled_from([0.0, 5e-324, 1e-46, _below, 1.0]),
)
extreme_logits = st.lists(
    st.sampled_from([-np.inf, LOWEST, -1.0, 0.0, 1.0, np.nextafter(1, 2, dtype=np.float32), 88.0, HIGHEST])
    | st.floats(-100, 100, width=32),
    min_size=RESERVED.start,
    max_size=RESERVED.start,
).filter(lambda row: max(row) > -np.inf)
extreme_uniforms = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, _below])
batches = st.lists(st.tuples(extremes, extreme_logits, extreme_uniforms), min_size=1, max_size=4)


def drawn_by_each(batch: list[tuple[SamplingParams, list[float], float]]) -> tuple[list[int], list[int]]:
    """What the samplers of transformers and of llama.cpp draw, reserved ids masked."""
    rows = [sampling for sampling, _, _ in batch]
    logits = np.full((len(batch), VOCABULARY), -np.inf, np.float32)
    logits[:, : RESERVED.start] = [row for _, row, _ in batch]
    uniforms = [uniform for _, _, uniform in batch]
    one = TorchSampler(rows, CPU).draw(torch.from_numpy(logits), torch.tensor(uniforms, dtype=torch.float64))
    other = NumpySampler(rows).draw(logits.copy(), logits.max(-1, keepdims=True), uniforms)
    return one.tolist(), other


@given(batches)
def test_no_setting_draws_a_masked_token(batch: list[tuple[SamplingParams, list[float], float]]) -> None:
    for drawn in drawn_by_each(batch):
        for token, (sampling, logits, _) in zip(drawn, batch, strict=True):
            assert 0 <= token < RESERVED.start
            assert logits[token] > -np.inf
            if sampling.greedy:
                assert token == int(np.argmax(logits))


@given(batches)
def test_the_backends_draw_the_same_token(batch: list[tuple[SamplingParams, list[float], float]]) -> None:
    for one, other, (sampling, logits, uniform) in zip(*drawn_by_each(batch), batch, strict=True):
        assert one == other or on_an_edge(sampling, np.array(logits, np.float32), uniform)


def on_an_edge(sampling: SamplingParams, logits: NDArray[np.float32], uniform: float) -> bool:
    """Whether rounding decides what is drawn: a uniform at the border of two tokens, a token at that of a filter."""
    with np.errstate(over="ignore"):
        scaled = (logits - logits.max()) / np.float32(sampling.temperature)
    weights = np.exp(scaled.astype(np.float64))
    if 0 < sampling.top_k < VOCABULARY:
        padded = np.concatenate([scaled, np.full(VOCABULARY - len(scaled), -np.inf, np.float32)])
        weights[scaled < np.sort(padded)[-sampling.top_k]] = 0.0
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        before /= weights.sum()
        if np.abs(before[1:] - sampling.top_p).min() < ROUNDING:
            return True
        weights[order[1:][before[1:] >= sampling.top_p]] = 0.0
    if np.abs(weights - sampling.min_p).min() < ROUNDING:
        return True
    weights[weights < sampling.min_p] = 0.0
    borders = np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])
    return bool(np.abs(borders - uniform).min() < ROUNDING)


def test_below_the_coldest_temperature_nothing_is_drawn() -> None:
    assert [SamplingParams(temperature=value).greedy for value in (0.0, 5e-324, 1e-46, COLDEST / 2)] == [True] * 4
    assert not SamplingParams(temperature=COLDEST).greedy
    logits = [0.0, 3.0, 3.0, -np.inf, 1.0]
    assert drawn_by_each([(SamplingParams(temperature=1e-46), logits, 0.9)]) == ([1], [1])


def test_a_share_that_rounding_made_of_nothing_is_not_drawn() -> None:
    """Sums made in parallel can rise where nothing was added; the sampler looks at the weight, not at the sum."""
    weights = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    rounded = torch.tensor([[0.5, 1.0, 1.0 + 2**-52, 1.0 + 2**-52]], dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cumsum", lambda *_, **__: rounded)
        assert _inverse_cdf(weights, torch.tensor([_below], dtype=torch.float64)).item() in (0, 1)


@pytest.mark.parametrize("size", [511, 512, 513, 5_000])
@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(min_p=0.2), SamplingParams(top_k=40)])
def test_a_large_vocabulary_is_drawn_from_as_a_running_sum_would(size: int, sampling: SamplingParams) -> None:
    rng = np.random.default_rng(size)
    logits = rng.normal(scale=4.0, size=(1, size)).astype(np.float32)
    expected = np.exp(logits[0] - logits.max())
    if sampling.min_p:
        expected[expected < np.float32(sampling.min_p)] = 0.0
    if sampling.top_k:
        expected[expected < np.sort(expected)[-sampling.top_k]] = 0.0
    sums = np.cumsum(expected, dtype=np.float64)
    sampler = NumpySampler([sampling])
    for uniform in (0.0, 0.5, 1 - 2**-53, *rng.random(200)):
        (drawn,) = sampler.draw(logits, logits.max(-1, keepdims=True), [uniform])
        assert expected[drawn] > 0
        assert (sums[drawn] - expected[drawn]) / sums[-1] - 1e-9 <= uniform <= sums[drawn] / sums[-1] + 1e-9
