"""From confidence to the probability of being right: the fitted map, its thresholds, and the file that keeps them.

Only applying is done here, with numpy alone. `zip_introspect.evaluation.measures.calibrating` fits (extra `eval`).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError, model_validator

from zip_introspect.config import Settings
from zip_introspect.errors import CalibrationError, ConfigError
from zip_introspect.introspection.beside import BesideModel
from zip_introspect.introspection.grid import JointGrid

FILE_NAME = "zip_introspect_calibration.json"
NEAREST = 1e-6  # to 0 and 1, where a logit is taken


class Threshold(Settings):
    """The lowest confidence at which questions are answered, so that few of the answers are wrong."""

    level: float = Field(gt=0.0, lt=1.0, description="Share of wrong answers among those given, at most.")
    delta: float = Field(gt=0.0, lt=1.0, description="Probability, over calibration data, that the level fails.")
    confidence: float | None = Field(description="Answer from here on; None where no threshold holds the level.")
    answered: float = Field(ge=0.0, le=1.0, description="Share of the calibration data that is answered.")


class Calibration(BesideModel):
    """A monotone map of confidence, fitted to results whose correctness is known.

    Raises:
        CalibrationError: a temperature that is not positive, or knots that do not rise.
    """

    file_name: ClassVar[str] = FILE_NAME
    what: ClassVar[str] = "a calibration"
    made_by: ClassVar[str] = "zip-introspect calibrate"

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
