"""Scorers that learn who is right from the first token, and a judge that goes on generating as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoTokenizer, Qwen3ForSequenceClassification

from tests.training.tiny import GRID, arguments, config, rollouts, tiny
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.errors import TrainingDataError
from zip_introspect.training.scorers import (
    JudgeCollator,
    JudgeQuestion,
    JudgeTrainer,
    RewardCollator,
    RewardModelTrainer,
    judgement_score,
)
from zip_introspect.training.trainer import policy_kl

QUESTION = JudgeQuestion((5, 6), yes=7, no=8)
DATA = rollouts(160)


def separation(scores: torch.Tensor) -> float:
    right = torch.tensor(DATA["reward"]) > 0.5
    return float(scores[right].mean() - scores[~right].mean())


def test_a_reward_model_learns_who_is_right(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(config(num_labels=1))
    collator = RewardCollator(0)
    RewardModelTrainer(
        model=model, args=arguments(tmp_path, num_train_epochs=6), train_dataset=DATA, data_collator=collator
    ).train()
    batch = collator(list(DATA))
    rewards = batch.pop("rewards")
    with torch.no_grad():
        scores = torch.sigmoid(model.eval()(**batch).logits[:, 0])
    assert separation(scores) > 0.5
    assert rewards.tolist() == DATA["reward"]


def judge_trainer(tmp_path: Path, kl_weight: float, **changes: Any) -> JudgeTrainer:
    return JudgeTrainer(
        tiny(),
        arguments(tmp_path, **changes),
        question=QUESTION,
        reference=tiny(),
        grid=GRID,
        kl_weight=kl_weight,
        train_dataset=DATA,
        data_collator=JudgeCollator(QUESTION, 0),
    )


def test_a_judge_learns_who_is_right_and_its_policy_stays(tmp_path: Path) -> None:
    drift = {}
    for weight in (0.0, 10.0):
        trainer = judge_trainer(tmp_path / str(weight), weight, num_train_epochs=8)
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "judge_loss" in entry]
        assert history[-1]["judge_loss"] < 0.75 * history[0]["judge_loss"]
        batch = JudgeCollator(QUESTION, 0)(list(DATA))
        last = batch["attention_mask"].sum(1) - 1
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits, original = trainer.model.eval()(**inputs).logits, tiny().eval()(**inputs).logits  # type: ignore[union-attr]
        assert separation(judgement_score(logits[torch.arange(len(last)), last], QUESTION)) > 0.5
        drift[weight] = float(policy_kl(logits[batch["drawn"]], original[batch["drawn"]], GRID).mean())
    assert drift[10.0] < 0.05
    assert drift[10.0] < drift[0.0]


def test_the_judges_loss_is_the_answer_behind_the_question_and_the_divergence_before_it(tmp_path: Path) -> None:
    trainer = judge_trainer(tmp_path, 3.0)
    rows = [DATA[0], DATA[1], DATA[2]]
    with torch.no_grad():
        loss, _ = trainer.summed_loss(tiny(1).eval(), dict(JudgeCollator(QUESTION, 0)(rows)))
    judged, divergence = 0.0, 0.0
    for item in rows:
        ids = torch.tensor([[*item["input_ids"], *QUESTION.question]])
        with torch.no_grad():
            logits, original = tiny(1).eval()(input_ids=ids).logits[0], tiny().eval()(input_ids=ids).logits[0]
        answer = QUESTION.yes if item["reward"] > 0.5 else QUESTION.no
        judged += cross_entropy(logits[-1], torch.tensor(answer)).item()
        for place in range(item["prompt_length"] - 1, item["length"] - 1):  # what is drawn after each of these
            ours, theirs = (log_softmax(found[place, :16].double(), -1) for found in (logits, original))
            divergence += float((ours.exp() * (ours - theirs)).sum())
    weight = trainer.usual_tokens / trainer.args.train_batch_size  # a judgement counts as a usual row's tokens
    assert float(loss) == pytest.approx(judged * weight + 3.0 * divergence, rel=1e-4)


def test_questions_are_tokens_and_answers_must_differ() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    found = JudgeQuestion.encode(tokenizer, "<|user|>?", "Y", "N")
    assert [tokenizer.convert_ids_to_tokens(token) for token in (*found.question, found.yes, found.no)] == [
        *("<|user|>", "?", "Y", "N")
    ]
    for question, yes, no in (("", "Y", "N"), ("?", "", "N"), ("?", "Yes", "Y")):
        with pytest.raises(TrainingDataError, match="first tokens differ"):
            JudgeQuestion.encode(tokenizer, question, yes, no)


def test_scores_are_probabilities_of_yes_against_no() -> None:
    logits = torch.zeros(2, 32)
    logits[0, QUESTION.yes], logits[1, QUESTION.no] = 2.0, 2.0
    expected = 1 / (1 + np.exp(-2))
    assert judgement_score(logits, QUESTION).tolist() == pytest.approx([expected, 1 - expected])
