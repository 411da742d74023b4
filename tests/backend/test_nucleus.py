"""The nucleus against its definition: a full sort, then the fewest tokens that reach the share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from zip_introspect.backend.nucleus import nucleus

LOGITS = st.lists(st.sampled_from([0.0, -0.5, -1.0, -6.0, -7.5, -13.0, -15.0, -40.0]), min_size=1, max_size=60)


def by_sorting(weights: NDArray[np.float32], share: float) -> list[int]:
    order = sorted(range(weights.size), key=lambda token: (-weights[token], token))
    kept: list[int] = []
    mass = 0.0
    for token in order:
        if kept and mass >= share:
            break
        kept.append(token)
        mass += float(weights[token]) / float(weights.sum(dtype=np.float64))
    return sorted(kept)


@given(LOGITS, st.floats(1e-6, 0.999))
def test_it_is_what_a_full_sort_gives(logits: list[float], share: float) -> None:
    weights = np.exp(np.array(logits, np.float32))
    mass = np.cumsum(np.sort(weights)[::-1] / weights.sum(dtype=np.float64))
    if np.abs(mass - share).min() > 1e-6:  # where sums in another order may fall on the other side
        assert nucleus(weights, share).tolist() == by_sorting(weights, share)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.999999])
def test_flat_and_steep_distributions_of_a_large_vocabulary(share: float) -> None:
    rng = np.random.default_rng(0)
    for scale in (0.0, 0.1, 3.0, 30.0):
        logits = rng.normal(scale=scale, size=20_000).astype(np.float32)
        weights = np.exp(logits - logits.max())
        kept = nucleus(weights, share)
        reached = weights[kept].sum(dtype=np.float64) / weights.sum(dtype=np.float64)
        least = weights[kept].min() / weights.sum(dtype=np.float64)
        assert reached >= share - 1e-6
        assert reached - least < share + 1e-6
        assert weights[kept].min() >= np.delete(weights, kept).max(initial=0.0)


def test_the_likeliest_is_always_kept() -> None:
    assert nucleus(np.array([0.2, 1.0, 1.0], np.float32), 1e-9).tolist() == [1]
