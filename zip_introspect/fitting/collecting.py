"""The long part of fitting: rollouts with hidden states, looked at while they come, and taken over where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.store.collecting import Collecting, Grader, collect_to_file
from zip_introspect.evaluation.store.rollout_file import Question, Rollouts
from zip_introspect.evaluation.store.watching import Watch
from zip_introspect.framing import NO_FRAMING
from zip_introspect.llm import IntrospectiveLLM

HIDDEN_EVERY = 8


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
        Stopped: the estimate is made (`evaluation.store.watching`).
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
        watch=Watch(len(questions), say, stop=dry_run),
        **cast(Collecting, {**how, "hidden_every": HIDDEN_EVERY}),
    )
    return Rollouts.load(file)


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
