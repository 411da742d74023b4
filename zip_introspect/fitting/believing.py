"""What to believe of answers: the parameters of `introspection.posterior`, by what turned out right."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, gammaln

from zip_introspect.answers.extraction import key
from zip_introspect.errors import TrainingDataError
from zip_introspect.evaluation.store.rollout_file import Rollouts, StoredRollout
from zip_introspect.introspection import joint
from zip_introspect.introspection.posterior import AnswerModel, log_odds

_SIZES = (1, 2, 4, 8)
"""Samples of which the parameters shall make the most."""
_EVALUATIONS = 600


@dataclass(frozen=True)
class _Seen:
    """What searches saw, a row for each answer of each of them, and what was right."""

    search: NDArray[np.intp]
    """Shape (rows,): which search; rising from 0."""
    says: NDArray[np.float64]
    """Samples that say it."""
    surer: NDArray[np.float64]
    """By how much the log-odds of their values exceed those expected at the prompt, in all."""
    right: NDArray[np.bool_]
    at_prompt: NDArray[np.float64]
    """Shape (searches,): the log-odds expected there."""
    complete: NDArray[np.float64]
    """Samples."""
    weight: NDArray[np.float64]
    """Those of a question add up to one."""

    def loss(self, model: AnswerModel) -> float:
        """Minus the log-likelihood of what was right, in nats: `Belief.standing` for all searches at once."""
        rate = expit(model.offset + model.slope * self.at_prompt)[self.search]
        wrong, n = model.strength * (1.0 - rate), self.complete[self.search]
        others = n - self.says
        logs = model.trust * self.surer + _rising(model.strength * rate, self.says) - gammaln(self.says)
        logs += _rising(wrong, others) - _rising(wrong, n) - math.log(model.variety)
        logs += _rising(model.variety, n) - _rising(model.variety, others)
        total = np.zeros(len(self.complete))  # the logarithm of 1: another answer
        np.logaddexp.at(total, self.search, logs)
        hit = np.zeros(len(self.complete))
        hit[self.search[self.right]] = logs[self.right]
        return float((self.weight * (total - hit)).sum())


def fit(rollouts: Rollouts) -> AnswerModel:
    """The parameters with the highest likelihood of what was right, held near their defaults where questions are few.

    Raises:
        EvaluationDataError: rollouts of a model without a head.
        TrainingDataError: no sample was complete, or rewards are no probabilities.
    """
    rewards = rollouts.joint_grid.reward_values
    if not (rewards[0] >= 0 and rewards[-1] <= 1):
        raise TrainingDataError(
            f"the rewards of {rollouts.model} go from {rewards[0]:g} to {rewards[-1]:g}; expected probabilities of "
            f"being right, from 0 to 1"
        )
    seen = _seen(rollouts)
    start = _coordinates(AnswerModel())

    def loss(at: NDArray[np.float64]) -> float:
        # Beside a question each: how far a parameter may lie off its default, in its own scale.
        return seen.loss(_model(at)) + 0.5 * float(((at - start) ** 2).sum())

    return _model(minimize(loss, start, method="Nelder-Mead", options={"maxfev": _EVALUATIONS}).x)


def halves(rollouts: Rollouts) -> tuple[Rollouts, Rollouts]:
    """Every other question, and the others."""
    first, second = (replace(rollouts, problems=rollouts.problems[start::2]) for start in (0, 1))
    return first, second


def _seen(rollouts: Rollouts) -> _Seen:
    """What searches of some sizes would have seen, each beginning at another sample."""
    rows: list[tuple[int, int, float, bool]] = []
    searches: list[tuple[float, int, float]] = []
    for problem in rollouts.problems:
        stored, begun = problem.rollouts, len(searches)
        at_prompt = log_odds(_at_prompt(rollouts, stored[0]))
        says = [f"\0{place}" if item.answer is None else key(item.answer) for place, item in enumerate(stored)]
        surer = [log_odds(rollouts.final_value(item)) - at_prompt for item in stored]
        for size in (size for size in _SIZES if size <= len(stored)):
            for first in range(0, len(stored), size):
                places = [(first + place) % len(stored) for place in range(size)]
                ended = [place for place in places if stored[place].finished]
                for answer in dict.fromkeys(says[place] for place in ended):
                    own = [place for place in ended if says[place] == answer]
                    is_right = any(stored[place].right for place in own)
                    rows.append((len(searches), len(own), sum(surer[place] for place in own), is_right))
                if ended:
                    searches.append((at_prompt, len(ended), 0.0))
        count = len(searches) - begun
        searches[begun:] = [(prompt, ended, 1.0 / count) for prompt, ended, _ in searches[begun:]]
    if not searches:
        raise TrainingDataError(f"no sample of {rollouts.model} is complete; raise max_new_tokens")
    search, counts, sums, right = zip(*rows, strict=True)
    prompts, complete, weights = zip(*searches, strict=True)
    return _Seen(
        np.array(search),
        np.array(counts, np.float64),
        np.array(sums),
        np.array(right),
        np.array(prompts),
        np.array(complete, np.float64),
        np.array(weights),
    )


def _at_prompt(rollouts: Rollouts, rollout: StoredRollout) -> float:
    root = rollout.joints[0].astype(np.float64).reshape(rollouts.joint_grid.shape)
    return float(joint.expected_value(root / root.sum(), rollouts.joint_grid))


def _rising(base: NDArray[np.float64] | float, count: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of base (base + 1) ... (base + count - 1)."""
    return np.asarray(gammaln(base + count) - gammaln(base))


def _coordinates(model: AnswerModel) -> NDArray[np.float64]:
    return np.array([math.log(model.strength), math.log(model.variety), model.trust, model.slope, model.offset])


def _model(at: NDArray[np.float64]) -> AnswerModel:
    strength, variety, trust, slope, offset = at.tolist()
    return AnswerModel(
        strength=math.exp(min(max(strength, -3.0), 6.0)),
        variety=math.exp(min(max(variety, -3.0), 8.0)),
        trust=min(max(trust, 0.0), 3.0),
        slope=min(max(slope, 0.0), 3.0),
        offset=min(max(offset, -5.0), 5.0),
    )
