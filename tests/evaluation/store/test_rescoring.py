"""Stored rollouts read by other models: every score is that of reading one sample alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GraniteConfig,
    PreTrainedModel,
)

from tests.training.tiny import config, tiny
from zip_introspect import IntrospectiveLLM
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.demo.problems import held_out
from zip_introspect.errors import EvaluationDataError, GridError, ModelLoadError
from zip_introspect.evaluation.measures import graders
from zip_introspect.evaluation.store import rescoring
from zip_introspect.evaluation.store.collecting import collect_rollouts
from zip_introspect.evaluation.store.rollout_file import Question, Rollouts
from zip_introspect.testing.rounding import SMALL_MODEL, tolerance

VOCABULARY = 384
ROUNDING = tolerance(1.0, SMALL_MODEL) / 4
"""Of a score: logits are about 1, and the logistic function's slope is a quarter at the most."""


@pytest.fixture(scope="module")
def stored() -> Rollouts:
    with IntrospectiveLLM.demo(backend="transformers") as llm:
        asked = [Question(item.prompt, str(item.answer)) for item in held_out(3, 6)]
        return collect_rollouts(llm, asked, graders.get("abacus"), samples=2, max_new_tokens=120)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    AutoTokenizer.from_pretrained(DEMO_MODEL).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config(VOCABULARY, num_labels=1, pad_token_id=319))
    return saved(model, tmp_path_factory.mktemp("reward_model"))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny(2, VOCABULARY), tmp_path_factory.mktemp("judge"))


def test_a_reward_models_score_is_that_of_the_sample_alone(stored: Rollouts, reward_model: Path) -> None:
    found = rescoring.with_external_scores(stored, reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    assert found.parameters is not None
    assert found.external_cost == model.num_parameters() / found.parameters
    for problem in found.problems:
        for rollout in problem.rollouts:
            ids = torch.tensor([[*problem.prompt_tokens, *rollout.tokens.tolist()]])
            with torch.no_grad():
                expected = torch.sigmoid(model(input_ids=ids).logits[0, 0])
            assert rollout.external_score == pytest.approx(float(expected), abs=ROUNDING)


def test_a_judge_answers_behind_the_sample(stored: Rollouts, judge: Path, tmp_path: Path) -> None:
    asked = {"question": "<|user|>?", "yes": "Y", "no": "N"}
    found = rescoring.with_self_scores(stored, judge, **asked)
    tokenizer, model = AutoTokenizer.from_pretrained(judge), AutoModelForCausalLM.from_pretrained(judge).eval()
    question = tokenizer.encode("<|user|>?", add_special_tokens=False)
    assert found.judgement_tokens == len(question) == 2
    yes, no = (tokenizer.convert_tokens_to_ids(name) for name in "YN")
    for problem in found.problems:
        for rollout in problem.rollouts:
            ids = torch.tensor([[*problem.prompt_tokens, *rollout.tokens.tolist(), *question]])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, -1]
            assert rollout.self_score == pytest.approx(float(torch.sigmoid(logits[yes] - logits[no])), abs=ROUNDING)
    own = saved(model, tmp_path)
    (own / rescoring.JUDGE_FILE).write_text(json.dumps(asked))
    again = rescoring.with_self_scores(stored, own)
    assert [item.self_score for problem in again.problems for item in problem.rollouts] == [
        item.self_score for problem in found.problems for item in problem.rollouts
    ]


def test_a_judge_whose_logits_are_scaled_is_asked_for_its_own(stored: Rollouts, tmp_path: Path) -> None:
    torch.manual_seed(3)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 2,
    }
    granite = AutoModelForCausalLM.from_config(GraniteConfig(vocab_size=VOCABULARY, **shape, logits_scaling=8.0)).eval()
    torch.nn.init.normal_(granite.lm_head.weight)
    found = rescoring.with_self_scores(stored, saved(granite, tmp_path), question="?", yes="Y", no="N")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    question, yes, no = (tokenizer.encode(text, add_special_tokens=False)[0] for text in "?YN")
    problem = found.problems[1]
    ids = torch.tensor([[*problem.prompt_tokens, *problem.rollouts[0].tokens.tolist(), question]])
    with torch.no_grad():
        logits = granite(input_ids=ids).logits[0, -1]
    assert problem.rollouts[0].self_score == pytest.approx(float(torch.sigmoid(logits[yes] - logits[no])), abs=ROUNDING)


