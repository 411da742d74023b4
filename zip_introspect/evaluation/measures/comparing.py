"""Strategies held against each other at equal cost, and predictions against what happened (sections 6.2 to 6.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.measures.cost import Interval, generation_cost, mean_interval, paired_differences
from zip_introspect.evaluation.measures.metrics import (
    RiskCoverage,
    auroc,
    auroc_within,
    brier,
    classification,
    expected_calibration_error,
    measured_joint,
    risk_coverage,
    total_variation,
)
from zip_introspect.evaluation.replay.baselines import OURS, TITLES, WEIGHED, ZIP_RC, label
from zip_introspect.evaluation.replay.trials import Outcomes, Setting, single
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts
from zip_introspect.introspection.grid import JointGrid

ALL = "all"
"""The group of every question."""
_DRAWS = 200


@dataclass(frozen=True)
class Point:
    """A setting of a curve on a group of questions."""

    group: str
    curve: str
    setting: str
    accuracy: Interval
    cost: Interval
    samples: Interval
    tokens: float
    compute: float
    """Normalised, as the cost is: 1 is a single sample of the question."""
    latency: float


@dataclass(frozen=True)
class Difference:
    """Accuracy of one of our strategies less that of another curve at the same mean cost."""

    group: str
    curve: str
    setting: str
    rival: str
    reach: str
    """"within" the costs of the rival; "below" its cheapest setting, which then stands for it; "above" its dearest."""
    accuracy: Interval


@dataclass(frozen=True)
class FrontierStep:
    """From the most accurate of all cheaper points of zip_rc to the next, by mean cost."""

    group: str
    before: str
    after: str
    accuracy: Interval

    @property
    def falls(self) -> bool:
        """Whether paying more lost accuracy, by more than the interval."""
        return self.accuracy.high < 0


@dataclass(frozen=True)
class Comparison:
    """Everything about one alpha, for all questions together and for each group."""

    alpha: float
    points: tuple[Point, ...]
    differences: tuple[Difference, ...]
    steps: tuple[FrontierStep, ...]

    def curve(self, name: str, group: str = ALL) -> list[Point]:
        """The points of a curve, in the order of its settings."""
        return [point for point in self.points if (point.curve, point.group) == (name, group)]

    @property
    def curves(self) -> list[str]:
        """The names of the curves, in the order of `TITLES`, others last."""
        found = {point.curve for point in self.points}
        return [*(name for name in TITLES if name in found), *sorted(found - set(TITLES))]

    def at(self, curve: str, setting: str) -> dict[str, Point]:
        """A setting's points by their groups."""
        return {point.group: point for point in self.points if (point.curve, point.setting) == (curve, setting)}

    def matched(self, setting: str) -> list[Point]:
        """A setting of zip_rc, then of every other curve the one whose mean cost over all questions is nearest."""
        target = self.at(ZIP_RC, setting)[ALL]
        others = [name for name in self.curves if name != ZIP_RC]
        return [
            target,
            *(min(self.curve(name), key=lambda p: abs(p.cost.value - target.cost.value)) for name in others),
        ]


@dataclass(frozen=True)
class _Measured:
    """Shape (questions,) each."""

    setting: Setting
    right: NDArray[np.float64]
    cost: NDArray[np.float64]
    compute: NDArray[np.float64]
    latency: NDArray[np.float64]
    samples: NDArray[np.float64]
    tokens: NDArray[np.float64]

    def point(self, group: str, inside: NDArray[np.bool_]) -> Point:
        return Point(
            group,
            self.setting.name,
            label(self.setting),
            mean_interval(self.right[inside]),
            mean_interval(self.cost[inside]),
            mean_interval(self.samples[inside]),
            float(self.tokens[inside].mean()),
            float(self.compute[inside].mean()),
            float(self.latency[inside].mean()),
        )


