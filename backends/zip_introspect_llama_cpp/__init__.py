"""The llama.cpp backend of zip-introspect: any GGUF file, on whatever llama.cpp was built for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zip_introspect_llama_cpp.options import LlamaCppOptions

if TYPE_CHECKING:
    from zip_introspect_llama_cpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend", "LlamaCppOptions"]


def __getattr__(name: str) -> Any:
    """The options can be read, and files exported, without llama.cpp; the backend itself needs it."""
    if name != "LlamaCppBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zip_introspect_llama_cpp.backend import LlamaCppBackend

    return LlamaCppBackend
