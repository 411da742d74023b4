"""Every error this library raises on purpose. A message says what was given, what was expected and the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zip_introspect.result import GenerationResult


class ZipIntrospectError(Exception):
    """The root: catch it to catch all of the below."""


class GridError(ZipIntrospectError):
    """A grid that is missing, malformed, or at odds with the arrays it is applied to."""


class ReservedTokensError(ZipIntrospectError):
    """A model whose vocabulary cannot hold the grid's reserved tokens."""


class HeadError(ZipIntrospectError):
    """Joints are asked of a model that has no head, or a head that cannot be read, or is another model's."""


class ModelLoadError(ZipIntrospectError):
    """A model directory or file that is missing, truncated, foreign, or of an unsupported version."""


class BackendNotInstalledError(ZipIntrospectError):
    """A backend whose package is absent; the message prints the pip command."""


class BackendError(ZipIntrospectError):
    """A backend that cannot do what was asked: out of memory, too many sequences, released sequences.

    `partial` holds what was generated before, one result a prompt.
    """

    def __init__(self, message: str, partial: list[GenerationResult] | None = None) -> None:
        super().__init__(message)
        self.partial = partial or []


class NonFiniteLogitsError(BackendError):
    """NaN or infinite logits in mid-run."""


class PromptError(ZipIntrospectError, ValueError):
    """An empty prompt, one longer than the context, or messages that the chat template refuses or leaves out."""


class ConfigError(ZipIntrospectError, ValueError):
    """A setting out of its range, or two that contradict each other."""


class BudgetError(ConfigError):
    """A budget that is zero, negative, or contradictory."""


class EscalationError(ZipIntrospectError):
    """A ladder in which no model answered, or none was sure enough. `partial` holds the best answer."""

    def __init__(self, message: str, partial: Any = None) -> None:
        super().__init__(message)
        self.partial = partial
        """A `GenerationResult`; of a chat model, a message."""


class CalibrationError(ZipIntrospectError):
    """A calibration that cannot be fitted or applied."""


class TrainingDataError(ZipIntrospectError):
    """Rollouts, labels or questions that training cannot use."""


class EvaluationDataError(ZipIntrospectError):
    """Rollouts or data sets that cannot be evaluated."""
