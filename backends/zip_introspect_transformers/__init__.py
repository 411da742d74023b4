"""The transformers backend of zip-introspect: any `AutoModelForCausalLM`, on CPU and CUDA."""

from zip_introspect_transformers.backend import TransformersBackend
from zip_introspect_transformers.loading import TransformersOptions
from zip_introspect_transformers.text import TokenText

__all__ = ["TokenText", "TransformersBackend", "TransformersOptions"]
