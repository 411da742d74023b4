"""The long part of fitting: rollouts with hidden states, looked at while they come, and taken over where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from zip_introspect.evaluation.store.collecting import Collecting, Grader, collect_to_file, taken_over
from zip_introspect.evaluation.store.rollout_file import Question, Rollouts
from zip_introspect.evaluation.store.watching import Stopped, Watch
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
    wanted = cast(Collecting, {**how, "hidden_every": HIDDEN_EVERY})
    if file.exists():
        found = taken_over(llm, questions, grader, file, **wanted)
        say(f"the rollouts of {len(questions)} questions are taken over from {file}, and graded anew")
        if dry_run:
            raise Stopped
        return found
    collect_to_file(
        llm,
        questions,
        grader,
        file,
        say=say,
        watch=Watch(len(questions), say, together=how.get("concurrency", 1) / how["samples"], stop=dry_run),
        **wanted,
    )
    if dry_run:  # all were there already, so that there was nothing to watch
        raise Stopped
    return Rollouts.load(file)