def test_a_reward_model_without_padding_reads_the_end_of_the_sample(stored: Rollouts, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config(VOCABULARY, num_labels=1)).eval()
    folder = saved(model, tmp_path)
    for file in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / file).read_text())
        for key in ("pad_token_id", "pad_token"):
            settings.pop(key, None)
        (folder / file).write_text(json.dumps(settings))
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is None
    found = rescoring.with_external_scores(stored, folder)
    problem = next(p for p in found.problems if p.rollouts[0].finished)
    ids = torch.tensor([[*problem.prompt_tokens, *problem.rollouts[0].tokens.tolist()]])
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
        expected = torch.sigmoid(model.score(hidden)[0])
    assert problem.rollouts[0].external_score == pytest.approx(float(expected), abs=ROUNDING)


def test_the_models_own_head_gives_the_joints_that_are_stored(stored: Rollouts) -> None:
    found = rescoring.with_joints_of(stored, DEMO_MODEL)
    stored.check_same_samples(found)
    for ours, theirs in zip(stored.problems, found.problems, strict=True):
        for one, other in zip(ours.rollouts, theirs.rollouts, strict=True):
            np.testing.assert_allclose(one.joints.astype(float), other.joints.astype(float), atol=1e-3)


def test_the_longest_are_read_first_and_every_one_once() -> None:
    sizes = [9000, 10, 300, 8000, 16_000, 20_000]
    batches = list(rescoring._batches(sizes, rescoring.TOKENS_AT_ONCE))
    assert sorted(place for batch in batches for place in batch) == list(range(len(sizes)))
    assert batches[0] == [5], "alone, since it is longer than a batch"
    for batch in batches[1:]:
        assert sizes[batch[0]] * len(batch) <= rescoring.TOKENS_AT_ONCE


def test_samples_of_others_are_told_apart(stored: Rollouts) -> None:
    first, *rest = stored.problems
    changed = dataclasses.replace(first, rollouts=first.rollouts[::-1])
    with pytest.raises(EvaluationDataError, match="--joints-of"):
        stored.check_same_samples(dataclasses.replace(stored, problems=(changed, *rest)))


def test_what_cannot_score_is_refused_before_it_reads(
    stored: Rollouts, reward_model: Path, judge: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match="cannot be opened"):
        rescoring.with_external_scores(stored, tmp_path / "none")
    two = saved(AutoModelForSequenceClassification.from_config(config(VOCABULARY, num_labels=2)), tmp_path / "two")
    with pytest.raises(EvaluationDataError, match="has 2 labels"):
        rescoring.with_external_scores(stored, two)
    first = stored.problems[0]
    odd = dataclasses.replace(first.rollouts[0], text="another text")
    other = dataclasses.replace(first, rollouts=(odd, *first.rollouts[1:]))
    with pytest.raises(EvaluationDataError, match="same tokenizer"):
        rescoring.with_external_scores(dataclasses.replace(stored, problems=(other,)), reward_model)
    short = saved(tiny(0, VOCABULARY), tmp_path / "short")
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 40}))
    with pytest.raises(EvaluationDataError, match="reads 40"):
        rescoring.with_self_scores(stored, short)
    with pytest.raises(EvaluationDataError, match="first tokens differ"):
        rescoring.with_self_scores(stored, judge, question="?", yes="Y", no="Y")
    with pytest.raises(GridError):
        rescoring.with_joints_of(stored, judge)
    (short / rescoring.JUDGE_FILE).write_text("{")
    (short / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError, match="judge's question"):
        rescoring.with_self_scores(stored, short)
