"""Choosing the final sample among those that finished (eq. 1, DESIGN 5.7).

Complete samples come before incomplete ones, whatever their values: a sample that was cut has no answer yet.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zip_introspect.answers.extraction import key

Selection = Literal["value", "majority", "weighted_majority"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that may be chosen."""

    number: int
    value: float | None
    """Final value of a complete sample, latest value of another; None where the model gives none."""
    complete: bool
    answer: str | None


def select(candidates: Sequence[Candidate], selection: Selection, seed: int = 0) -> Candidate | None:
    """The chosen sample, or None where there is none.

    - value: the highest value; the lowest number among equals.
    - majority: the answer with the most samples; ties are broken uniformly at random from `seed`, as in the paper.
    - weighted_majority: the answer with the largest sum of values; ties go to the lowest number.

    Votes choose an answer, whatever its spellings (`answers.key`); of its samples the one with the highest value stands
    for it. Samples without an answer do not vote; where none votes, the choice is by value. Samples without a value are
    equals.
    """
    complete = [candidate for candidate in candidates if candidate.complete] or list(candidates)
    if not complete:
        return None
    voters = [(key(candidate.answer), candidate) for candidate in complete if candidate.answer is not None]
    if selection == "value" or not voters:
        return max(complete, key=_by_value)
    votes: dict[str, float] = {}
    for answer, candidate in voters:
        weight = 1.0 if selection == "majority" else candidate.value or 0.0
        votes[answer] = votes.get(answer, 0.0) + weight
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    chosen = random.Random(seed).choice(tied) if selection == "majority" else tied[0]
    return max((candidate for answer, candidate in voters if answer == chosen), key=_by_value)


def _by_value(candidate: Candidate) -> tuple[float, int]:
    return candidate.value or 0.0, -candidate.number