def compare(rollouts: Rollouts, outcomes: Sequence[Outcomes], alpha: float) -> Comparison:
    """Accuracy and cost of every setting at one alpha, and ours against every other curve at equal cost.

    Args:
        outcomes: those of strategies that weigh cost, made with another alpha, are left out; others know none.

    Raises:
        EvaluationDataError: outcomes of another number of questions than the rollouts'.
    """
    _, one_compute, one_latency = single(rollouts)
    for outcome in outcomes:
        if len(outcome.right) != len(rollouts.problems):
            raise EvaluationDataError(
                f"{outcome.setting.name} has outcomes of {len(outcome.right)} questions, and the rollouts are of "
                f"{len(rollouts.problems)}; evaluate these rollouts anew"
            )
    measured: dict[str, list[_Measured]] = {}
    for outcome in outcomes:
        if outcome.setting.name in WEIGHED and outcome.setting.config.alpha != alpha:
            continue
        item = _Measured(
            outcome.setting,
            outcome.right,
            generation_cost(outcome.compute, outcome.latency, one_compute, one_latency, alpha),
            outcome.compute / one_compute,
            outcome.latency / one_latency,
            outcome.samples,
            outcome.tokens,
        )
        measured.setdefault(outcome.setting.name, []).append(item)
    points: list[Point] = []
    differences: list[Difference] = []
    steps: list[FrontierStep] = []
    for group, inside in groups(rollouts).items():
        points += [item.point(group, inside) for items in measured.values() for item in items]
        frontier = sorted(measured.get(ZIP_RC, []), key=lambda item: float(item.cost[inside].mean()))
        for curve in (name for name in OURS if name in measured):
            for name, rival in measured.items():
                if name != curve:
                    differences += _differences(group, inside, measured[curve], name, rival)
        steps += _steps(group, inside, frontier)
    return Comparison(alpha, tuple(points), tuple(differences), tuple(steps))


def groups(rollouts: Rollouts) -> dict[str, NDArray[np.bool_]]:
    """Which questions each group has: all of them first; then the groups, if there are more than one."""
    owner = np.array([problem.question.group for problem in rollouts.problems])
    names = sorted(set(owner.tolist()))
    everything = {ALL: np.ones(len(owner), dtype=bool)}
    return everything if len(names) == 1 else {**everything, **{name: owner == name for name in names}}


def _differences(
    group: str, inside: NDArray[np.bool_], items: Sequence[_Measured], name: str, rival: Sequence[_Measured]
) -> list[Difference]:
    right, cost, rival_right, rival_cost = (
        np.array([getattr(item, figure)[inside] for item in curve])
        for curve in (items, rival)
        for figure in ("right", "cost")
    )
    cheapest, dearest = rival_cost.mean(1).min(), rival_cost.mean(1).max()
    reach = ["below" if mean < cheapest else "above" if mean > dearest else "within" for mean in cost.mean(1)]
    found = paired_differences(right, cost, rival_right, rival_cost)
    rows = zip(items, reach, found, strict=True)
    return [
        Difference(group, item.setting.name, label(item.setting), name, where, interval)
        for item, where, interval in rows
    ]


def _steps(group: str, inside: NDArray[np.bool_], frontier: Sequence[_Measured]) -> list[FrontierStep]:
    steps = []
    for place in range(1, len(frontier)):
        best = max(frontier[:place], key=lambda item: float(item.right[inside].mean()))
        item = frontier[place]
        gained = mean_interval((item.right - best.right)[inside])
        steps.append(FrontierStep(group, label(best.setting), label(item.setting), gained))
    return steps


@dataclass(frozen=True)
class Start:
    """The joint at the prompt of a question, beside that of its rollouts."""

    problem: QuestionRollouts
    predicted: NDArray[np.float64]
    """Shape (B_V, B_T)."""
    measured: NDArray[np.float64]
    """Shape (B_V, B_T): final values and lengths of the rollouts."""
    distance: float
    """Total variation between the two."""
    floor: float
    """What a perfect prediction would score: so many rollouts drawn from it lie so far from it, on average."""


