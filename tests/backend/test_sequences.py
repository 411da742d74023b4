"""The books of a backend: whatever the steps a sample is advanced by, its draws are those of its stream."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.backend.sequences import Sample, draws
from zip_introspect.backend.streams import uniforms
from zip_introspect.config import SamplingParams


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 500))
def test_draws_are_the_streams_whatever_the_pieces(pieces: list[int], number: int, start: int) -> None:
    sample = Sample([1], SamplingParams(seed=3), number, start)
    found = []
    for piece in pieces:
        found.append(sample.draws(piece))
        sample.step += piece
    np.testing.assert_array_equal(np.concatenate(found), uniforms(3, number, start, sum(pieces)))


def test_a_sample_that_is_taken_back_draws_the_same_again() -> None:
    sample = Sample([1], SamplingParams(seed=3), 0, 700)
    first = sample.draws(20)
    sample.step = 690
    np.testing.assert_array_equal(sample.draws(30)[10:], first)


def test_rows_are_as_long_as_the_longest_and_greedy_ones_draw_nothing() -> None:
    samples = [Sample([1], SamplingParams(seed=1), 2), Sample([1], SamplingParams(temperature=0.0)), Sample([1])]
    table = draws(samples, [2, 5, 3])
    assert table.shape == (3, 5)
    np.testing.assert_array_equal(table[0], [*uniforms(1, 2, 0, 2), 0, 0, 0])
    assert not table[1:].any()
