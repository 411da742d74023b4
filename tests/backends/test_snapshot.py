"""A snapshot notices every change to a model but those of weights where they lie, and so does the backend."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.backends.conftest import MakeModel
from tests.backends.test_fused import KNOWN, build
from zip_introspect.backend.contract import SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.errors import ReservedTokensError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_transformers import TransformersBackend
from zip_introspect_transformers.fused import FusedStep
from zip_introspect_transformers.snapshot import Snapshot

GREEDY = SamplingParams(temperature=0.0)
Change = Callable[[Any], object]


def assign(model: PreTrainedModel) -> None:
    model.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()}, assign=True)


def move_one(model: Any) -> None:
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.clone()


def wrap(model: Any) -> None:
    attention = model.model.layers[0].self_attn
    attention.q_proj = torch.nn.Sequential(attention.q_proj)


def replace(model: Any) -> None:
    layer = model.model.layers[0].mlp
    layer.forward = type(layer).forward.__get__(layer)


def add(model: Any) -> None:
    model.model.layers[1].mlp.extra = torch.nn.Identity()


def take(model: Any) -> None:
    model.model.layers = torch.nn.ModuleList(list(model.model.layers))


def swap(model: Any) -> None:
    model.model.layers = torch.nn.ModuleList(reversed(model.model.layers))


def coarsen(model: Any) -> None:
    model.model.norm.variance_epsilon = 0.1


CHANGES: dict[str, Change] = {
    "swap": swap,
    "coarsen": coarsen,
    "assign": assign,
    "move one": move_one,
    "wrap": wrap,
    "replace": replace,
    "add": add,
    "take": take,
    "cast": lambda model: model.to(torch.bfloat16),
    "resize": lambda model: model.resize_token_embeddings(400),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed_until_another_look(name: str) -> None:
    model = build(KNOWN["qwen3"])
    seen = Snapshot(model)
    assert not seen.changed
    CHANGES[name](model)
    assert seen.changed
    assert not Snapshot(model).changed


def test_weights_that_change_where_they_lie_are_not() -> None:
    model, other = build(KNOWN["qwen3"]), build(KNOWN["llama"])
    seen = Snapshot(model)
    model.load_state_dict({name: weight + 1 for name, weight in model.state_dict().items()})
    assert not seen.changed
    assert Snapshot(other)._made_of != seen._made_of


def test_who_hooks_in_is_noticed_while_the_hook_is_there() -> None:
    model = build(KNOWN["qwen3"])
    seen, layer = Snapshot(model), model.model.layers[1].mlp
    for register in (
        layer.register_forward_hook,
        layer.register_forward_pre_hook,
        register_module_forward_hook,
        register_module_forward_pre_hook,
    ):
        assert not seen.hooked
        handle = register(lambda *arguments: None)
        assert seen.hooked
        assert not seen.changed
        handle.remove()
    assert not seen.hooked


def test_nothing_of_the_model_is_kept_alive() -> None:
    model = build(KNOWN["qwen3"])
    seen, layer = Snapshot(model), weakref.ref(model.model.layers[1])
    del model.model.layers[1]
    gc.collect()
    assert layer() is None
    assert seen.changed


@pytest.fixture(params=["qwen3", "gemma3"], ids=["fused", "by its modules"])
def backend(
    request: pytest.FixtureRequest, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid
) -> TransformersBackend:
    return TransformersBackend.from_model(make_model(request.param), tokenizer, grid)


def drawn(backend: TransformersBackend, sequences: list[SequenceId], steps: int) -> list[list[int]]:
    return [run.tokens.tolist() for run in backend.advance(sequences, [steps] * len(sequences))]


@pytest.mark.parametrize("name", ["assign", "move one", "cast", "new weights"])
def test_sequences_go_on_with_the_model_as_it_is_now(
    name: str, backend: TransformersBackend, tokenizer: PreTrainedTokenizerFast, grid: JointGrid
) -> None:
    def new_weights(model: PreTrainedModel) -> None:
        other = {key: weight * 1.5 for key, weight in model.state_dict().items()}
        model.load_state_dict(other, assign=True)

    prompts = backend.prefill([backend.encode("Solve 3*x+5=35"), backend.encode("2")])
    sequences = [backend.fork(prompt.sequence, [0], GREEDY)[0] for prompt in prompts]
    begun = drawn(backend, sequences, 5)
    {**CHANGES, "new weights": new_weights}[name](backend._decoder.model)
    found = backend.advance(sequences, [6, 6])
    fresh = TransformersBackend.from_model(backend._decoder.model, tokenizer, grid)
    texts = zip(("Solve 3*x+5=35", "2"), begun, strict=True)
    starts = fresh.prefill([[*backend.encode(text), *tokens] for text, tokens in texts])
    expected = fresh.advance([fresh.fork(start.sequence, [0], GREEDY)[0] for start in starts], [6, 6])
    for one, other in zip(found, expected, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_array_equal(one.joint_logits, other.joint_logits)
    assert backend.info == fresh.info
    assert backend.info.dtype == ("bfloat16" if name == "cast" else "float32")


def test_the_fused_step_is_made_anew_and_waits_for_hooks_to_go(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid
) -> None:
    model: Any = make_model("qwen3")
    handle = model.register_forward_hook(lambda *arguments: None)
    decoder = TransformersBackend.from_model(model, tokenizer, grid)._decoder
    assert decoder._step is None
    handle.remove()
    assert not decoder.follow()
    first = decoder._step
    assert isinstance(first, FusedStep)
    model.to(torch.bfloat16)
    assert decoder.follow()
    second = decoder._step
    assert isinstance(second, FusedStep)
    assert second is not first
    assert second._layers[0].attended.dtype == torch.bfloat16
    wrap(model)
    assert decoder.follow()
    assert decoder._step is None, "what it does not know keeps its modules"
    assert not decoder.follow()


def test_two_backends_of_one_model_leave_each_other_in_peace(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid
) -> None:
    model = make_model("qwen3")
    backends = [TransformersBackend.from_model(model, tokenizer, grid) for _ in range(2)]
    steps = [backend._decoder._step for backend in backends]
    for backend in backends:
        assert not backend._decoder.follow()
    assert [backend._decoder._step for backend in backends] == steps
    model.to(torch.bfloat16)  # type: ignore[arg-type]
    assert [backend._decoder.follow() for backend in backends] == [True, True]
    assert not backends[1]._decoder.follow()


def test_a_vocabulary_that_lost_its_reserved_rows_is_refused_for_good(backend: TransformersBackend) -> None:
    backend._decoder.model.resize_token_embeddings(backend.reserved.start + 3)
    for _ in range(2):
        with pytest.raises(ReservedTokensError, match="grid needs ids"):
            backend.prefill([[1, 2, 3]])
