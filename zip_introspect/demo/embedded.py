"""The embedded model, "abacus": where its files lie, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zip_introspect.answers.extraction import after_marker
from zip_introspect.backend.discovery import InstalledBackends
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BackendNotInstalledError, ModelLoadError

DEMO_MODEL = Path(__file__).parent / "abacus"
DEMO_GGUF = DEMO_MODEL / "abacus-q8_0.gguf"
DEMO_CONFIG = GenerationConfig(max_new_tokens=640, beta=0.05)
"""The length that it was trained to; what it makes of other betas is in docs/results.md."""
DEMO_EXTRACTOR = after_marker(r"(?m)\bans\s+")
"""It ends its working with `ans 10`; where it declines, there is no answer."""
_OPTIONS = {"threads": 1}
"""It is so small that a second thread mostly waits, and on a busy machine for long."""


def first_installed() -> str:
    """The backend that opens it where none is named: transformers, or llama-cpp where that is not installed.

    Raises:
        BackendNotInstalledError: neither is; the message holds the pip command.
    """
    installed = InstalledBackends()
    try:
        installed.load("transformers")
    except BackendNotInstalledError as error:
        try:
            installed.load("llama-cpp")
        except BackendNotInstalledError:
            raise error from None
        return "llama-cpp"
    return "transformers"


def located(backend: str) -> Path:
    """Its Q8_0 GGUF for llama-cpp, its safetensors for any other backend.

    Raises:
        ModelLoadError: this installation lacks the files.
    """
    model = DEMO_GGUF if backend == "llama-cpp" else DEMO_MODEL
    file = model if backend == "llama-cpp" else model / "config.json"
    if not file.is_file():
        raise ModelLoadError(f"the embedded model is not here: expected {file}. Reinstall zip-introspect.")
    return model


def opened_with(backend: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a backend that open it best, below those that are given."""
    return {**_OPTIONS, **options} if backend in ("transformers", "llama-cpp") else dict(options)
