"""Where an open model came from: enough to open it again, in another process too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEMO_NAME = "demo"
"""The embedded model's, among the names of models."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model, the backend it was opened with, and that backend's options."""

    model: str
    """Directory, file or hub id; "demo" is the embedded model."""
    backend: Any = None
    """A backend's name or class; None finds one."""
    options: Mapping[str, Any] = field(default_factory=dict)
