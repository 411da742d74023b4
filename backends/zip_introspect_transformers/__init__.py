"""The transformers backend of zip-introspect: any `AutoModelForCausalLM`, on CPU and CUDA."""

from zip_introspect_transformers.backend import TransformersBackend
from zip_introspect_transformers.loading import TransformersOptions

__all__ = ["TransformersBackend", "TransformersOptions"]
