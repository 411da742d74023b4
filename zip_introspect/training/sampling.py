"""The rollouts of a recipe: its questions, sampled as the model will be asked later, and graded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from zip_introspect.errors import ConfigError
from zip_introspect.evaluation.measures import graders
from zip_introspect.evaluation.store import datasets
from zip_introspect.evaluation.store.collecting import Grader, collect_to_file
from zip_introspect.evaluation.store.rollout_file import Question
from zip_introspect.evaluation.store.watching import Watch, check
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.training.recipe import Recipe


def questions_of(recipe: Recipe) -> list[Question]:
    """The recipe's questions, of all its data sets; one that is in several is kept once.

    Raises:
        EvaluationDataError: as `evaluation.store.datasets.load`.
    """
    found: dict[str, Question] = {}
    for source in recipe.questions:
        for question in datasets.load(
            source.dataset,
            split=source.split,
            question_column=source.question_column,
            answer_column=source.answer_column,
            limit=source.limit,
            seed=recipe.training.seed,
        ):
            found.setdefault(question.text, question)
    return list(found.values())


def check_questions(recipe: Recipe) -> tuple[list[Question], Grader]:
    """The questions and their grader, if they can be learnt from; nothing is sampled.

    Raises:
        TrainingDataError: too few questions, or a grader that takes everything.
        EvaluationDataError, ConfigError: as `questions_of`, or there are none.
    """
    if not recipe.questions:
        raise ConfigError("the recipe has no questions, and no rollouts are given; expected one of them")
    sys.path.append(os.getcwd())  # where a grader of one's own lies
    grade, questions = graders.get(recipe.grader), questions_of(recipe)
    check(questions, grade)
    return questions, grade


def sample(recipe: Recipe, model: str, file: Path, say: Callable[[str], None]) -> None:
    """Write graded rollouts; an interrupted run goes on with the questions that are left.

    Raises:
        TrainingDataError: hardly any right or wrong samples among the first.
        EvaluationDataError, ConfigError, BackendError: of questions, grader and model.
    """
    (questions, grade), how = check_questions(recipe), recipe.sampling
    say(f"{len(questions):,} questions are sampled {how.samples} times each")
    with IntrospectiveLLM.from_pretrained(model, backend=recipe.backend) as llm:
        collect_to_file(
            llm,
            questions,
            grade,
            file,
            say=say,
            watch=Watch(len(questions), say, together=how.concurrency / how.samples),
            samples=how.samples,
            sampling=how.params(recipe.training.seed),
            max_new_tokens=how.max_new_tokens,
            concurrency=how.concurrency,
            chat_template_kwargs=how.template_options,
            framing=how.framing(),
        )
