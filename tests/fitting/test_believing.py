"""What is believed of answers, learnt from rollouts: by the same likelihood as searches use, and found again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zip_introspect.errors import TrainingDataError
from zip_introspect.evaluation.store.rollout_file import Question, QuestionRollouts, Rollouts, StoredRollout
from zip_introspect.fitting import believing
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.posterior import AnswerModel, Belief, log_odds

VALUES = np.round(np.linspace(0.05, 0.95, 19), 2)
GRID = JointGrid(
    reward_edges=[0.0, *((VALUES[1:] + VALUES[:-1]) / 2).tolist(), 1.0],
    reward_values=VALUES.tolist(),
    length_edges=[0.0, 10.0],
    length_values=[5.0],
    first_reserved=0,
)


def joints(value: float) -> np.ndarray:
    row = np.zeros(GRID.num_cells, np.float16)
    row[int(np.abs(VALUES - value).argmin())] = 1.0
    return row


def drawn(model: AnswerModel, questions: int, samples: int = 8, seed: int = 0) -> Rollouts:
    """Rollouts of a world that is as the model says."""
    rng = np.random.default_rng(seed)
    problems = []
    for place in range(questions):
        at_prompt = float(rng.choice(VALUES[3:-3]))
        rate = rng.beta(model.strength * model.rate(at_prompt), model.strength * (1 - model.rate(at_prompt)))
        evidence = np.array([model.evidence(value, at_prompt) for value in VALUES.tolist()])
        chance = 1 / (1 + np.exp(-(log_odds(model.rate(at_prompt)) + evidence)))
        # Two values as likely together as the prompt says: one above, one below.
        low = rng.choice(np.flatnonzero(chance < model.rate(at_prompt)))
        high = rng.choice(np.flatnonzero(chance > model.rate(at_prompt)))
        share = (model.rate(at_prompt) - chance[low]) / (chance[high] - chance[low])
        made, tables = [], list[str]()
        for _ in range(samples):
            right = bool(rng.random() < rate)
            high_if = share * chance[high] / model.rate(at_prompt)
            if not right:
                high_if = share * (1 - chance[high]) / (1 - model.rate(at_prompt))
            value = float(VALUES[high if rng.random() < high_if else low])
            answer = "right"
            if not right:
                joins = rng.random() < len(tables) / (len(tables) + model.variety)
                answer = str(rng.choice(tables)) if joins else f"wrong {len(set(tables))}"
                tables.append(answer)
            rows = np.stack([joints(at_prompt), joints(value)])
            made.append(StoredRollout(np.array([1, 2], np.int32), answer, answer, right, True, rows))
        problems.append(QuestionRollouts(Question(str(place), "right"), (place,), tuple(made)))
    return Rollouts(GRID, "drawn", 10, tuple(problems))


def test_its_likelihood_is_that_of_the_posterior_that_searches_use() -> None:
    model = AnswerModel(strength=3.0, variety=0.7, trust=0.8, slope=0.9, offset=0.2)
    rollouts = drawn(model, 6, samples=4)
    expected = 0.0
    for problem in rollouts.problems:
        at_prompt = float(VALUES[problem.rollouts[0].joints[0].argmax()])
        losses = []
        for size in (1, 2, 4):
            for first in range(0, 4, size):
                some = problem.rollouts[first : first + size]
                seen = [(str(item.answer), float(VALUES[item.joints[-1].argmax()])) for item in some]
                standing = Belief(model, at_prompt).standing(seen)
                shares = dict(zip(standing.answers, standing.posterior, strict=True))
                losses.append(-math.log(shares.get("right", 1 - sum(standing.posterior))))
        expected += float(np.mean(losses))
    assert believing._seen(rollouts).loss(model) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "model",
    [AnswerModel(strength=8.0, variety=0.5, trust=0.5), AnswerModel(strength=1.0, variety=6.0, trust=1.0)],
)
def test_what_a_world_is_like_is_found_again(model: AnswerModel) -> None:
    found = believing.fit(drawn(model, 600))
    assert abs(math.log(found.variety / model.variety)) < 0.5
    assert abs(math.log(found.strength / model.strength)) < 0.7
    assert abs(found.trust - model.trust) < 0.2
    assert abs(found.slope - 1) < 0.25
    fresh = believing._seen(drawn(model, 300, seed=1))
    assert fresh.loss(found) <= fresh.loss(AnswerModel()) + 1.0


def test_a_few_questions_move_little() -> None:
    found = believing.fit(drawn(AnswerModel(strength=50.0, variety=50.0), 2))
    assert abs(math.log(found.strength / AnswerModel().strength)) < 2


def test_halves_hold_every_question_once() -> None:
    rollouts = drawn(AnswerModel(), 7)
    first, second = believing.halves(rollouts)
    assert [item.question.text for item in first.problems] == ["0", "2", "4", "6"]
    assert [item.question.text for item in second.problems] == ["1", "3", "5"]


def test_rollouts_that_were_all_cut_are_refused() -> None:
    cut = StoredRollout(np.array([1], np.int32), "", None, False, False, np.stack([joints(0.5)] * 2))
    with pytest.raises(TrainingDataError, match="max_new_tokens"):
        believing.fit(Rollouts(GRID, "drawn", 10, (QuestionRollouts(Question("q", "a"), (1,), (cut,)),)))
