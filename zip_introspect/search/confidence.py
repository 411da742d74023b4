"""How sure the model is of the sample that was chosen: by its own expectation, by how many others say the same, or by
how likely it found the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zip_introspect import strategies
from zip_introspect.answers.agreement import agreement
from zip_introspect.answers.extraction import key
from zip_introspect.backend.contract import Backend
from zip_introspect.config import GenerationConfig
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.result import ConfidenceSource, GenerationResult, SampleResult

UNCALIBRATED = (
    "the confidence is how likely the model found its own words, which is no probability of being right; learn what it "
    "means with: zip-introspect calibrate QUESTIONS --confidence-source tokens"
)
OF_ANOTHER_SOURCE = (
    "the calibration is of the confidences of tokens, and so says nothing of this one: ask with "
    "confidence_source='tokens', or calibrate anew"
)


def confidence(chosen: SampleResult, samples: Sequence[SampleResult], source: ConfidenceSource) -> float:
    """Of the chosen sample: its final value, its likelihood, or how far the samples that ended agree with it."""
    if source == "head" and chosen.value is not None:
        return chosen.value
    if source == "tokens" and chosen.token_confidence is not None:
        return chosen.token_confidence.likelihood
    others = [_said(sample) for sample in samples if sample.status == "finished" and sample is not chosen]
    return agreement(_said(chosen), others)


def calibration_of(backend: Backend, config: GenerationConfig) -> Calibration | None:
    """What a model's head says that confidence means after a search with these settings; None where nobody does."""
    if backend.head is None or config.confidence_source == "agreement":  # of which a head's file says nothing
        return None
    strategy = strategies.chosen(config, joints=True)
    asked = config.selection is not None or config.confidence_source == "head"
    if (
        asked and strategy.verdict is not strategies.Strategy.verdict
    ):  # its file speaks of the strategy's own confidence
        return None
    return backend.head.about.calibration(
        strategy.name,
        config.selection or strategy.selection,
        config.max_samples,
        "tokens" if config.confidence_source == "tokens" else None,
    )


def calibrated(result: GenerationResult, calibration: Calibration | None) -> GenerationResult:
    """A result with what its confidence means, by a calibration of one's own; or with a warning where nobody knows."""
    source = result.confidence_source
    if calibration is not None and calibration.speaks_of(source):
        return replace(result, calibrated_confidence=float(calibration.apply(result.confidence)))
    warning = UNCALIBRATED if source == "tokens" and result.calibrated_confidence is None else None
    if calibration is not None and calibration.source == "tokens":
        warning = OF_ANOTHER_SOURCE
    return replace(result, warnings=(*result.warnings, warning)) if warning else result


def _said(sample: SampleResult) -> str:
    """What a sample comes to: of one that was cut, nothing that another one could say."""
    if not sample.complete:
        return f"{sample.number} was cut"
    return key(sample.text if sample.answer is None else sample.answer)