@dataclass(frozen=True)
class Predictions:
    """Every rollout's end, and every question's start."""

    owner: NDArray[np.int64]
    """Shape (rollouts,): its question."""
    right: NDArray[np.bool_]
    """Shape (rollouts,)."""
    values: NDArray[np.float64]
    """Shape (rollouts,): the expected reward at the end; the lowest where it was cut."""
    starts: tuple[Start, ...]

    @cached_property
    def risk_coverage(self) -> RiskCoverage:
        """Of answering only where the value is high."""
        return risk_coverage(self.right, self.values)

    def figures(self, inside: NDArray[np.bool_]) -> dict[str, float]:
        """Table 1, and more, on the questions of a group; NaN where all rollouts are right, or all wrong."""
        return self._figures(np.flatnonzero(inside))

    def intervals(self, resamples: int = 200) -> dict[str, Interval]:
        """The same on all questions, with bootstrap intervals over them; NaN where a draw has no such figure."""
        size = len(self.starts)
        rng = np.random.default_rng(0)
        drawn = [self._figures(rng.integers(0, size, size)) for _ in range(resamples)]
        return {
            name: Interval(value, *map(float, np.percentile([draw[name] for draw in drawn], (2.5, 97.5))))
            for name, value in self._figures(np.arange(size)).items()
        }

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        """Each question's rollouts."""
        return [np.flatnonzero(self.owner == place) for place in range(len(self.starts))]

    @cached_property
    def _within(self) -> NDArray[np.float64]:
        """Each question's AUROC; NaN where its rollouts are all right, or all wrong."""
        return np.array([auroc_within(np.zeros(len(r)), self.right[r], self.values[r])[0] for r in self._rows])

    def _figures(self, places: NDArray[np.int64]) -> dict[str, float]:
        """Of questions by their places, which may be there more than once."""
        rows = np.concatenate([self._rows[place] for place in places])
        right, values = self.right[rows], self.values[rows]
        both = 0 < right.sum() < len(right)
        within = self._within[places]
        pairs = int((~np.isnan(within)).sum())
        return {
            "total_variation": float(np.mean([self.starts[place].distance for place in places])),
            "total_variation_floor": float(np.mean([self.starts[place].floor for place in places])),
            "rollouts": len(right),
            "accuracy_of_rollouts": float(right.mean()),
            **(
                classification(right, values) if both else dict.fromkeys(("f1", "accuracy", "recall_incorrect"), np.nan)
            ),
            "brier": brier(right, values),
            "ece": expected_calibration_error(right, values),
            "auroc": auroc(right, values) if both else np.nan,
            "auroc_within": float(np.nanmean(within)) if pairs else np.nan,
            "problems_with_both": pairs,
            "risk_coverage_area": risk_coverage(right, values).area,
        }


def predictions(rollouts: Rollouts, truth: Rollouts | None = None) -> Predictions:
    """What the model expected, at the start and at the end, and what happened.

    Args:
        truth: the same samples with another head's joints, whose final values stand for what happened, as two heads are
            only comparable by one measure; None is the rollouts' own.
    """
    grid = rollouts.joint_grid
    ends = [
        (place, rollout.right, rollouts.final_value(rollout))
        for place, problem in enumerate(rollouts.problems)
        for rollout in problem.rollouts
    ]
    owner, right, values = (np.array(column) for column in zip(*ends, strict=True))
    happened = values
    if truth is not None:
        happened = np.array([truth.final_value(item) for problem in truth.problems for item in problem.rollouts])
    rng = np.random.default_rng(0)
    starts = [_start(problem, happened[owner == place], grid, rng) for place, problem in enumerate(rollouts.problems)]
    return Predictions(owner, right, values, tuple(starts))


def _start(problem: QuestionRollouts, values: NDArray[np.float64], grid: JointGrid, rng: np.random.Generator) -> Start:
    predicted = problem.rollouts[0].joints[0].astype(np.float64).reshape(grid.shape)
    predicted /= predicted.sum()
    measured = measured_joint(grid, values, [len(rollout.tokens) for rollout in problem.rollouts])
    count = len(problem.rollouts)
    drawn = rng.multinomial(count, predicted.ravel(), _DRAWS).reshape(_DRAWS, *grid.shape) / count
    return Start(
        problem,
        predicted,
        measured,
        float(total_variation(predicted, measured)),
        float(total_variation(drawn, predicted).mean()),
    )
