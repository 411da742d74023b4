"""How probable each answer is, given what the samples of a question said and how much their joints expect of them.

The model of one question. A sample is right with a probability p that the prompt tells roughly: p ~ Beta(s m,
s (1 - m)), with mean m from the joint at the prompt. Right samples say the right answer. Wrong ones say wrong answers
as a Chinese restaurant process of concentration theta seats guests: now and then the same. What the joint at a sample's
end expects, beside what it expected at the prompt, is evidence of that sample: by Bayes' rule odds(v) / odds(v_0) is
how much likelier it is to see such a sample where it is right than where it is wrong; it is raised to the power tau,
for heads differ in how far they can be trusted.

All of it integrates in closed form. With n complete samples, n_a of which say a, the weight of a being right beside
that of none being right is

    W_a = prod of evidence of the samples that say a
        * (s m)_{n_a} (s (1 - m))_{n - n_a} / (s (1 - m))_{n}
        * (theta)_{n} / ((theta)_{n - n_a} * theta * (n_a - 1)!)

where (x)_k = x (x + 1) ... (x + k - 1). A sample without an answer says what no other one says.
`docs/answer-posterior.md` derives it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zip_introspect.introspection.beside import BesideModel

Floats = NDArray[np.float64]

_NEAREST = 1e-3
"""To 0 and 1, where odds are taken: no head is surer than that."""
_NEAREST_RATE = 1e-9

FILE_NAME = "zip_introspect_answers.json"


class AnswerModel(BesideModel):
    """The parameters of the model. Those of a head are in its file; those of a checkpoint, in a file beside it."""

    file_name: ClassVar[str] = FILE_NAME
    what: ClassVar[str] = "a model of answers"
    made_by: ClassVar[str] = "zip-introspect calibrate ROLLOUTS"
    max_file_bytes: ClassVar[int] = 1 << 16

    strength: float = Field(2.0, gt=0.0, le=1e3, description="Samples that the prompt's expectation is worth (s).")
    variety: float = Field(2.0, gt=0.0, le=1e6, description="How rarely wrong samples agree: a concentration (theta).")
    trust: float = Field(1.0, ge=0.0, le=10.0, description="Power of a sample's own evidence (tau).")
    slope: float = Field(1.0, ge=0.0, le=10.0, description="Of the log-odds of m over those expected at the prompt.")
    offset: float = Field(0.0, ge=-10.0, le=10.0, description="What is added to them.")

    def rate(self, at_prompt: float) -> float:
        """The mean m of a sample's probability to be right, given what the joint at the prompt expects."""
        rate = 1.0 / (1.0 + math.exp(-(self.offset + self.slope * log_odds(at_prompt))))
        return min(max(rate, _NEAREST_RATE), 1.0 - _NEAREST_RATE)

    def evidence(self, value: float, at_prompt: float) -> float:
        """The logarithm of what a sample's final value says for it."""
        return self.trust * (log_odds(value) - log_odds(at_prompt))


def log_odds(probability: float) -> float:
    """Finite for 0 and 1 too."""
    clipped = min(max(probability, _NEAREST), 1.0 - _NEAREST)
    return math.log(clipped / (1.0 - clipped))


@dataclass(frozen=True, slots=True)
class Standing:
    """What the complete samples of a question have said."""

    answers: tuple[str, ...]
    """In the order of their first samples."""
    counts: tuple[int, ...]
    """Samples that say each of them."""
    evidence: tuple[float, ...]
    """The sums of these samples' evidence."""
    posterior: tuple[float, ...]
    """The probability of each to be right; what is left to 1 is that of any other."""
    complete: int
    """Samples."""


NOTHING_SAID = Standing((), (), (), (), 0)


class Belief:
    """What is believed of the answers to one question.

    Args:
        at_prompt: what the joint at the prompt expects, as a probability.
    """

    def __init__(self, model: AnswerModel, at_prompt: float) -> None:
        self.model, self.at_prompt, self.rate = model, at_prompt, model.rate(at_prompt)
        self._rising = np.zeros((4, 1))

    def standing(self, samples: Iterable[tuple[str, float]]) -> Standing:
        """What complete samples come to, each with the key of its answer and its final value as a probability."""
        counts: dict[str, int] = {}
        evidence: dict[str, float] = {}
        for answer, value in samples:
            counts[answer] = counts.get(answer, 0) + 1
            evidence[answer] = evidence.get(answer, 0.0) + self.model.evidence(value, self.at_prompt)
        complete = sum(counts.values())
        if not complete:
            return NOTHING_SAID
        logs = self.weights(max(counts.values()), complete, complete)[:, 0].tolist()
        sums = [logs[count] + evidence[answer] for answer, count in counts.items()]
        highest = max(0.0, *sums)
        shares = [math.exp(item - highest) for item in sums]
        total = sum(shares) + math.exp(-highest)
        posterior = tuple(share / total for share in shares)
        return Standing(tuple(counts), tuple(counts.values()), tuple(evidence.values()), posterior, complete)

    def weights(self, says: int, fewest: int, most: int) -> Floats:
        """The logarithms of W_a but for evidence, where k of n complete samples say a.

        Returns:
            shape (says + 1, most - fewest + 1), k in rows from 0 on, n in columns; -inf where k is 0 or above n.
        """
        right, wrong, variety, factorial = self._factorials(most)
        count, complete = np.arange(1, says + 1)[:, None], np.arange(fewest, most + 1)
        others = np.maximum(complete - count, 0)
        found = np.full((says + 1, complete.size), -np.inf)
        own = right[1 : says + 1] - factorial[:says] - variety[1]
        found[1:] = own[:, None] + (wrong - variety)[others] + (variety - wrong)[complete]
        found[1:][count > complete] = -np.inf
        return found

    def _factorials(self, most: int) -> Floats:
        """The logarithms of (x)_k, shape (4, most + 1 or more), for the x that the weights rest on."""
        if self._rising.shape[1] <= most:
            bases = self.model.strength * self.rate, self.model.strength * (1.0 - self.rate), self.model.variety, 1.0
            factors = np.log(np.array(bases)[:, None] + np.arange(2 * most + 8))
            self._rising = np.concatenate([np.zeros((4, 1)), factors.cumsum(axis=1)], axis=1)
        return self._rising
