"""What GGUF asks of each architecture that can be exported: its keys, and how its tensors are laid out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from zip_introspect.errors import ModelLoadError

Tensor = NDArray[np.float32]


@dataclass(frozen=True)
class Architecture:
    """How one architecture of transformers becomes one of llama.cpp's.

    `keys` writes what is its own; `lay_out` turns a tensor as llama.cpp wants it, by its name in the checkpoint.
    """

    arch: MODEL_ARCH
    keys: Callable[[GGUFWriter, Any], None]
    lay_out: Callable[[str, Tensor, Any], Tensor]

    def check(self, config: Any) -> None:
        """Refuse what llama.cpp would compute differently.

        Raises:
            ModelLoadError: naming it.
        """
        odd = {
            "use_sliding_window": bool(getattr(config, "use_sliding_window", False)),
            "hidden_act": getattr(config, "hidden_act", "silu") != "silu",
            "partial_rotary_factor": (config.rope_parameters or {}).get("partial_rotary_factor", 1.0) != 1.0,
            "quantization_config": getattr(config, "quantization_config", None) is not None,
            "attention_bias": bool(getattr(config, "attention_bias", False)) and self.arch == MODEL_ARCH.QWEN3,
            "conv_bias": bool(getattr(config, "conv_bias", False)),
            "rope_parameters": rope_factors(config) is not None and self.arch != MODEL_ARCH.LLAMA,
        }
        for name, differs in odd.items():
            if differs:
                raise ModelLoadError(f"its config has {name}={getattr(config, name, None)!r}, which is not known here")


def write_common_keys(writer: GGUFWriter, config: Any, feed_forward: int) -> None:
    """The keys that every architecture has. `feed_forward` is the width that the weights have.

    Raises:
        ModelLoadError: a rope scaling that is not known here.
    """
    head_dim = _head_dim(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(config.num_attention_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config.vocab_size)
    rope = dict(config.rope_parameters or {})
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    match rope.get("rope_type", "default"):
        case "default" | "llama3":
            pass  # llama3 scales each frequency on its own, by a tensor: see `rope_factors`
        case "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        case other:
            raise ModelLoadError(f"the model scales its positions by {other!r}; expected default, linear or llama3")


def rope_factors(config: Any) -> Tensor | None:
    """By what llama3 scaling divides each frequency, shape (head_dim / 2,); None for every other model."""
    rope = dict(config.rope_parameters or {})
    if rope.get("rope_type") != "llama3":
        return None
    half = _head_dim(config) // 2
    frequencies = 1.0 / float(rope["rope_theta"]) ** (np.arange(half) / half)
    wavelengths = 2 * np.pi / frequencies
    context, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    # From long waves, divided by the whole factor, to short ones, left alone.
    share = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1 - share) / factor + share)).astype(np.float32)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _decoder_keys(writer: GGUFWriter, config: Any) -> None:
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _hybrid_keys(writer: GGUFWriter, config: Any) -> None:
    writer.add_head_count_kv([config.num_key_value_heads if kind != "conv" else 0 for kind in config.layer_types])
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_shortconv_l_cache(config.conv_L_cache)


def _as_it_is(_: str, tensor: Tensor, __: Any) -> Tensor:
    return tensor


def _rotary_pairs_together(name: str, tensor: Tensor, config: Any) -> Tensor:
    """llama.cpp's llama rotates neighbouring numbers of a head; transformers' rotates its halves."""
    for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
        if f".{part}." in name:
            return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _flat_convolutions(name: str, tensor: Tensor, _: Any) -> Tensor:
    return tensor.squeeze(1) if name.endswith(".conv.conv.weight") else tensor


ARCHITECTURES = {
    "Qwen3ForCausalLM": Architecture(MODEL_ARCH.QWEN3, _decoder_keys, _as_it_is),
    "LlamaForCausalLM": Architecture(MODEL_ARCH.LLAMA, _decoder_keys, _rotary_pairs_together),
    "Lfm2ForCausalLM": Architecture(MODEL_ARCH.LFM2, _hybrid_keys, _flat_convolutions),
}
