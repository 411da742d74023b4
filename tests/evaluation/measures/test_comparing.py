"""Comparisons against brute force, and the settings that are compared."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.evaluation.stored import CONFIG, simulated
from zip_introspect import GenerationConfig, strategies
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.measures.comparing import ALL, compare, groups, predictions
from zip_introspect.evaluation.measures.cost import mean_interval, paired_difference, paired_differences
from zip_introspect.evaluation.measures.metrics import (
    brier,
    expected_calibration_error,
    measured_joint,
    reliability,
    risk_coverage,
    total_variation,
)
from zip_introspect.evaluation.replay.baselines import (
    BOUND,
    GUESSES,
    LITE,
    POSTERIOR,
    TITLES,
    ZIP_RC,
    label,
    need,
    settings_for,
)
from zip_introspect.evaluation.replay.baselines import settings as settings_of
from zip_introspect.evaluation.replay.trials import Outcomes, Setting, evaluate, single
from zip_introspect.evaluation.store.outcomes import evaluate_missing, load_outcomes

_SHARES = st.integers(0, 8).map(lambda number: number / 8)
_SCORED = st.lists(st.tuples(st.booleans(), _SHARES), min_size=1, max_size=6)


@given(_SCORED)
def test_risk_is_the_mean_over_every_order_of_ties(samples: list[tuple[bool, float]]) -> None:
    right, values = zip(*samples, strict=True)
    orders = [order for order in permutations(samples) if [v for _, v in order] == sorted(values, reverse=True)]
    risks = [np.cumsum([not r for r, _ in order]) / np.arange(1, len(samples) + 1) for order in orders]
    found = risk_coverage(right, values)
    assert found.risk == pytest.approx(np.mean(risks, axis=0))
    assert found.area == pytest.approx(np.mean(risks))
    assert found.coverage[-1] == 1


@given(_SCORED)
def test_reliability_and_brier_match_counting(samples: list[tuple[bool, float]]) -> None:
    right, values = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    assert brier(right, values) == pytest.approx(np.mean((right - values) ** 2))
    found = reliability(right, values, bins=4)
    bins = [[s for s in samples if min(int(s[1] * 4), 3) == number] for number in range(4)]
    held = [inside for inside in bins if inside]
    assert found.count.tolist() == [len(inside) for inside in held]
    assert found.accuracy == pytest.approx([np.mean([r for r, _ in inside]) for inside in held])
    gaps = [abs(sum(r - v for r, v in inside)) for inside in held]
    assert expected_calibration_error(right, values, bins=4) == pytest.approx(sum(gaps) / len(samples))


@settings(max_examples=40)
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(2, 6))
def test_differences_are_those_of_a_plain_bootstrap(data: st.DataObject, k: int, m: int, n: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    right = data.draw(arrays(np.float64, (m, n), elements=_SHARES))
    rival_right = data.draw(arrays(np.float64, (k, n), elements=_SHARES))
    cost, rival_cost = rng.uniform(0.5, 3.0, (m, n)), rng.uniform(0.5, 3.0, (k, n))  # no two curves cost the same
    drawn = np.random.default_rng(0).integers(0, n, (20, n))

    def lead(row: int, index: NDArray[np.int64]) -> float:
        costs = rival_cost[:, index].mean(1)
        order = np.argsort(costs)
        at = np.interp(cost[row, index].mean(), costs[order], rival_right[:, index].mean(1)[order])
        return float(right[row, index].mean() - at)

    for row, found in enumerate(paired_differences(right, cost, rival_right, rival_cost, resamples=20)):
        assert found.value == pytest.approx(lead(row, np.arange(n)))
        expected = np.percentile([lead(row, index) for index in drawn], (2.5, 97.5))
        assert (found.low, found.high) == pytest.approx(tuple(expected))
        alone = paired_difference(right[row], cost[row], rival_right, rival_cost, resamples=20)
        assert astuple(alone) == pytest.approx(astuple(found))
    means = np.percentile([right[0, index].mean() for index in drawn], (2.5, 97.5))
    interval = mean_interval(right[0], resamples=20)
    assert (interval.low, interval.high) == pytest.approx(tuple(means))


def test_every_curve_of_the_comparison_is_there_and_runs() -> None:
    _, rollouts = simulated()
    found = settings_for(rollouts, CONFIG, alphas=(0.1, 1.0), betas=(0.5, 0.01))
    names = [setting.name for setting in found]
    scored = {"weighted_best_of_n_external", "weighted_best_of_n_self", "deep_conf_tokens", "deep_conf_likelihood"}
    assert set(names) == set(TITLES) - scored - {LITE}
    assert len({(setting.name, setting.config.alpha, label(setting)) for setting in found}) == len(found)
    assert [label(s) for s in found if s.name == "best_of_n"] == ["1 sample", "2 samples", "3 samples", "4 samples"]
    assert [(s.config.alpha, s.config.beta) for s in found if s.name == ZIP_RC] == [
        (0.1, 0.5),
        (0.1, 0.01),
        (1.0, 0.5),
        (1.0, 0.01),
    ]
    cut = next(s for s in found if s.name == "majority_vote_pruned").config.strategy_options["max_length"]
    lengths = [len(rollout.tokens) for problem in rollouts.problems for rollout in problem.rollouts]
    assert 0 < np.mean(np.array(lengths) > cut) <= 0.1
    needs = strategies.by_need()
    for setting in found:
        assert len(evaluate(rollouts, setting).right) == len(rollouts.problems)
        if setting.name not in (POSTERIOR, "deep_conf"):  # which can do without a head, but not on these curves
            assert [need(setting.name)] == [key for key, names in needs.items() if setting.config.strategy in names]
    held = {s.config.strategy_options["max_tokens_held"] for s in found if s.name == "step_prune"}
    assert held == {int(4 * np.mean(lengths))}


def test_scores_add_their_curves_and_zip_rc_is_capped_at_eight() -> None:
    found = settings_of(GenerationConfig(), 16, scorers=("value", "external", "self"), confidences=True)
    assert {setting.name for setting in found} == set(TITLES) - {"majority_vote_pruned", "step_prune", LITE}
    assert {s.config.max_samples for s in found if s.name == ZIP_RC} == {8}
    assert max(s.config.max_samples for s in found if s.name == BOUND) == 16
    assert {s.scorer for s in found if s.name == "weighted_best_of_n_external"} == {"external"}


@pytest.mark.parametrize(
    "name", ["majority_vote", "best_of_n", "best_of_majority", GUESSES, "weighted_best_of_n", BOUND]
)
def test_deciding_once_changes_nothing_where_every_sample_runs_to_its_end(name: str) -> None:
    _, rollouts = simulated()
    coarse = next(s for s in settings_of(CONFIG, 4) if s.name == name and s.config.max_samples == 3)
    fine = evaluate(rollouts, Setting(name, coarse.config.replace(interval=CONFIG.interval)))
    once = evaluate(rollouts, coarse)
    for figure in ("right", "compute", "latency", "samples", "tokens"):
        np.testing.assert_array_equal(getattr(once, figure), getattr(fine, figure))


def made_up(name: str, right: list[float], cost: float, beta: float = 0.1) -> Outcomes:
    """A setting that costs `cost` times what a sample of each question does."""
    _, rollouts = simulated(questions=len(right))
    _, compute, latency = single(rollouts)
    setting = Setting(name, CONFIG.replace(alpha=0.5, beta=beta))
    ones = np.ones(len(right))
    return Outcomes(setting, np.array(right), cost * compute, cost * latency, ones, ones)


def test_points_differences_and_steps_of_a_known_case() -> None:
    _, rollouts = simulated(questions=8)
    outcomes = [
        made_up(ZIP_RC, [1.0] * 8, 1.5, beta=0.2),
        made_up(ZIP_RC, [0.0] * 8, 4.0, beta=0.1),
        made_up("best_of_n", [1, 0, 1, 0, 1, 0, 1, 0], 1.0),
        made_up("best_of_n", [1, 1, 1, 0, 1, 1, 1, 0], 2.0),
    ]
    found = compare(rollouts, outcomes, 0.5)
    assert list(groups(rollouts)) == [ALL, "even", "odd"]
    assert [point.cost.value for point in found.curve(ZIP_RC)] == pytest.approx([1.5, 4.0])
    assert [point.accuracy.value for point in found.curve("best_of_n", "odd")] == [0.0, 0.5]
    cheap, dear = (item for item in found.differences if item.group == ALL)
    assert (cheap.reach, dear.reach) == ("within", "above")
    assert cheap.accuracy.value == pytest.approx(1 - 0.625)
    assert dear.accuracy.value == pytest.approx(-0.75)
    (step, *_) = found.steps
    assert (step.before, step.after, step.falls) == ("beta 0.2", "beta 0.1", True)
    assert [point.curve for point in found.matched("beta 0.2")] == [ZIP_RC, "best_of_n"]
    assert not compare(rollouts, outcomes, 0.7).curve(ZIP_RC)


def test_outcomes_of_other_questions_are_refused() -> None:
    _, rollouts = simulated(questions=4)
    with pytest.raises(EvaluationDataError, match="8 questions, and the rollouts are of 4"):
        compare(rollouts, [made_up(ZIP_RC, [1.0] * 8, 1.0)], 0.5)


def test_starts_are_held_against_the_rollouts_and_against_chance() -> None:
    _, rollouts = simulated()
    found = predictions(rollouts)
    problem, start = rollouts.problems[2], found.starts[2]
    lengths = [len(rollout.tokens) for rollout in problem.rollouts]
    measured = measured_joint(
        rollouts.joint_grid, [rollouts.final_value(rollout) for rollout in problem.rollouts], lengths
    )
    assert start.distance == pytest.approx(float(total_variation(start.predicted, measured)), abs=1e-6)
    # The simulated joints are exact, so what is left is the noise of four rollouts.
    floors, distances = ([getattr(item, name) for item in found.starts] for name in ("floor", "distance"))
    assert np.mean(distances) == pytest.approx(np.mean(floors), abs=0.1)
    figures = found.figures(groups(rollouts)["odd"])
    assert figures["rollouts"] == 24
    assert figures["ece"] < 0.15


def test_predictions_have_intervals_over_questions_that_cover_what_more_questions_would_show() -> None:
    _, rollouts = simulated(questions=40)
    found, truth = predictions(rollouts).intervals(), predictions(simulated(questions=200)[1])
    expected = truth.figures(np.ones(200, dtype=bool))
    assert (found["rollouts"].low, found["rollouts"].high) == (160, 160)
    for name in ("accuracy_of_rollouts", "accuracy", "brier", "total_variation"):
        item = found[name]
        assert item.low < item.value < item.high
        assert item.low - 0.02 <= expected[name] <= item.high + 0.02, name


def test_two_heads_are_measured_by_what_happened_to_one() -> None:
    _, rollouts = simulated(questions=4)
    flat = np.full(rollouts.cells, 1 / rollouts.cells, dtype=np.float16)
    blind = replace(
        rollouts,
        problems=tuple(
            replace(p, rollouts=tuple(replace(r, joints=np.tile(flat, (len(r.joints), 1))) for r in p.rollouts))
            for p in rollouts.problems
        ),
    )
    own, other = predictions(rollouts), predictions(blind, rollouts)
    for one, two in zip(own.starts, other.starts, strict=True):
        np.testing.assert_array_equal(one.measured, two.measured)
        assert two.distance > one.distance


def test_a_group_in_which_all_is_right_has_no_ranking() -> None:
    _, rollouts = simulated(questions=3)
    problem = rollouts.problems[0]
    right = replace(problem, rollouts=tuple(replace(rollout, right=True) for rollout in problem.rollouts))
    found = predictions(replace(rollouts, problems=(right, *rollouts.problems[1:])))
    figures = found.figures(np.array([True, False, False]))
    assert np.isnan([figures["auroc"], figures["f1"], figures["auroc_within"]]).all()
    assert figures["risk_coverage_area"] == 0


def test_outcomes_are_kept_and_not_made_twice(tmp_path: Path) -> None:
    _, rollouts = simulated(questions=3)
    file = rollouts.save(tmp_path / "rollouts.parquet")
    wanted = [setting for setting in settings_of(CONFIG, 4, betas=(0.1,)) if setting.name in (ZIP_RC, "deep_conf")]
    first = evaluate_missing(file, rollouts, tmp_path / "out", wanted[:3], processes=1)
    assert [outcome.setting for outcome in first] == wanted[:3]
    written = (tmp_path / "out" / "outcomes.parquet").stat().st_mtime_ns
    evaluate_missing(file, rollouts, tmp_path / "out", wanted[:2], processes=1)
    assert (tmp_path / "out" / "outcomes.parquet").stat().st_mtime_ns == written, "all of it was there"
    every = evaluate_missing(file, rollouts, tmp_path / "out", wanted, processes=1)
    assert [outcome.setting for outcome in every] == wanted
    for loaded, setting in zip(load_outcomes(file, tmp_path / "out"), wanted, strict=True):
        assert loaded.setting == setting
        np.testing.assert_array_equal(loaded.right, evaluate(rollouts, setting).right)
    with pytest.raises(EvaluationDataError, match="windows 1, and this is 2"):
        evaluate_missing(file, rollouts, tmp_path / "out", wanted, windows=2)
    other = simulated(questions=2)[1].save(tmp_path / "other.parquet")
    with pytest.raises(EvaluationDataError, match="choose another directory"):
        load_outcomes(other, tmp_path / "out")


@pytest.mark.parametrize(("content", "reason"), [(None, "zip-introspect evaluate"), (b"PAR1", "holds no outcomes")])
def test_a_folder_without_outcomes_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = simulated(questions=2)[1].save(tmp_path / "rollouts.parquet")
    if content is not None:
        (tmp_path / "outcomes.parquet").write_bytes(content)
    with pytest.raises(EvaluationDataError, match=reason):
        load_outcomes(file, tmp_path)
