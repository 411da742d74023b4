"""Fitting: what is miscalibrated is mended, and a stated level of error holds as often as is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest

from zip_introspect.errors import CalibrationError
from zip_introspect.evaluation.measures.calibrating import choose_threshold, fit
from zip_introspect.evaluation.measures.metrics import expected_calibration_error

Drawn = tuple[NDArray[np.float64], NDArray[np.float64]]


def overconfident(count: int, seed: int, temperature: float = 3.0) -> Drawn:
    """Confidences that are `temperature` times too far from a half, in logits, and what came true."""
    rng = np.random.default_rng(seed)
    honest = rng.beta(1.2, 0.6, count)
    return expit(temperature * logit(np.clip(honest, 1e-4, 1 - 1e-4))), (rng.uniform(size=count) < honest).astype(float)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_what_was_overconfident_is_calibrated_on_new_results(method: str) -> None:
    calibration = fit(*overconfident(4000, 0), method)
    confidences, right = overconfident(20_000, 1)
    before = expected_calibration_error(right, confidences)
    after = expected_calibration_error(right, calibration.apply(confidences))
    assert before > 0.1
    assert after < 0.02
    assert calibration.examples == 4000


def test_the_temperature_is_the_one_that_was_put_in() -> None:
    assert fit(*overconfident(50_000, 2), "temperature").temperature == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize(("level", "count"), [(0.05, 3000), (0.15, 600)])
def test_the_level_fails_at_most_as_often_as_stated(level: float, count: int) -> None:
    """The error of what a threshold answers is known here without a test set: it is the mean of 1 - honest."""
    delta, trials, failures, answered = 0.2, 300, 0, []
    large, _ = overconfident(200_000, 99)
    honest = expit(logit(np.clip(large, 1e-9, 1 - 1e-9)) / 3.0)
    for seed in range(trials):
        found = choose_threshold(*overconfident(count, seed), level, delta)
        answered.append(found.answered)
        if found.confidence is not None:
            failures += float((1 - honest[large >= found.confidence]).mean()) > level
    assert binomtest(failures, trials, delta, alternative="greater").pvalue > 0.01
    assert np.mean(answered) > 0.15, "a guarantee that answers nothing is none"


def test_more_results_or_a_looser_level_answer_more() -> None:
    shares = [choose_threshold(*overconfident(count, 3), 0.1, 0.1).answered for count in (200, 20_000)]
    assert shares[0] < shares[1]
    shares = [choose_threshold(*overconfident(5000, 3), level, 0.1).answered for level in (0.05, 0.1, 0.2)]
    assert shares == sorted(shares)


def test_where_no_threshold_holds_none_is_chosen() -> None:
    rng = np.random.default_rng(0)
    found = choose_threshold(rng.uniform(size=500), rng.uniform(size=500) < 0.5, 0.05, 0.1)
    assert found.confidence is None
    assert found.answered == 0


@pytest.mark.parametrize(
    ("confidences", "right", "reason"),
    [
        ([0.5], [1], "2 or more"),
        ([0.5, 0.6], [1], "same length"),
        ([0.5, 1.6], [1, 0], r"in \[0, 1\]"),
        ([0.5, float("nan")], [1, 0], r"in \[0, 1\]"),
        ([0.5, 0.6], [1, 0.5], "0 or 1"),
        ([0.5, 0.6], [1, 1], "all 2 results are right"),
        ([0.5, 0.6], [0, 0], "all 2 results are wrong"),
    ],
)
def test_results_that_teach_nothing_are_refused(confidences: Any, right: Any, reason: str) -> None:
    with pytest.raises(CalibrationError, match=reason):
        fit(confidences, right)


def test_a_method_and_a_level_that_are_none_are_refused() -> None:
    with pytest.raises(CalibrationError, match="method is 'hope'"):
        fit([0.2, 0.8], [0, 1], "hope")
    with pytest.raises(CalibrationError, match=r"level is 1\.5"):
        fit([0.2, 0.8], [0, 1], levels=[1.5])
