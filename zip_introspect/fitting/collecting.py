"""The long part of fitting: rollouts with hidden states, looked at while they come, and taken over where they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from zip_introspect.errors import EvaluationDataError, TrainingDataError
from zip_introspect.evaluation.store.collecting import Collecting, Grader, collect_to_file
from zip_introspect.evaluation.store.rollout_file import Question, QuestionRollouts, Rollouts
from zip_introspect.framing import NO_FRAMING
from zip_introspect.llm import IntrospectiveLLM

FEWEST = 20
"""Questions from which anything can be learnt."""
HIDDEN_EVERY = 8
_LOOK_AFTER = 8
"""Questions after which time and grades are judged."""
_FEWEST_OF_A_KIND = 0.02
"""Of the samples, right and wrong ones."""
_NONSENSE = ("", "I do not know.", "The answer is none of these.")


class DryRun(Exception):  # noqa: N818 - nothing went wrong
    """The estimate is made, and no more was asked for."""


def check(questions: Sequence[Question], grader: Grader) -> None:
    """Refuse what no head can be made of, before a model is opened.

    Raises:
        TrainingDataError: too few questions, or a grader that takes everything.
    """
    if len(questions) < FEWEST:
        raise TrainingDataError(
            f"there are {len(questions)} questions; expected {FEWEST} or more, and better some hundred"
        )
    taken = [question for question in questions if all(grader(text, question.expected) for text in _NONSENSE)]
    if len(taken) > len(questions) // 2:
        raise TrainingDataError(
            f"the grader takes {_NONSENSE[1]!r} for right of {len(taken)} of {len(questions)} questions, such as "
            f"{taken[0].text[:60]!r}; expected one that tells right from wrong. Choose another --grader"
        )


def collect(
    llm: IntrospectiveLLM,
    questions: Sequence[Question],
    grader: Grader,
    file: Path,
    how: Collecting,
    *,
    dry_run: bool = False,
    say: Callable[[str], None],
) -> Rollouts:
    """Rollouts of these questions: those of the file if it holds them, or else sampled, resumably.

    Args:
        say: is told what is taken over, and how long it will take, once some questions are done.

    Raises:
        DryRun: the estimate is made.
        TrainingDataError: hardly any right or wrong samples among the first, so that going on would be in vain.
        EvaluationDataError: the file holds other rollouts.
    """
    if file.exists():
        found = Rollouts.load(file)
        _check_same(found, llm, questions, file, how)
        say(f"the rollouts of {len(questions)} questions are taken over from {file}")
        return found
    collect_to_file(
        llm,
        questions,
        grader,
        file,
        say=say,
        watch=_Watch(len(questions), dry_run, say),
        **cast(Collecting, {**how, "hidden_every": HIDDEN_EVERY}),
    )
    return Rollouts.load(file)


class _Watch:
    """Looks at the first questions: how long the rest will take, and whether it is worth it."""

    def __init__(self, total: int, dry_run: bool, say: Callable[[str], None]) -> None:
        self._total, self._dry_run, self._say = total, dry_run, say
        self._begun, self._before = time.perf_counter(), 0
        self._grades: list[bool] = []
        self._tokens = 0

    def __call__(self, done: int, problem: QuestionRollouts) -> None:
        if not self._grades:
            self._before = done - 1
        self._grades += [item.right for item in problem.rollouts]
        self._tokens += sum(len(item.tokens) for item in problem.rollouts)
        fresh = done - self._before
        if fresh != min(_LOOK_AFTER, self._total - self._before):
            return
        seconds = time.perf_counter() - self._begun
        share, samples = sum(self._grades) / len(self._grades), len(self._grades)
        self._say(
            f"{fresh} questions took {seconds:.0f} s ({self._tokens / seconds:.0f} tokens/s, "
            f"{self._tokens / samples:.0f} tokens a sample, {share:.0%} right): some "
            f"{_span(seconds / fresh * (self._total - done))} for the {self._total - done} that are left"
        )
        if not _FEWEST_OF_A_KIND <= share <= 1 - _FEWEST_OF_A_KIND:
            what, other = ("right", "harder") if share > 0.5 else ("wrong", "easier")
            raise TrainingDataError(
                f"all of the first {samples} samples are {what}, and a head needs some of both. Take {other} "
                f"questions, look at what the grader takes, or show the model the form of an answer with --system and "
                f"--examples"
            )
        if self._dry_run:
            raise DryRun


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _check_same(
    found: Rollouts, llm: IntrospectiveLLM, questions: Sequence[Question], file: Path, how: Collecting
) -> None:
    asked = [question.text for question in questions]
    stored = [problem.question.text for problem in found.problems]
    differing = {
        "its questions": asked != stored,
        "the samples of each": any(len(problem.rollouts) != how["samples"] for problem in found.problems),
        "how they were put": found.framing != how.get("framing", NO_FRAMING),
        "its model": found.hidden_size not in (None, llm.info.hidden_size),
        "hidden states, of which it has none": found.hidden_size is None,
    }
    if wrong := [name for name, differs in differing.items() if differs]:
        raise EvaluationDataError(
            f"{file} holds rollouts that differ in {', '.join(wrong)}. Delete it to begin anew, or name another --out"
        )
