"""The order of training rows: all of them, alike within a batch, in no order of length between batches."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.training.batching import ShuffledLengthSampler


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 100))
def test_every_row_comes_once_and_a_seed_fixes_the_order(rows: int, batch_size: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 500, rows).tolist()
    sampler = ShuffledLengthSampler(lengths, batch_size, seed=seed)
    assert sorted(sampler) == list(range(rows))
    assert list(sampler) == list(sampler)
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(rows))


def test_batches_are_even_inside_and_shuffled_between() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 1600)
    order = list(ShuffledLengthSampler(lengths.tolist(), 16, seed=0))
    batches = lengths[order].reshape(100, 16)
    assert np.ptp(batches, axis=1).mean() < 25
    assert abs(np.corrcoef(np.arange(100), batches.mean(1))[0, 1]) < 0.3
    assert np.abs(np.diff(batches.mean(1))).mean() > 50
