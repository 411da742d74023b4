"""When a question is handed on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from zip_introspect.config import Settings
from zip_introspect.errors import CalibrationError
from zip_introspect.introspection.calibration import Calibration


class EscalationPolicy(Settings):
    """When a question is handed on, and what is given when no model is sure enough. Criteria add up: any one suffices.

    Raises:
        ConfigError: no criterion at all, or two that contradict each other.
    """

    min_confidence: float | None = Field(
        None, ge=0.0, le=1.0, description="Hand on answers whose confidence is below this."
    )
    max_error: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Hand on so that at most this share of the answers that are not is wrong: the threshold of the "
        "model's calibration for this level.",
    )
    expected_utility: bool = Field(
        False,
        description="Weigh handing on at every decision: the reward expected of a stronger model less its cost.",
    )
    min_prompt_confidence: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Hand on before the first token where less than this is expected at the prompt.",
    )
    otherwise: Literal["return_best", "abstain", "raise"] = Field(
        "return_best", description="Where no model is sure enough: the best answer with a warning, none, or an error."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        criteria = (self.min_confidence, self.max_error, self.min_prompt_confidence, self.expected_utility or None)
        if not any(item is not None for item in criteria):
            raise ValueError(
                "nothing says when to hand on; give min_confidence, max_error, min_prompt_confidence or "
                "expected_utility=True"
            )
        if self.min_confidence is not None and self.max_error is not None:
            raise ValueError("min_confidence and max_error are both thresholds on confidence; give one of them")
        return self

    def threshold(self, calibration: Calibration | None) -> float | None:
        """The confidence from which a model's answers are taken; None where confidence does not decide.

        Raises:
            CalibrationError: `max_error` without a calibration, or at a level that no threshold holds.
        """
        if self.max_error is None:
            return self.min_confidence
        if calibration is None:
            raise CalibrationError(
                f"max_error={self.max_error:g} needs a calibration of the model, and it has none. Make one with: "
                f"zip-introspect calibrate QUESTIONS --model MODEL"
            )
        found = calibration.threshold(self.max_error)
        if found.confidence is None:
            raise CalibrationError(
                f"no threshold holds the error at {self.max_error:g} with a probability of {1 - found.delta:g}. Allow "
                f"a higher level, calibrate with more results, or give min_confidence"
            )
        return found.confidence
