"""The random streams: any slice of a stream is the stream, and streams of different numbers are different."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.backend.streams import prompt_seed, uniforms

seeds = st.integers(-(2**70), 2**70)
samples = st.integers(0, 2**40)


@given(seeds, samples, st.integers(0, 10_000), st.integers(0, 40))
def test_any_slice_is_the_stream(seed: int, sample: int, start: int, count: int) -> None:
    whole = uniforms(seed, sample, 0, start + count) if start < 200 else uniforms(seed, sample, start - 7, count + 7)
    np.testing.assert_array_equal(uniforms(seed, sample, start, count), whole[whole.size - count :])


@given(seeds, samples, st.lists(st.integers(0, 9), max_size=8))
def test_intervals_join_up(seed: int, sample: int, steps: list[int]) -> None:
    parts = [uniforms(seed, sample, sum(steps[:index]), count) for index, count in enumerate(steps)]
    np.testing.assert_array_equal(np.concatenate([[], *parts]), uniforms(seed, sample, 0, sum(steps)))


@given(seeds, samples, st.integers(0, 10**6))
def test_draws_lie_in_the_unit_interval(seed: int, sample: int, start: int) -> None:
    draws = uniforms(seed, sample, start, 50)
    assert draws.shape == (50,)
    assert draws.dtype == np.float64
    assert ((draws >= 0) & (draws < 1)).all()


def test_streams_are_all_different() -> None:
    firsts = {uniforms(seed, sample, 0, 4).tobytes() for seed in range(-20, 20) for sample in range(40)}
    assert len(firsts) == 40 * 40


def test_draws_are_uniform_and_unrelated() -> None:
    draws = np.stack([uniforms(5, sample, 0, 1000) for sample in range(40)])
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    chi_squared = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_squared < 43.8  # 0.999 quantile, 19 degrees of freedom
    correlations = np.corrcoef(draws) - np.eye(40)
    assert np.abs(correlations).max() < 0.15


def test_a_stream_is_the_same_in_every_release() -> None:
    assert uniforms(0, 0, 0, 2).round(12).tolist() == [0.011546754286, 0.241549196563]


@given(seeds, st.lists(st.integers(0, 200_000), min_size=1, max_size=8), st.integers(0, 200_000))
def test_prompts_do_not_share_their_luck(seed: int, tokens: list[int], other: int) -> None:
    own = prompt_seed(seed, tokens)
    assert own == prompt_seed(seed, tuple(tokens))
    assert 0 <= own < 2**63
    assert len({own, prompt_seed(seed, [*tokens, other]), prompt_seed(seed + 1, tokens)}) == 3
