"""What rollouts are worth, and what their bins stand for."""

from __future__ import annotations

import numpy as np

from zip_introspect.training.values import calibrated


def test_values_are_calibrated_and_those_of_cut_rollouts_are_zero() -> None:
    rng = np.random.default_rng(0)
    honest = rng.uniform(size=20_000)
    rewards = (rng.uniform(size=honest.size) < honest).astype(float)
    finished = rng.uniform(size=honest.size) < 0.9
    rewards[~finished] = 0.0
    values = calibrated(honest**4, finished, rewards)  # the fourth power: a head far too pessimistic
    assert np.abs(values - honest)[finished].mean() < 0.03
    assert not values[~finished].any()
