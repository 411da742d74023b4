"""How sure the model is of the sample that was chosen: by its own expectation, or by how many others say the same."""

from __future__ import annotations

from collections.abc import Sequence

from zip_introspect import strategies
from zip_introspect.answers.agreement import agreement
from zip_introspect.answers.extraction import key
from zip_introspect.backend.contract import Backend
from zip_introspect.config import GenerationConfig
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.result import SampleResult


def confidence(chosen: SampleResult, samples: Sequence[SampleResult]) -> float:
    """The final value of the chosen sample; without one, how far the samples that ended agree with it."""
    if chosen.value is not None:
        return chosen.value
    others = [_said(sample) for sample in samples if sample.status == "finished" and sample is not chosen]
    return agreement(_said(chosen), others)


def calibration_of(backend: Backend, config: GenerationConfig) -> Calibration | None:
    """What a model's head says that confidence means after a search with these settings; None where nobody does."""
    if backend.head is None:
        return None
    strategy = strategies.chosen(config, joints=True)
    return backend.head.about.calibration(strategy.name, config.selection or strategy.selection, config.max_samples)


def _said(sample: SampleResult) -> str:
    """What a sample comes to: of one that was cut, nothing that another one could say."""
    if not sample.complete:
        return f"{sample.number} was cut"
    return key(sample.text if sample.answer is None else sample.answer)
