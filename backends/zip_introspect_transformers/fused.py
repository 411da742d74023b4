"""One token for every row of a plain decoder, in a third of the kernels that its modules take.

A decoding step of a small model, or of a large one on a fast GPU, is mostly calls: some twenty a layer through modules
made to be read. This step gives the same numbers up to rounding, from the model's own weights: query, key and value
weights lie behind one another, as do those of gate and up, so that each is one product. Models that it does not know to
the last detail keep their modules, and so do models that were changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM
from transformers.activations import SiLUActivation

from zip_introspect_transformers.cache.states import PaddedCache
from zip_introspect_transformers.snapshot import Snapshot

_KNOWN = {Qwen3ForCausalLM, LlamaForCausalLM}
_PLAIN_MODULES = {nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation}
_ROPES = {"default", "linear", "llama3"}  # whose frequencies stay what they are at any length


@dataclass(frozen=True)
class _Layer:
    attended: Tensor
    """Weights (H + 2 K) * D by hidden size: of queries, keys and values."""
    out: Tensor
    gated: Tensor
    """Weights of gate and up."""
    down: Tensor
    before: Tensor
    """Of the norm before attention."""
    after: Tensor
    """Of the norm after it."""
    heads: tuple[Tensor, Tensor] | None
    """(D,) each, of the norms of queries and keys."""


class FusedStep:
    """A decoding step of one model, as it was when the step was made: see `of`.

    Weights that are changed where they lie are this step's too.
    """

    def __init__(self, model: Any) -> None:
        config, inner = model.config, model.model
        self._queries, self._keys = config.num_attention_heads, config.num_key_value_heads
        self._size = inner.layers[0].self_attn.head_dim
        self._eps = float(config.rms_norm_eps)
        self._layers = [self._layer(layer) for layer in inner.layers]
        self._embedding, self._norm = inner.embed_tokens.weight, inner.norm.weight
        self._head = model.lm_head.weight
        self._rotary = inner.rotary_emb

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self | None:
        """The step of a Qwen3 or Llama model whose weights are plain and on one device; None for any other."""
        return cls(model) if _fits(model) else None

    def __call__(
        self, ids: Tensor, cache: PaddedCache, mask: Tensor | None, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (rows, V) in float32 after one more token, and the hidden states (rows, D) that they are made of.

        Args:
            ids, positions: shape (rows, 1).
            cache: grows by one column.
            mask: (rows, columns) bool, true at real columns, the new one counted in; None where all are.
        """
        allowed = None if mask is None else mask[:, None, None, :]
        # Read anew at each step: whoever stretches a model's context replaces them.
        angles, scaling = positions.float() * self._rotary.inv_freq.float(), self._rotary.attention_scaling
        cos, sin = angles.cos() * scaling, angles.sin() * scaling
        x = functional.embedding(ids[:, 0], self._embedding)
        cos = torch.cat((cos, cos), -1).to(x.dtype)[:, None]
        sin = torch.cat((-sin, sin), -1).to(x.dtype)[:, None]
        for layer, cells in zip(self._layers, cache.layers, strict=True):
            x = x + self._attention(layer, cells, self._normed(x, layer.before), cos, sin, allowed)
            gate, up = functional.linear(self._normed(x, layer.after), layer.gated).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, layer.down)
        hidden = self._normed(x, self._norm)
        return functional.linear(hidden, self._head).float(), hidden

    def _attention(
        self, layer: _Layer, cells: Any, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor | None
    ) -> Tensor:
        turned = self._queries + self._keys
        heads = functional.linear(x, layer.attended).view(len(x), turned + self._keys, self._size)
        both = heads[:, :turned]
        if layer.heads is not None:
            of_queries, of_keys = layer.heads
            queries, keys = self._normed(both[:, : self._queries], of_queries), both[:, self._queries :]
            both = torch.cat((queries, self._normed(keys, of_keys)), 1)
        first, second = both.chunk(2, -1)
        both = torch.addcmul(both * cos, torch.cat((second, first), -1), sin)
        keys, values = cells.update(both[:, self._queries :, None], heads[:, turned:, None])
        if allowed is not None and keys.is_cuda:  # the kernels that take a mask know no groups there
            keys, values = (item.repeat_interleave(self._queries // self._keys, dim=1) for item in (keys, values))
        found = functional.scaled_dot_product_attention(
            both[:, : self._queries, None], keys, values, attn_mask=allowed, enable_gqa=True
        )
        return functional.linear(found.reshape(len(x), self._queries * self._size), layer.out)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self._eps)

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        heads = (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None
        return _Layer(
            attended=_joined([attention.q_proj, attention.k_proj, attention.v_proj]),
            out=attention.o_proj.weight,
            gated=_joined([mlp.gate_proj, mlp.up_proj]),
            down=mlp.down_proj.weight,
            before=layer.input_layernorm.weight,
            after=layer.post_attention_layernorm.weight,
            heads=heads,
        )


def _joined(modules: Sequence[nn.Linear]) -> Tensor:
    """The modules' weights behind one another; the modules then hold views of it, so that no memory is held twice.

    Weights that lie so already, as those of a model with an earlier step do, stay where they are.
    """
    with torch.inference_mode(modules[0].weight.is_inference()), torch.no_grad():  # so that it can still be trained
        weights = [module.weight.data for module in modules]
        rows, first = sum(map(len, weights)), weights[0]
        if _adjacent(weights):
            return first.as_strided((rows, first.shape[1]), first.stride(), first.storage_offset())
        joined = torch.cat(weights)
        for module, part in zip(modules, joined.split([len(weight) for weight in weights]), strict=True):
            module.weight.data = part
    return joined


def _adjacent(weights: Sequence[Tensor]) -> bool:
    storages = {weight.untyped_storage().data_ptr() for weight in weights}
    ends = [weight.storage_offset() + weight.numel() for weight in weights]
    return (
        len(storages) == 1
        and all(weight.is_contiguous() for weight in weights)
        and [weight.storage_offset() for weight in weights[1:]] == ends[:-1]
    )


def _fits(model: PreTrainedModel) -> bool:
    if type(model) not in _KNOWN:
        return False
    config: Any = model.config
    plain = (
        config.hidden_act == "silu"
        and not config.attention_bias
        and not getattr(config, "mlp_bias", False)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(model.model.rotary_emb, "rope_type", None) in _ROPES
        and config._attn_implementation == "sdpa"
    )
    unpacked = all(type(weight.data) is Tensor for weight in model.parameters())  # not so where they are quantised
    weights = {(weight.device, weight.dtype) for weight in model.parameters()}
    heads = [layer.self_attn for layer in model.model.layers]
    usual = all(
        head.layer_idx == place and head.scaling == head.head_dim**-0.5 for place, head in enumerate(heads)
    ) and {vars(own).get("variance_epsilon", config.rms_norm_eps) for own in model.modules()} == {config.rms_norm_eps}
    return (
        plain
        and not Snapshot(model).hooked
        and not any("forward" in vars(module) for module in model.modules())  # replaced, as accelerate does
        and type(model.model.embed_tokens) is nn.Embedding
        and unpacked
        and usual
        and len(weights) == 1
        and next(iter(weights))[1].is_floating_point
        and all(type(module) is nn.Linear and module.bias is None for module in _linears(model))
        and all(
            type(module) in _PLAIN_MODULES or type(module).__module__ == type(model).__module__
            for module in model.modules()
        )
    )


def _linears(model: Any) -> list[Any]:
    """The modules whose weights the step multiplies by, whatever stands in their place."""
    found = [model.lm_head]
    for layer in model.model.layers:
        found += [getattr(layer.self_attn, f"{name}_proj", None) for name in ("q", "k", "v", "o")]
        found += [getattr(layer.mlp, f"{name}_proj", None) for name in ("gate", "up", "down")]
    return found
