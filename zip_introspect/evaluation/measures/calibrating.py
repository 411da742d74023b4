"""Fitting a `Calibration`, and choosing thresholds whose error holds with a finite-sample guarantee."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.isotonic import IsotonicRegression

from zip_introspect.errors import CalibrationError
from zip_introspect.introspection.calibration import NEAREST, Calibration, Threshold

LEVELS = (0.01, 0.05, 0.1)
# Thresholds that are tested, and how many lie between two starts of a sequence of tests: in logits, as confidences
# crowd near 1 where the answers that may be given are.
_GRID = expit(np.arange(12.0, -6.01, -0.05))
_BETWEEN_STARTS = 20
_LONGEST = 5.0  # of log T: temperatures from 0.007 to 148


def fit(
    confidences: ArrayLike,
    right: ArrayLike,
    method: str = "isotonic",
    *,
    levels: Sequence[float] = LEVELS,
    delta: float = 0.1,
) -> Calibration:
    """A calibration of labelled results, with a threshold for each level of error.

    Args:
        confidences: shape (n,), in [0, 1].
        right: shape (n,), 0 or 1.
        method: temperature (one number; for few results) or isotonic (any rising map; from some hundred on).
        delta: probability, over the drawing of the results, that a level does not hold.

    Raises:
        CalibrationError: shapes that differ, values out of range, fewer than two results, or only right or wrong ones.
    """
    check(method, levels, delta)
    given, labels = _checked(confidences, right)
    thresholds = tuple(choose_threshold(given, labels, level, delta) for level in levels)
    if method == "temperature":
        temperature = _temperature(given, labels)
        return Calibration(method="temperature", temperature=temperature, examples=len(given), thresholds=thresholds)
    regression = IsotonicRegression(y_min=0.0, y_max=1.0).fit(given, labels)
    knots, values = regression.X_thresholds_, regression.y_thresholds_
    return Calibration(
        method="isotonic",
        confidences=tuple(knots.tolist()),
        probabilities=tuple(values.tolist()),
        examples=len(given),
        thresholds=thresholds,
    )


def check(method: str, levels: Sequence[float], delta: float) -> None:
    """Refuse what `fit` cannot do, before results are gathered for it; raises `CalibrationError`."""
    if method not in ("temperature", "isotonic"):
        raise CalibrationError(f"method is {method!r}; expected temperature or isotonic")
    for level in levels:
        if not (0 < level < 1 and 0 < delta < 1):
            raise CalibrationError(f"level is {level:g} and delta {delta:g}; expected both between 0 and 1")


def choose_threshold(confidences: ArrayLike, right: ArrayLike, level: float, delta: float) -> Threshold:
    """The lowest confidence from which on answers are wrong at most at a rate of `level`, but for probability `delta`.

    Learn then Test (Angelopoulos et al., 2021) with fixed-sequence testing from several starts. A threshold's
    hypothesis is that the error of what it answers exceeds `level`; given how many it answers, wrong answers are
    binomial, so the exact tail is a p-value. From each start the tests go on to lower thresholds while they reject,
    and the starts share `delta` (Bonferroni). The thresholds are fixed beforehand, so nothing is fitted to the data.
    """
    given, labels = _checked(confidences, right)
    check("isotonic", [level], delta)
    answered = (given >= _GRID[:, None]).sum(1)
    wrong = ((given >= _GRID[:, None]) & (labels == 0)).sum(1)
    starts = range(0, len(_GRID), _BETWEEN_STARTS)
    holds = binom.cdf(wrong, answered, level) <= delta / len(starts)
    best = max((place for start in starts if (place := _last_of_run(holds, start)) is not None), default=None)
    return Threshold(
        level=level,
        delta=delta,
        confidence=None if best is None else float(_GRID[best]),
        answered=0.0 if best is None else float(answered[best] / len(given)),
    )


def _last_of_run(holds: NDArray[np.bool_], start: int) -> int | None:
    """The last place of the unbroken run of rejections from a start on."""
    broken = np.flatnonzero(~holds[start:])
    length = int(broken[0]) if broken.size else len(holds) - start
    return start + length - 1 if length else None


def _temperature(confidences: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The temperature of the highest likelihood (Guo et al., 2017)."""
    logits = logit(np.clip(confidences, NEAREST, 1 - NEAREST))
    signed = np.where(right > 0, -logits, logits)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, signed / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-_LONGEST, _LONGEST), method="bounded").x))


def _checked(confidences: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    given, labels = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if given.ndim != 1 or given.shape != labels.shape or len(given) < 2:
        raise CalibrationError(
            f"{given.shape} confidences with {labels.shape} labels; expected two lists of the same length, 2 or more"
        )
    if not ((given >= 0) & (given <= 1)).all() or not np.isin(labels, (0, 1)).all():
        raise CalibrationError("expected confidences in [0, 1] and labels that are 0 or 1")
    if labels.min() == labels.max():
        raise CalibrationError(
            f"all {len(labels)} results are {'right' if labels[0] else 'wrong'}; expected some of both. Add harder or "
            "easier questions."
        )
    return given, labels
