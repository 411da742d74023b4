"""From rollouts with hidden states to a head, and back onto rollouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fitting.made_up import EVERY, LONGEST, rollouts
from zip_introspect import GenerationConfig, TrainingDataError
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.fitting import choosing, labels, laying, pictures, report
from zip_introspect.fitting.choosing import Tried, promised
from zip_introspect.fitting.fit import Fitted, _settings, fit
from zip_introspect.fitting.states import States, check_enough
from zip_introspect.fitting.training import FOLDS, HeadShape, folds_of
from zip_introspect.heads import file

CANDIDATES = (HeadShape(0, 1.0), HeadShape(8, 1.0))


@pytest.fixture(scope="module")
def stored() -> Rollouts:
    return rollouts()


@pytest.fixture(scope="module")
def fitted(stored: Rollouts) -> Fitted:
    return fit(stored, GenerationConfig(temperature=0.8, interval=EVERY), candidates=CANDIDATES)


def test_states_are_the_prefixes_that_were_kept(stored: Rollouts, tmp_path: Path) -> None:
    states = States.of(Rollouts.load(stored.save(tmp_path / "stored.parquet")))
    everything = [item for problem in stored.problems for item in problem.rollouts]
    assert (states.position[states.starts] == 0).all()
    assert (states.remaining[states.starts] == states.length).all()
    assert (states.remaining[states.ends] == [1 if item.finished else 0 for item in everything]).all()
    assert states.features(("mean", "last")).shape == (len(states.rollout), 32)
    assert [bool(item.right) for item in everything] == states.right.tolist()


def test_values_rise_with_what_was_realised_and_are_those_of_other_questions(stored: Rollouts) -> None:
    states = States.of(stored)
    found = labels.made(states)
    assert found.values[states.right].mean() > found.values[~states.right].mean() + 0.2
    assert (found.values[~states.finished] == 0).all()
    assert found.grid.length_edges[-2] < LONGEST <= found.grid.length_edges[-1]
    bins = np.unravel_index(found.cells, found.grid.shape)
    assert (bins[0] == found.grid.reward_bin(found.values)[states.rollout]).all()
    assert (bins[1] == found.grid.length_bin(states.remaining)).all()


def test_nothing_that_teaches_the_judge_of_a_question_rests_on_its_rewards(stored: Rollouts) -> None:
    states = States.of(stored)
    fold = folds_of(states.question, FOLDS, 0)
    before = labels.made(states).by_fold
    for number in range(FOLDS):
        other = states.right ^ ((fold == number) & states.finished)  # every reward of a fold turned round
        after = labels.made(replace(states, right=other)).by_fold
        np.testing.assert_array_equal(after[number], before[number])
        assert (after != before).any(), "those of the other folds' judges do rest on them"


def test_where_there_is_nothing_to_be_told_nothing_is_promised() -> None:
    """Rewards that no state tells of, among more features than rollouts: an AUROC of a half."""
    found = [
        fit(rollouts(80, tells=0.0, seed=seed, noise=400), GenerationConfig(interval=EVERY), candidates=CANDIDATES[:1])
        for seed in range(2)
    ]
    assert np.mean([item.quality.end for item in found]) < 0.6


def test_a_head_of_its_own_is_what_was_promised(fitted: Fitted, stored: Rollouts) -> None:
    assert fitted.trained.loss < fitted.trained.prior
    assert fitted.quality.end > 0.7
    assert fitted.quality.length_error < fitted.quality.length_guess
    assert set(fitted.recommended) == {"cheap", "balanced", "dear"}
    costs = [float(fitted.recommended[name].cost.mean()) for name in ("cheap", "balanced", "dear")]
    assert costs == sorted(costs)
    best = max(float(item.right.mean()) for item in fitted.played)
    assert fitted.recommended["dear"].right.mean() >= best - 0.02
    config = fitted.head.about.config("dear")
    assert config is not None
    assert (config.temperature, config.max_new_tokens) == (0.8, LONGEST)


def test_what_is_recommended_is_what_was_tried() -> None:
    config = GenerationConfig(interval=EVERY)
    tried = list(choosing.candidates(config, 6))
    assert len({choosing.Tried(item, *[np.zeros(1)] * 3).name for item in tried}) == len(tried), "told apart"
    for item in tried:
        kept = GenerationConfig(**_settings(item, config))
        assert (kept.strategy, kept.strategy_options) == (item.strategy, item.strategy_options)
    assert {"opt_scale", "early_stopping_consistency", "best_of_majority"} <= {item.strategy for item in tried}


def test_a_head_lays_the_same_joints_over_rollouts_as_it_would_give_live(fitted: Fitted, stored: Rollouts) -> None:
    laid = laying.by_head(stored, fitted.head)
    assert laid.grid == fitted.head.grid
    item, kept = laid.problems[0].rollouts[0], stored.problems[0].rollouts[0].hidden
    assert kept is not None
    logits = fitted.head.logits(kept.last.astype(np.float32), kept.mean.astype(np.float32))
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(item.joints[kept.positions], expected, atol=1e-3)
    between = kept.positions[:-1] + 1
    same = between[between < kept.positions[1:]]
    np.testing.assert_array_equal(item.joints[same], item.joints[same - 1])
    with pytest.raises(TrainingDataError, match="hold hidden states of 3 numbers"):
        laying.by_head(replace(stored, hidden_size=3), fitted.head)


def test_what_confidence_means_is_learnt_from_searched_outcomes(fitted: Fitted) -> None:
    searched = fitted.head.about.searched
    assert {"zip_rc", "best_of_n", "single"} <= {item.strategy for item in searched}
    played = next(item for item in fitted.played if item.name == "best_of_n of 4")
    found = fitted.head.about.calibration("best_of_n", "value", 4)
    assert found is not None
    raw, meant = played.confidence.mean(), found.apply(np.clip(played.confidence, 0, 1)).mean()
    assert abs(meant - played.right.mean()) <= abs(raw - played.right.mean()) + 0.01
    assert fitted.head.about.calibration("best_of_n", "value", 64) == found, "the nearest number of samples"
    assert fitted.head.about.calibration("nobody's", "value", 4) is None


def test_what_tokens_mean_is_learnt_where_rollouts_hold_their_confidences(fitted: Fitted) -> None:
    played = next(item for item in fitted.played if item.name == "best_of_n of 4")
    found = fitted.head.about.calibration("best_of_n", "value", 4, "tokens")
    assert found is not None
    assert found.source == "tokens"
    assert found != fitted.head.about.calibration("best_of_n", "value", 4)
    assert played.likelihood is not None
    raw, meant = played.likelihood.mean(), found.apply(played.likelihood).mean()
    assert abs(meant - played.right.mean()) <= abs(raw - played.right.mean()) + 0.01
    assert all(config.confidence_source is None for config in (item.config for item in fitted.played))


def test_the_file_and_the_page_hold_it_all(fitted: Fitted, tmp_path: Path) -> None:
    again = file.load(file.save(fitted.head, tmp_path))
    assert again.about == fitted.head.about
    drawn = pictures.draw(fitted, tmp_path / "head.zip")
    page = report.text(fitted, "head.zip.safetensors", drawn)
    assert all(f"]({picture.name})" in page and picture.is_file() for picture in drawn.values())
    assert all(line in page for line in fitted.said)
    assert page.count("zip_rc, alpha") >= 12


def test_the_pictures_show_what_the_tables_say(fitted: Fitted) -> None:
    axes = pictures.strategies(fitted.played, list(fitted.recommended.values())).axes[0]
    shown = sorted(tuple(point) for line in axes.lines for point in np.asarray(line.get_xydata()))
    assert shown == sorted((item.cost.mean(), item.right.mean()) for item in fitted.played)
    rings = {tuple(point) for point in np.asarray(axes.collections[0].get_offsets())}
    assert rings == {(item.cost.mean(), item.right.mean()) for item in fitted.recommended.values()}
    title = pictures.calibration(fitted.rollouts).axes[0].get_title(loc="left")
    assert float(title.split()[2].rstrip(",")) == pytest.approx(fitted.quality.ece, abs=1e-3)


def test_a_head_that_sees_nothing_says_so() -> None:
    blind = fit(rollouts(200, tells=0.0), GenerationConfig(interval=LONGEST), candidates=CANDIDATES[:1])
    assert blind.quality.within == pytest.approx(0.5, abs=0.12)
    assert blind.quality.prompt > 0.53
    assert "it knows which questions are hard, not which sample is right" in " ".join(blind.said)


def test_rollouts_from_which_nothing_can_be_learnt_are_refused(stored: Rollouts) -> None:
    few = replace(stored, problems=stored.problems[:5])
    with pytest.raises(TrainingDataError, match="there are 5 questions; expected 20"):
        check_enough(States.of(few))
    wrong = tuple(
        replace(problem, rollouts=tuple(replace(item, right=False) for item in problem.rollouts))
        for problem in stored.problems
    )
    with pytest.raises(TrainingDataError, match=r"0 of 240 samples are right.*Take easier questions"):
        check_enough(States.of(replace(stored, problems=wrong)))
    bare = tuple(
        replace(problem, rollouts=tuple(replace(item, hidden=None) for item in problem.rollouts))
        for problem in stored.problems
    )
    with pytest.raises(TrainingDataError, match="hidden states of 0 samples of 240"):
        States.of(replace(stored, problems=bare))


def test_what_is_promised_is_judged_by_questions_that_did_not_choose() -> None:
    """Among many settings that are all alike, the luckiest does no better on other questions."""
    config, ones = GenerationConfig(), np.ones((400, 2))
    best, right = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        tried = [Tried(config, (rng.random((400, 2)) < 0.5).astype(float), ones, ones) for _ in range(50)]
        best.append(max(item.right.mean() for item in tried))
        right.append(promised(tried, 0.1)[0])
    assert np.mean(best) > 0.53
    assert np.mean(right) == pytest.approx(0.5, abs=0.02)
    clear = [*tried, Tried(config, ones, ones, 2 * ones)]
    assert promised(clear, 0.1) == (1, 2)
