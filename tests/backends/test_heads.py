"""One head's file over a model in every form that it comes in, and over no other."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.backends.conftest import Exported, MakeModel
from zip_introspect import Calibration, Framing, HeadError, IntrospectiveLLM, SamplingParams
from zip_introspect.heads import file
from zip_introspect.heads.head import Head, Searched
from zip_introspect.testing.conformance import BackendConformance
from zip_introspect.testing.heads import HeadConformance, random_head
from zip_introspect.training.on_policy import collect
from zip_introspect_transformers import TransformersBackend

QUESTION = "Solve 3*x+5=35"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model("qwen3").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Path:
    """A head's file, fingerprint and all."""
    made = random_head(32, hidden=4)
    taken = TransformersBackend.open(saved).fingerprint()
    return file.save(Head(made.about, made.weights, taken), tmp_path_factory.mktemp("head"))


def test_every_front_door_knows_a_head(saved: Path, head: Path) -> None:
    with IntrospectiveLLM.from_pretrained(saved, head=head) as llm:
        seen = llm.introspect(QUESTION)
        result = llm.generate(QUESTION, max_new_tokens=24, max_samples=4)
        assert (result.strategy, result.confidence_source) == ("zip_rc", "head")
        assert llm.grid.shape == (3, 4)
        with pickle.loads(pickle.dumps(llm)) as again:
            assert again.introspect(QUESTION).joint == seen.joint


def test_what_a_head_recommends_holds_until_a_call_says_otherwise(saved: Path, head: Path) -> None:
    made = file.load(head)
    about = made.about.replace(
        framing=Framing(instruction="Be brief."),
        recommended={"balanced": {"strategy": "zip_rc", "selection": "weighted_majority", "max_samples": 3}},
        searched=(
            Searched(
                strategy="zip_rc",
                selection="weighted_majority",
                max_samples=3,
                calibration=Calibration(method="isotonic", confidences=(0.5,), probabilities=(0.25,), examples=9),
            ),
        ),
    )
    with IntrospectiveLLM.from_pretrained(saved, head=Head(about, made.weights)) as llm:
        assert (llm.config.max_samples, llm.config.selection) == (3, "weighted_majority")
        own = llm.generate(QUESTION, max_new_tokens=8)
        assert (own.strategy, own.selection, own.calibrated_confidence) == ("zip_rc", "weighted_majority", 0.25)
        framed = llm.generate([{"role": "user", "content": f"{QUESTION}\n\nBe brief."}], max_new_tokens=8)
        assert framed.usage.prompt_tokens == own.usage.prompt_tokens
        other = llm.generate(QUESTION, strategy="majority_vote", max_new_tokens=8, framing=Framing())
        assert (other.strategy, other.selection, other.calibrated_confidence) == ("majority_vote", "majority", None)
        assert any("not put as those that the head learnt from" in warning for warning in other.warnings)
        assert not any("not put as" in warning for warning in (*own.warnings, *framed.warnings))


def test_kept_hidden_states_are_those_of_their_prefixes(saved: Path) -> None:
    backend = TransformersBackend.open(saved, hidden_states=True)
    prompt = backend.encode(QUESTION)
    for rollout in collect(backend, [prompt], 3, SamplingParams(seed=2), max_new_tokens=21, interval=6, hidden_every=4):
        assert rollout.hidden is not None
        rows = len(rollout.joint_logits)
        assert rollout.hidden.positions.tolist() == sorted({*range(0, rows, 4), rows - 1})
        prefixes = [[*prompt, *rollout.tokens[:count].tolist()] for count in range(rows)]
        states = np.stack([item.hidden for item in backend.prefill(prefixes) if item.hidden is not None])
        means = states.cumsum(0) / np.arange(1, rows + 1)[:, None]
        at = rollout.hidden.positions
        np.testing.assert_allclose(rollout.hidden.last, states[at], atol=2e-2)
        np.testing.assert_allclose(rollout.hidden.mean, means[at], atol=2e-2)


@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0", "q4_0"])
def test_one_head_serves_every_form_of_its_model(kind: str, saved: Path, head: Path, exported: Exported) -> None:
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    with IntrospectiveLLM.from_pretrained(saved, head=head) as llm:
        expected = np.array(llm.introspect(QUESTION).joint)
    with IntrospectiveLLM.from_pretrained(exported("qwen3", kind, head=False), head=head, threads=1) as llm:
        found = llm.introspect(QUESTION)
    # A random model of width 32 is rough ground: the head is taken, and exact where nothing rounds.
    np.testing.assert_allclose(np.array(found.joint), expected, atol=1e-4 if kind == "f32" else 0.25)


def test_models_that_the_head_was_not_made_for_are_refused(
    head: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(HeadError, match="expected the model that the head was made for"):
        TransformersBackend.from_model(make_model("llama").half(), tokenizer, head=random_head(31))
    trained = make_model("qwen3")
    with torch.no_grad():
        for weight in trained.parameters():
            weight.mul_(1 + 0.05 * torch.randn_like(weight))
    with pytest.raises(HeadError, match=r"differ by .* a model that was trained on since"):
        TransformersBackend.from_model(trained, tokenizer, head=head)
    with pytest.raises(HeadError, match="the head belongs to a Qwen3ForCausalLM with layers 2, and this"):
        TransformersBackend.from_model(make_model("gemma3"), tokenizer, head=head)


def test_another_chat_template_is_told_with_every_result(
    head: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %} "
    with IntrospectiveLLM(TransformersBackend.from_model(make_model("qwen3"), other, head=head)) as llm:
        result = llm.generate(QUESTION, max_new_tokens=4, max_samples=1)
    assert any("chat template is not the one" in warning for warning in result.warnings)


def test_a_head_goes_where_its_model_goes(
    head: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("qwen3")
    with IntrospectiveLLM(TransformersBackend.from_model(model, tokenizer, head=head)) as llm:
        before = np.array(llm.introspect(QUESTION).joint)
        model.bfloat16()
        np.testing.assert_allclose(np.array(llm.introspect(QUESTION).joint), before, atol=0.1)


class TestTransformersWithHead(BackendConformance):
    """A head over an unchanged model, which reads the last hidden state alone, so that joints are those of prefixes."""

    @pytest.fixture(params=["qwen3", "gemma3", "lfm2"])
    def backend(
        self, request: pytest.FixtureRequest, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
    ) -> TransformersBackend:
        head = random_head(32, ("last",), 8)
        return TransformersBackend.from_model(make_model(request.param), tokenizer, head=head, hidden_states=True)


class TestTransformersHeads(HeadConformance):
    """Linear and with a hidden layer, evicted at every pause, and without looking, as on a GPU."""

    @pytest.fixture(params=[(0, None, True), (8, None, True), (0, 0, True), (0, None, False)])
    def backend(
        self, request: pytest.FixtureRequest, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
    ) -> TransformersBackend:
        hidden, memory, looks = request.param
        backend = TransformersBackend.from_model(
            make_model("qwen3"),
            tokenizer,
            head=random_head(32, ("last", "mean"), hidden),
            hidden_states=True,
            max_state_bytes=memory,
        )
        backend._decoder.looks = looks
        return backend
