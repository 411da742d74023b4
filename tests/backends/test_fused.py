"""The fused decoding step gives the numbers of the modules, and leaves alone what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from zip_introspect.testing.rounding import BFLOAT16, FLOAT32, SMALL_MODEL, tolerance
from zip_introspect_transformers.cache.states import new_cache
from zip_introspect_transformers.fused import FusedStep

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KNOWN = {
    "qwen3": Qwen3Config(**SHAPE),
    "qwen3-tied": Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "llama": LlamaConfig(**SHAPE),
    "llama3-rope": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
}


def build(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for parameter in model.parameters():  # norms start at one, and a step that left them out would go unseen
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_its_logits_are_those_of_the_modules(name: str, dtype: torch.dtype, padded: bool) -> None:
    model, reference = build(KNOWN[name], dtype), build(KNOWN[name], dtype)
    step = FusedStep.of(model)
    assert step is not None
    rows, width, steps = 3, 70, 5
    lengths = torch.tensor([width, width - 9, width - 30] if padded else [width] * rows)
    ids = torch.randint(0, 64, (rows, width + steps))
    real = torch.arange(width + steps)[None, :] >= (width - lengths)[:, None]
    positions = (torch.arange(width)[None, :] - (width - lengths)[:, None]).clamp(min=0)
    caches = []
    for one in (model, reference):
        cache = new_cache(one.config)
        mask = real[:, :width] if padded else None
        one(
            input_ids=ids[:, :width], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache.padded = padded
        caches.append(cache)
    for place in range(width, width + steps):
        seen = real[:, : place + 1] if padded else None
        at = lengths[:, None] + place - width
        token = ids[:, place : place + 1]
        found, _ = step(token, caches[0], seen, at)
        expected = reference(
            input_ids=token, attention_mask=seen, position_ids=at, past_key_values=caches[1], use_cache=True
        ).logits[:, -1]
        assert found.dtype == torch.float32
        # In bfloat16 sums are taken in float32, and some ten results of each layer are rounded.
        sums, roundoff = (SMALL_MODEL, FLOAT32) if dtype == torch.float32 else (20, BFLOAT16)
        allowed = tolerance(expected.float(), sums, roundoff)
        torch.testing.assert_close(found, expected.float(), atol=allowed, rtol=0)


@torch.inference_mode()
def test_the_modules_keep_their_weights_as_views_of_the_joined_ones() -> None:
    model, untouched = build(KNOWN["qwen3"]), build(KNOWN["qwen3"])
    FusedStep.of(model)
    for (name, one), other in zip(model.state_dict().items(), untouched.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    attention = model.model.layers[0].self_attn
    storages = {getattr(attention, f"{kind}_proj").weight.untyped_storage().data_ptr() for kind in "qkv"}
    assert len(storages) == 1
    ids = torch.arange(12)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, untouched(input_ids=ids).logits)


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**{key: value for key, value in SHAPE.items() if key != "head_dim"}),
        Gemma3TextConfig(**SHAPE),
        LlamaConfig(**SHAPE, attention_bias=True),
        LlamaConfig(**SHAPE, mlp_bias=True),
        LlamaConfig(**SHAPE, hidden_act="gelu"),
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=0),
        Qwen3Config(**SHAPE, attn_implementation="eager"),  # type: ignore[call-arg]
    ],
    ids=["other", "gemma", "bias", "mlp-bias", "gelu", "dynamic-rope", "sliding", "eager"],
)
def test_what_it_does_not_know_keeps_its_modules(config: PreTrainedConfig) -> None:
    assert FusedStep.of(build(config)) is None


def test_models_that_were_changed_keep_their_modules() -> None:
    hooked, replaced, mixed, quantised, wrapped, behind, other, curved = (build(KNOWN["qwen3"]) for _ in range(8))
    swapped, coarse, sharp = (build(KNOWN["qwen3"]) for _ in range(3))
    swapped.model.layers = torch.nn.ModuleList(reversed(swapped.model.layers))
    coarse.model.layers[1].post_attention_layernorm.variance_epsilon = 0.1
    sharp.model.layers[0].self_attn.scaling = 1.0
    hooked.model.layers[0].register_forward_hook(lambda *arguments: None)
    replaced.model.layers[0].mlp.forward = lambda x: x
    mixed.lm_head.to(torch.bfloat16)
    layer = quantised.model.layers[0].mlp

    class Other(torch.nn.Linear):
        pass

    class Packed(torch.Tensor):
        pass

    layer.up_proj = Other(32, 48, bias=False)
    weight = wrapped.model.layers[0].mlp.up_proj.weight.data.as_subclass(Packed)
    wrapped.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(weight)
    attention = behind.model.layers[1].self_attn
    attention.q_proj = torch.nn.Sequential(attention.q_proj)

    class Doubled(type(other.model.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)  # type: ignore[no-any-return]

    other.model.layers[0].mlp.__class__ = Doubled
    curved.model.layers[1].mlp.act_fn = torch.nn.GELU()
    for model in (hooked, replaced, mixed, quantised, wrapped, behind, other, curved, swapped, coarse, sharp):
        assert FusedStep.of(model) is None


@torch.inference_mode()
def test_a_stretched_context_is_followed() -> None:
    model, other = build(KNOWN["qwen3"]), build(KNOWN["qwen3"])
    step = FusedStep.of(model)
    assert step is not None
    for one in (model, other):
        one.model.rotary_emb.inv_freq = one.model.rotary_emb.inv_freq / 4
    caches = [new_cache(one.config) for one in (model, other)]
    for token, at in ((torch.tensor([[5]]), torch.tensor([[3]])), (torch.tensor([[9]]), torch.tensor([[70]]))):
        found, _ = step(token, caches[0], None, at)
        expected = other(input_ids=token, position_ids=at, past_key_values=caches[1], use_cache=True).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=tolerance(expected, SMALL_MODEL), rtol=0)


@torch.inference_mode()
def test_weights_that_change_in_place_change_for_both() -> None:
    model, other = build(KNOWN["qwen3"]), build(KNOWN["qwen3"])
    step = FusedStep.of(model)
    assert step is not None
    changed = {name: weight * 1.1 + 0.01 for name, weight in other.state_dict().items()}
    for one in (model, other):
        one.load_state_dict(changed)
    token, at = torch.tensor([[5]]), torch.tensor([[0]])
    found, _ = step(token, new_cache(model.config), None, at)
    expected = other(input_ids=token).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=tolerance(expected, SMALL_MODEL), rtol=0)


@torch.inference_mode()
def test_a_second_step_of_a_model_moves_nothing() -> None:
    model = build(KNOWN["qwen3"])
    first = FusedStep.of(model)
    places = [weight.data_ptr() for weight in model.parameters()]
    second = FusedStep.of(model)
    assert first is not None
    assert second is not None
    assert [weight.data_ptr() for weight in model.parameters()] == places
    for one, other in zip(first._layers, second._layers, strict=True):
        assert torch.equal(one.attended, other.attended)
        assert one.gated.data_ptr() == other.gated.data_ptr()


def test_a_model_can_be_trained_and_saved_all_the_same(tmp_path: Path) -> None:
    model = build(KNOWN["qwen3"])
    with torch.inference_mode():
        FusedStep.of(model)
    model.train()(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    assert model.model.layers[0].self_attn.k_proj.weight.grad is not None
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
