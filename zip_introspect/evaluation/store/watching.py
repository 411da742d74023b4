"""Looking at rollouts while they come: what nothing can be learnt from is refused before the long part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from zip_introspect.errors import TrainingDataError
from zip_introspect.evaluation.store.collecting import Grader
from zip_introspect.evaluation.store.rollout_file import Question, QuestionRollouts

FEWEST = 20
"""Questions from which anything can be learnt."""
_LOOK_AFTER, _SAMPLES = 8, 32
"""Questions and samples after which time and grades are judged."""
_FEWEST_OF_A_KIND = 0.02
"""Of the samples, right and wrong ones."""
_NONSENSE = ("", "I do not know.", "The answer is none of these.")


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The estimate is made, and no more was asked for."""


def check(questions: Sequence[Question], grader: Grader) -> None:
    """Refuse what nothing can be learnt from, before a model is opened.

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
            f"{taken[0].text[:60]!r}; expected one that tells right from wrong. Choose another grader"
        )


class Watch:
    """Looks at the first questions: how long the rest will take, and whether it is worth it.

    Args:
        say: is told.
        stop: end the run then.

    Raises, when it is called:
        Stopped: `stop`.
        TrainingDataError: hardly any right or wrong samples, so that going on would be in vain.
    """

    def __init__(self, total: int, say: Callable[[str], None], *, stop: bool = False) -> None:
        self._total, self._say, self._stop = total, say, stop
        self._begun, self._before = time.perf_counter(), 0
        self._grades: list[bool] = []
        self._tokens = 0
        self._looked = False

    def __call__(self, done: int, problem: QuestionRollouts) -> None:
        if self._looked:
            return
        if not self._grades:
            self._before = done - 1
        self._grades += [item.right for item in problem.rollouts]
        self._tokens += sum(len(item.tokens) for item in problem.rollouts)
        fresh = done - self._before
        if done < self._total and (fresh < _LOOK_AFTER or len(self._grades) < _SAMPLES):
            return
        self._looked = True
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
                f"all of the first {samples} samples are {what}, and there is nothing to learn without some of both. "
                f"Take {other} questions, look at what the grader takes, or show the model the form of an answer by a "
                f"system message and worked examples"
            )
        if self._stop:
            raise Stopped


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
