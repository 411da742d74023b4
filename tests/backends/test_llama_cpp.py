"""The llama.cpp backend: the conformance suite, agreement with transformers, cells and slots, faults."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.backends.conftest import Exported, assert_close
from zip_introspect.backend.contract import SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, HeadError
from zip_introspect.heads.network import Input
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.conformance import BackendConformance
from zip_introspect.testing.heads import HeadConformance, random_head
from zip_introspect.testing.rounding import FLOAT16, SMALL_MODEL, tolerance
from zip_introspect_transformers import TransformersBackend

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

from gguf import MODEL_ARCH

from zip_introspect_llama_cpp import LlamaCppBackend
from zip_introspect_llama_cpp.cache import context
from zip_introspect_llama_cpp.exporting.architectures import ARCHITECTURES, Architecture

SMALL = ("qwen3", "llama", "lfm2")
VARIANTS = ("qwen3_tied", "llama3", "llama_linear")
GREEDY = SamplingParams(temperature=0.0)
PROMPTS = BackendConformance.prompts

Open = Callable[..., LlamaCppBackend]


@pytest.fixture(scope="session")
def open_model(exported: Exported) -> Open:
    opened: dict[Any, LlamaCppBackend] = {}

    def open_(architecture: str = "qwen3", kind: str = "f32", **options: Any) -> LlamaCppBackend:
        key = (architecture, kind, *sorted(options.items()))
        if key not in opened:
            settings = {"threads": 1, "cells": 4096, **options}
            opened[key] = LlamaCppBackend.open(exported(architecture, kind), **settings)
        return opened[key]

    return open_


class TestConformance(BackendConformance):
    @pytest.fixture(params=SMALL)
    def backend(self, request: pytest.FixtureRequest, open_model: Open) -> LlamaCppBackend:
        return open_model(request.param)


class TestConformanceWithoutHead(BackendConformance):
    """A file as anybody may have it: no grid, no reserved ids, no joints."""

    @pytest.fixture
    def backend(self, exported: Exported) -> LlamaCppBackend:
        return LlamaCppBackend.open(exported(head=False), threads=1, cells=4096)


class TestConformanceWithHead(BackendConformance):
    """A head over an unchanged model, which reads the last hidden state alone, so that joints are those of prefixes."""

    @pytest.fixture(params=["qwen3", "llama"])
    def backend(self, request: pytest.FixtureRequest, exported: Exported) -> LlamaCppBackend:
        return with_head(exported(request.param, head=False), ("last",), 8, cells=4096)


class TestHeads(HeadConformance):
    @pytest.fixture(params=[(0, 4096, 64), (8, 4096, 64), (0, 512, 4)], ids=["linear", "mlp", "few-cells"])
    def backend(self, request: pytest.FixtureRequest, exported: Exported) -> LlamaCppBackend:
        hidden, cells, slots = request.param
        return with_head(exported(head=False), ("last", "mean"), hidden, cells=cells, slots=slots)


def with_head(path: Path, inputs: tuple[Input, ...], hidden: int, **options: Any) -> LlamaCppBackend:
    """A small model with a head that nobody trained."""
    return LlamaCppBackend.open(
        path, head=random_head(32, inputs, hidden), hidden_states=True, threads=1, batch_size=64, **options
    )


class TestConformanceWithFewCells(BackendConformance):
    """Two sequences of full length at the most: groups take turns, and what gave way is computed again."""

    @pytest.fixture(params=["qwen3", "lfm2"])
    def backend(self, request: pytest.FixtureRequest, open_model: Open) -> LlamaCppBackend:
        return open_model(request.param, cells=512, slots=4)


class TestConformanceWithSlidingWindow(BackendConformance):
    """Layers that forget what is further back than a window; their states cannot be cut back to an earlier token."""

    # Gemma's activation is read from a table of half precision: where inputs differ in their last bit only, it may
    # jump to the next entry, once a layer. Beside that the sums in float32 are nothing.
    sums, roundoff = 3, FLOAT16

    @pytest.fixture(params=[4096, 512])
    def backend(
        self, request: pytest.FixtureRequest, open_model: Open, monkeypatch: pytest.MonkeyPatch
    ) -> LlamaCppBackend:
        def keys(writer: Any, config: Any) -> None:
            writer.add_head_count_kv(config.num_key_value_heads)
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
            writer.add_sliding_window(config.sliding_window)
            writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])

        def lay_out(name: str, tensor: Any, _: Any) -> Any:
            return tensor + 1 if name.endswith("norm.weight") else tensor  # as llama.cpp wants Gemma's

        # Not for users: the exporter writes one of its two bases of positions only. For cells it makes no difference.
        gemma = Architecture(MODEL_ARCH.GEMMA3, keys, lay_out)
        monkeypatch.setitem(ARCHITECTURES, "Gemma3ForCausalLM", gemma)
        backend = open_model("gemma3", cells=request.param, slots=64 if request.param > 512 else 4)
        assert backend._residents._whole
        return backend


# The same model, the same numbers


def reference(architecture: str, make_model: Any, tokenizer: Any, grid: JointGrid) -> TransformersBackend:
    return TransformersBackend.from_model(make_model(architecture), tokenizer, grid)


@pytest.mark.parametrize("architecture", SMALL)
def test_prompts_are_the_same_tokens(
    architecture: str, open_model: Open, make_model: Any, tokenizer: Any, grid: JointGrid
) -> None:
    ours, theirs = open_model(architecture), reference(architecture, make_model, tokenizer, grid)
    texts = (*PROMPTS, "x*x+6*x+17=152?\n\n  don't  12345", "äöü 日本語 🙂", "<|end|><|reserved_3|>", "a\tb\r\n  c ")
    for text in texts:
        for chat in (True, False):
            assert ours.encode(text, chat=chat) == theirs.encode(text, chat=chat)
        tokens = ours.encode(text, chat=False)
        assert ours.decode(tokens) == theirs.decode(tokens)
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2?"}]
    assert ours.encode(talk) == theirs.encode(talk)  # type: ignore[arg-type]
    assert ours.info.eos_token_ids == theirs.info.eos_token_ids


@pytest.mark.parametrize("architecture", [*SMALL, *VARIANTS])
def test_float32_logits_joints_and_greedy_texts_agree(
    architecture: str, open_model: Open, make_model: Any, tokenizer: Any, grid: JointGrid
) -> None:
    ours, theirs = open_model(architecture), reference(architecture, make_model, tokenizer, grid)
    prompts = [ours.encode(text) for text in PROMPTS]
    one, other = ours.prefill(prompts), theirs.prefill(prompts)
    for mine, yours in zip(one, other, strict=True):
        assert_close(mine.joint_logits, yours.joint_logits)
    runs = [
        backend.advance([backend.fork(prompt.sequence, [0], GREEDY)[0] for prompt in prefilled], [40] * len(prompts))
        for backend, prefilled in ((ours, one), (theirs, other))
    ]
    for mine, yours in zip(*runs, strict=True):
        assert mine.tokens.tolist() == yours.tokens.tolist()
        assert_close(mine.joint_logits, yours.joint_logits)
        joints = [joint.from_logits(run.joint_logits, grid) for run in (mine, yours)]
        # A logit that is wrong by d makes a probability wrong by d / 2 at the most.
        np.testing.assert_allclose(joints[0], joints[1], atol=tolerance(yours.joint_logits, SMALL_MODEL) / 2)
    with torch.inference_mode():
        ids = [*prompts[0], *runs[0][0].tokens.tolist()[:-1]]
        whole = make_model(architecture)(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
    (fresh,) = ours.prefill([ids])
    kept = ours._residents[fresh.sequence].logits
    assert kept is not None
    finite = np.isfinite(kept)
    assert finite.sum() == ours.info.vocab_size - grid.num_cells
    assert_close(kept[finite], whole[finite])
    ours.release([fresh.sequence, *(prompt.sequence for prompt in one)])


def test_sampled_tokens_are_those_of_transformers(
    open_model: Open, make_model: Any, tokenizer: Any, grid: JointGrid
) -> None:
    sampling = [
        SamplingParams(seed=3),
        SamplingParams(seed=4, temperature=2.0, top_k=7),
        SamplingParams(seed=5, temperature=3.0, top_p=0.7),
        SamplingParams(seed=6, temperature=3.0, min_p=0.1),
    ]
    drawn = []
    for backend in (open_model(), reference("qwen3", make_model, tokenizer, grid)):
        (prompt,) = backend.prefill([backend.encode(PROMPTS[0])])
        sequences = [backend.fork(prompt.sequence, [i], params)[0] for i, params in enumerate(sampling)]
        drawn.append([run.tokens.tolist() for run in backend.advance(sequences, [20] * len(sequences))])
        backend.release([prompt.sequence, *sequences])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("architecture", SMALL)
def test_quantised_joints_stay_close(architecture: str, open_model: Open, grid: JointGrid) -> None:
    exact, rounded = open_model(architecture), open_model(architecture, "q8_0")
    prompts = [exact.encode(text) for text in PROMPTS]
    found = []
    for backend in (exact, rounded):
        made = backend.prefill(prompts)
        found.append(np.stack([joint.from_logits(prompt.joint_logits, grid) for prompt in made]))
        backend.release([prompt.sequence for prompt in made])
    distance = np.abs(found[0] - found[1]).sum((-1, -2)) / 2
    assert distance.mean() <= 0.03


# Cells and slots


def test_thirty_two_samples_hold_their_prompt_once(exported: Exported) -> None:
    backend = LlamaCppBackend.open(exported(), threads=1, cells=256, slots=40)
    (prompt,) = backend.prefill([[1] * 100])
    sequences = backend.fork(prompt.sequence, range(32), SamplingParams(temperature=2.0, seed=2))
    assert backend.used_cells == 100
    runs = backend.advance(sequences, [4] * 32)
    alive = [run for run in runs if not run.finished]
    assert len(alive) > 16
    assert backend.used_cells == 100 + 4 * len(alive)
    backend.release(sequences)
    assert backend.used_cells == 100
    backend.release([prompt.sequence])
    assert backend.used_cells == 0
    backend.close()


def test_what_does_not_fit_takes_turns_and_loses_nothing(exported: Exported) -> None:
    sampling = SamplingParams(temperature=1.5, seed=8)
    texts = []
    for cells, slots in ((4096, 64), (256, 64), (4096, 3)):
        backend = LlamaCppBackend.open(exported(), threads=1, cells=cells, slots=slots)
        prompts = backend.prefill([[1, 2, 3] * 10, [4, 5] * 8])
        sequences = [one for prompt in prompts for one in backend.fork(prompt.sequence, range(6), sampling)]
        done: dict[SequenceId, list[int]] = {sequence: [] for sequence in sequences}
        going = list(sequences)
        for _ in range(3):
            for sequence, run in zip(going, backend.advance(going, [12] * len(going)), strict=True):
                done[sequence] += run.tokens.tolist()
                if run.finished:
                    going = [other for other in going if other != sequence]
            assert backend.used_cells <= cells
        texts.append([done[sequence] for sequence in sequences])
        backend.close()
    assert texts[0] == texts[1] == texts[2]


def test_a_failure_in_a_later_group_takes_the_earlier_ones_back(
    open_model: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_model(slots=2)
    (prompt,) = backend.prefill([backend.encode(PROMPTS[0])])
    sampling = SamplingParams(seed=4)
    whole = backend.fork(prompt.sequence, range(3), sampling)
    expected = [run.tokens.tolist() for run in backend.advance(whole, [9] * 3)]
    backend.release(whole)
    sequences = backend.fork(prompt.sequence, range(3), sampling)
    real, calls = backend._run, iter(range(100))

    def fail(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise BackendError("no room")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_run", fail)
        with pytest.raises(BackendError, match="no room"):
            backend.advance(sequences, [9] * 3)
    assert [run.tokens.tolist() for run in backend.advance(sequences, [9] * 3)] == expected
    backend.release([prompt.sequence, *sequences])


def test_a_failure_in_mid_run_loses_no_token(open_model: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_model()
    (prompt,) = backend.prefill([backend.encode(PROMPTS[0])])
    sampling = SamplingParams(seed=4)
    expected = [run.tokens.tolist() for run in backend.advance(backend.fork(prompt.sequence, [0, 1], sampling), [9, 9])]
    sequences = backend.fork(prompt.sequence, [0, 1], sampling)
    first = backend.advance(sequences, [4, 4])
    real, calls = backend._context.step, iter(range(100))

    def fail(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise BackendError("no room")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backend._context, "step", fail)
        with pytest.raises(BackendError, match="no room"):
            backend.advance(sequences, [5, 5])
    second = backend.advance(sequences, [5, 5])
    assert [[*one.tokens, *two.tokens] for one, two in zip(first, second, strict=True)] == expected
    backend.release([prompt.sequence, *sequences])


def test_cells_that_no_memory_holds_are_refused_before_they_are_taken(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "free_memory", lambda: 5 << 20)
    with pytest.raises(BackendError, match=r"65536 cells of .* take 16 MiB, and 5 MiB of memory are free"):
        LlamaCppBackend.open(exported(), cells=1 << 16)


def test_too_many_tokens_for_the_cells_say_how_many_fit(open_model: Open) -> None:
    context = open_model("qwen3", cells=256, slots=5)._context
    tokens, places = np.ones(300, np.int32), np.arange(300, dtype=np.int32)
    with pytest.raises(BackendError, match=r"300 tokens and 0 rows .* expected at most 256 and 5"):
        context.decode(tokens, places, np.zeros(300, np.int32), False)
    context.decode(tokens[:256], places[:256], np.zeros(256, np.int32), False)
    with pytest.raises(BackendError, match=r"no room for 44 tokens in 256 cells.*No token was lost"):
        context.decode(tokens[256:], places[256:], np.zeros(44, np.int32), False)
    context.forget(0)


def test_what_nobody_closed_is_freed_with_the_backend(exported: Exported) -> None:
    backend = LlamaCppBackend.open(exported(), cells=256)
    context, model = backend._context, backend._model
    del backend
    gc.collect()
    assert context._handle is None
    assert model.handle is None


def test_a_closed_backend_says_so(exported: Exported) -> None:
    backend = LlamaCppBackend.open(exported(), cells=256)
    (prompt,) = backend.prefill([[1, 2, 3]])
    backend.close()
    backend.close()
    for use in (
        lambda: backend.prefill([[1]]),
        lambda: backend.encode("a"),
        lambda: backend.decode([1]),
    ):
        with pytest.raises(BackendError, match="closed"):
            use()
    backend.release([prompt.sequence])


def test_a_model_is_not_freed_while_a_thread_encodes(exported: Exported) -> None:
    texts = ["Solve 3*x+16=31 or <|end|> " * 5_000, "Solve 3*x+16=31"]
    for pause in (0.0, 0.005, 0.02):
        backend = LlamaCppBackend.open(exported(), cells=256)
        expected, begun = [backend.encode(text) for text in texts], threading.Event()
        found: list[list[list[int]]] = []

        thread = threading.Thread(target=_encode_until_closed, args=(backend, texts, begun, found))
        thread.start()
        begun.wait()
        time.sleep(pause)
        backend.close()
        thread.join()
        assert all(prompts == expected for prompts in found)
        with pytest.raises(BackendError, match="closed"):
            backend.encode("1")


def _encode_until_closed(
    backend: LlamaCppBackend, texts: list[str], begun: threading.Event, found: list[list[list[int]]]
) -> None:
    with suppress(BackendError):
        while True:
            begun.set()
            found.append([backend.encode(text) for text in texts])


def test_a_model_of_which_llama_cpp_gives_no_logits_beside_hidden_states_takes_no_head(exported: Exported) -> None:
    with pytest.raises(HeadError, match=r"lfm2 .* no logits beside its hidden states.*transformers"):
        with_head(exported("lfm2", head=False), ("last",), 0)
