"""Applying a calibration, its file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.errors import CalibrationError
from zip_introspect.introspection.calibration import FILE_NAME, Calibration, Threshold

CONFIDENCES = st.lists(st.floats(0, 1), min_size=1, max_size=20)
ISOTONIC = Calibration(
    method="isotonic",
    confidences=(0.2, 0.5, 0.9),
    probabilities=(0.1, 0.1, 0.8),
    examples=50,
    thresholds=(Threshold(level=0.05, delta=0.1, confidence=0.7, answered=0.4),),
)


@given(CONFIDENCES, st.floats(0.05, 20))
def test_a_temperature_keeps_the_order_the_half_and_the_range(values: list[float], temperature: float) -> None:
    calibration = Calibration(method="temperature", temperature=temperature, examples=9)
    ordered = np.sort(values)
    found = calibration.apply(ordered)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()
    assert calibration.apply(0.5) == pytest.approx(0.5)


@given(CONFIDENCES)
def test_a_temperature_of_one_changes_nothing(values: list[float]) -> None:
    np.testing.assert_allclose(Calibration(method="temperature", examples=9).apply(values), values, atol=2e-6)


def test_temperature_is_the_sigmoid_of_the_logit_divided() -> None:
    found = Calibration(method="temperature", temperature=2.5, examples=9).apply([0.9, 0.3])
    logits = np.log(np.array([0.9, 0.3]) / np.array([0.1, 0.7]))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits / 2.5)), rtol=1e-12)


def test_isotonic_is_linear_between_knots_and_flat_beyond_them() -> None:
    found = ISOTONIC.apply([[0.0, 0.2, 0.35], [0.7, 0.9, 1.0]])
    np.testing.assert_allclose(found, [[0.1, 0.1, 0.1], [0.45, 0.8, 0.8]])


@pytest.mark.parametrize("confidence", [1.1, -0.1, float("nan"), [0.5, 2.0]])
def test_a_confidence_out_of_range_is_refused(confidence: Any) -> None:
    with pytest.raises(CalibrationError, match=r"outside \[0, 1\]"):
        ISOTONIC.apply(confidence)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "temperature", "temperature": 0.0},
        {"method": "temperature", "temperature": float("nan")},
        {"method": "temperature", "examples": 0},
        {"method": "hope"},
        {"method": "isotonic"},
        {"method": "isotonic", "confidences": (0.1, 0.1), "probabilities": (0.1, 0.2)},
        {"method": "isotonic", "confidences": (0.1, 0.2), "probabilities": (0.3, 0.2)},
        {"method": "isotonic", "confidences": (0.1, 0.2), "probabilities": (0.3, 1.2)},
        {"method": "isotonic", "confidences": (0.1,), "probabilities": (0.3, 0.4)},
    ],
)
def test_a_map_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError, match="calibration refused"):
        Calibration(**{"examples": 5, **fields})


def test_a_file_brings_back_what_was_saved(tmp_path: Path) -> None:
    assert ISOTONIC.save(tmp_path) == tmp_path / FILE_NAME
    assert Calibration.load(tmp_path) == Calibration.load(tmp_path / FILE_NAME) == ISOTONIC


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not readable JSON"),
        ("[]", "no calibration of format 1"),
        ("{}", "no calibration of format 1"),
        (json.dumps({"format_version": 2}), "no calibration of format 1"),
        (json.dumps({"format_version": 1, "method": "temperature"}), "examples"),
        (json.dumps({"format_version": 1, "method": "temperature", "examples": 1, "more": 1}), "more"),
        ("[" * 100_000, "not readable JSON"),
    ],
)
def test_a_file_that_is_none_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(CalibrationError, match=reason):
        Calibration.load(tmp_path)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="zip-introspect calibrate"):
        Calibration.load(tmp_path)


def test_a_threshold_is_found_by_its_level() -> None:
    assert ISOTONIC.threshold(0.05).confidence == 0.7
    with pytest.raises(CalibrationError, match=r"level 0\.01; there are: 0\.05"):
        ISOTONIC.threshold(0.01)
