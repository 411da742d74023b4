"""From confidence to the probability of being right: the fitted map, its thresholds, and the file that keeps them.

Only applying is done here, with numpy alone. `zip_introspect.evaluation.measures.calibrating` fits (extra `eval`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError, model_validator

from zip_introspect.config import Settings
from zip_introspect.errors import CalibrationError, ConfigError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded

FILE_NAME = "zip_introspect_calibration.json"
FORMAT_VERSION = 1

_MAX_FILE_BYTES = 1 << 22
NEAREST = 1e-6  # to 0 and 1, where a logit is taken


class Threshold(Settings):
    """The lowest confidence at which questions are answered, so that few of the answers are wrong."""

    level: float = Field(gt=0.0, lt=1.0, description="Share of wrong answers among those given, at most.")
    delta: float = Field(gt=0.0, lt=1.0, description="Probability, over calibration data, that the level fails.")
    confidence: float | None = Field(description="Answer from here on; None where no threshold holds the level.")
    answered: float = Field(ge=0.0, le=1.0, description="Share of the calibration data that is answered.")


class Calibration(Settings):
    """A monotone map of confidence, fitted to results whose correctness is known.

    Raises:
        CalibrationError: a temperature that is not positive, or knots that do not rise.
    """

    method: Literal["temperature", "isotonic"]
    temperature: float = Field(1.0, gt=0.0, description="Divides the logit of a confidence.")
    confidences: tuple[float, ...] = Field((), description="Knots of the isotonic map, rising.")
    probabilities: tuple[float, ...] = Field((), description="Its value at each knot, never falling.")
    examples: int = Field(ge=1, description="Labelled results that it was fitted to.")
    source: Literal["tokens"] | None = Field(
        None, description="tokens: learnt from confidences of tokens; None: from those of a head, or of agreement."
    )
    thresholds: tuple[Threshold, ...] = ()

    @model_validator(mode="after")
    def _knots(self) -> Self:
        knots, values = np.array(self.confidences), np.array(self.probabilities)
        if self.method == "isotonic" and not (
            0 < len(knots) == len(values)
            and (np.diff(knots) > 0).all()
            and (np.diff(values) >= 0).all()
            and values[0] >= 0
            and values[-1] <= 1
        ):
            raise ValueError("an isotonic map needs knots that rise and as many probabilities that never fall")
        return self

    @classmethod
    def _explain(cls, error: ValidationError) -> ConfigError:
        raise CalibrationError(f"calibration refused: {super()._explain(error)}") from None

    def apply(self, confidence: ArrayLike) -> NDArray[np.float64]:
        """The probability of being right at each confidence, same shape.

        Temperature: sigmoid(logit(c) / T) (Guo et al., 2017). Isotonic: linear between knots, flat beyond them.

        Raises:
            CalibrationError: a confidence outside [0, 1], or NaN.
        """
        given = np.asarray(confidence, dtype=np.float64)
        if not ((given >= 0) & (given <= 1)).all():
            raise CalibrationError("a confidence lies outside [0, 1]; expected what results report")
        if self.method == "isotonic":
            return np.asarray(np.interp(given, self.confidences, self.probabilities))
        clipped = np.clip(given, NEAREST, 1 - NEAREST)
        return np.asarray(1 / (1 + ((1 - clipped) / clipped) ** (1 / self.temperature)))

    def threshold(self, level: float) -> Threshold:
        """The threshold that was chosen for a level of error.

        Raises:
            CalibrationError: none was.
        """
        for item in self.thresholds:
            if np.isclose(item.level, level):
                return item
        chosen = ", ".join(f"{item.level:g}" for item in self.thresholds) or "none"
        raise CalibrationError(f"no threshold was chosen for the level {level:g}; there are: {chosen}. Calibrate anew.")

    def speaks_of(self, source: str | None) -> bool:
        """Whether it was learnt from confidences that rest on a source, as results name theirs."""
        return (self.source == "tokens") == (source == "tokens")

    def check_fits(self, grid: JointGrid) -> None:
        """Check that what a model reports are confidences.

        Raises:
            CalibrationError: rewards below 0 or above 1.
        """
        lowest, highest = grid.reward_values[0], grid.reward_values[-1]
        if not (lowest >= 0 and highest <= 1):
            raise CalibrationError(
                f"the grid's rewards go from {lowest:g} to {highest:g}; a calibration needs confidences from 0 to 1. "
                f"Open the model without it."
            )

    @classmethod
    def beside(cls, model: str | Path) -> Self | None:
        """The calibration in a model's directory, or in that of its file; None where there is none.

        Raises:
            CalibrationError: as `load`.
        """
        path = expanded(Path(model))
        file = (path if path.is_dir() else path.parent) / FILE_NAME
        return cls.load(file) if path.exists() and file.is_file() else None

    def save(self, path: str | Path) -> Path:
        """Write it to a file, or into a directory under its usual name; the file."""
        file = _file_of(path)
        content = {"format_version": FORMAT_VERSION, **self.model_dump(mode="json")}
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return file

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it from a file, or from a directory that holds one.

        Raises:
            CalibrationError: missing, too large, not JSON, of a newer version, or malformed.
        """
        file = _file_of(path)
        try:
            if file.stat().st_size > _MAX_FILE_BYTES:
                raise CalibrationError(f"{file} is too large for a calibration; is it another file?")
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CalibrationError(f"{file} does not exist; make it with: zip-introspect calibrate") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CalibrationError(f"{file} is not readable JSON: {error}") from error
        if not isinstance(content, dict) or content.pop("format_version", None) != FORMAT_VERSION:
            raise CalibrationError(
                f"{file} is no calibration of format {FORMAT_VERSION}; fit it again, or upgrade zip-introspect"
            )
        return cls(**content)


def _file_of(path: str | Path) -> Path:
    path = expanded(Path(path))
    return path / FILE_NAME if path.is_dir() else path
