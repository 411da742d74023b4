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
_ONE_KIND = 40
"""Questions whose samples are all right or all wrong, after which it is in vain. Of a model that is right in 95%, a row
of 8 is likely, and short answers come first."""
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
        together: questions that are sampled at once.
        stop: end the run after the first look.

    Raises, when it is called:
        Stopped: `stop`.
        TrainingDataError: no right samples or no wrong ones among many, so that going on would be in vain.
    """

    def __init__(self, total: int, say: Callable[[str], None], *, together: float = 1.0, stop: bool = False) -> None:
        self._total, self._say, self._together, self._stop = total, say, together, stop
        self._begun, self._before = time.perf_counter(), 0
        self._grades: list[bool] = []
        self._tokens = 0
        self._looked = False

    def __call__(self, done: int, problem: QuestionRollouts) -> None:
        if not self._grades:
            self._before = done - 1
        self._grades += [item.right for item in problem.rollouts]
        self._tokens += sum(len(item.tokens) for item in problem.rollouts)
        fresh, last = done - self._before, done == self._total
        right = sum(self._grades)
        if not self._looked and (last or (fresh >= _LOOK_AFTER and len(self._grades) >= _SAMPLES)):
            self._looked = True
            self._tell(fresh, self._total - done, right)
            if self._stop:
                raise Stopped
        if right in (0, len(self._grades)) and fresh >= (_ONE_KIND if self._before else min(_ONE_KIND, self._total)):
            what, other = ("right", "harder") if right else ("wrong", "easier")
            raise TrainingDataError(
                f"all of the first {len(self._grades)} samples are {what}, and there is nothing to learn without some "
                f"of both. Take {other} questions, look at what the grader takes, or show the model the form of an "
                f"answer by a system message and worked examples"
            )

    def _tell(self, fresh: int, left: int, right: int) -> None:
        """How long it will take: those that are under way are half done on average."""
        seconds, samples = time.perf_counter() - self._begun, len(self._grades)
        under_way = min(self._together, left) / 2
        worked = (fresh + under_way) / fresh
        rest = seconds / (fresh + under_way) * (left - under_way)
        self._say(
            f"{fresh} questions took {seconds:.0f} s (some {self._tokens * worked / seconds:.0f} tokens/s, "
            f"{self._tokens / samples:.0f} tokens a sample, {right / samples:.0%} right): some {_span(rest)} for the "
            f"{left} that are left"
        )


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
