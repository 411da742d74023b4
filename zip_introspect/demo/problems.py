"""Questions with their right answers: the training mix and the held-out test sets, each fixed by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from zip_introspect.demo.corpus import DECLINE, phrase, unanswerable
from zip_introspect.demo.equations import TIERS, Equation, sample
from zip_introspect.errors import TrainingDataError

UNSOLVABLE, DECLINED = 0.06, 0.04
MISSES = 20_000
"""Draws in a row without a new problem, after which there are none left."""


@dataclass(frozen=True)
class Problem:
    """A prompt, its tier (0 where it is no equation of the grammar) and the right answer."""

    prompt: str
    tier: int
    answer: str

    def grade(self, text: str) -> bool:
        """Whether a completion ends in the right answer."""
        if not self.tier:
            return text.strip() == self.answer
        return text.rsplit("\n", 1)[-1].strip() == f"ans {self.answer}"


def training_mix(seed: int, count: int) -> list[Problem]:
    """Problems to roll out for training: all tiers alike, some unsolvable, some to decline; none held out."""
    rng = random.Random(seed)
    problems = []
    for _ in range(count):
        if rng.random() < DECLINED:
            problems.append(Problem(unanswerable(rng), 0, DECLINE))
        else:
            equation = sample(rng, rng.choice(TIERS), held_out=False, solvable=rng.random() >= UNSOLVABLE)
            problems.append(Problem(phrase(equation, rng), equation.tier, equation.answer))
    return problems


def held_out(seed: int, count: int, tiers: Sequence[int] = TIERS) -> list[Problem]:
    """Distinct solvable problems that no training has seen, an equal number of each tier in turn.

    Raises:
        TrainingDataError: there are not so many.
    """
    rng = random.Random(f"held out {seed}")
    problems: list[Problem] = []
    seen: set[str] = set()
    misses = 0
    while len(problems) < count:
        misses += 1
        if misses > MISSES:
            raise TrainingDataError(
                f"{count} problems of the tiers {', '.join(map(str, tiers))} were asked for, and hardly more than "
                f"{len(problems)} are held out; ask for fewer"
            )
        equation = sample(rng, tiers[len(problems) % len(tiers)], held_out=True)
        mirrored = Equation(equation.right, equation.left)  # the same question for a reader, another for the split
        if str(equation) not in seen and (mirrored.held_out or equation.right.kind == "constant"):
            seen.add(str(equation))
            misses = 0
            problems.append(Problem(phrase(equation, rng), equation.tier, equation.answer))
    return problems
