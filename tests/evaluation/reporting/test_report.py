"""The report: every file is there, says the same in each form, and comes out the same again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.evaluation.stored import CONFIG, simulated
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.measures.comparing import ALL, Comparison, Point, compare
from zip_introspect.evaluation.measures.cost import Interval
from zip_introspect.evaluation.replay.baselines import TITLES, ZIP_RC, settings_for
from zip_introspect.evaluation.replay.trials import Outcomes, Setting, evaluate
from zip_introspect.evaluation.reporting import report
from zip_introspect.evaluation.reporting.figures import frontier
from zip_introspect.evaluation.store.outcomes import evaluate_missing
from zip_introspect.evaluation.store.rollout_file import Rollouts

PICTURES = (
    *("frontier_alpha_0.1", "frontier_alpha_1", "joints", "reliability", "risk_coverage", "samples", "timeline"),
    *("cost_of_pass_tokens", "predicted_cost", "resampling"),
)
TABLES = (
    *("predictions", "matched_alpha_1", "verdict_alpha_1", "differences_alpha_0.1", "points_alpha_0.1"),
    *("cost_of_pass_tokens", "predicted_cost", "price_reversal", "resampling", "guard"),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rollouts, list[Outcomes], Path]:
    folder = tmp_path_factory.mktemp("report")
    _, rollouts = simulated(questions=8)
    file = rollouts.save(folder / "rollouts.parquet")
    settings = settings_for(rollouts, CONFIG, alphas=(1.0, 0.1), betas=(0.2, 0.01))
    outcomes = evaluate_missing(file, rollouts, folder, settings, processes=1)
    report.write(rollouts, outcomes, folder)
    return rollouts, outcomes, folder


def test_every_picture_is_drawn_and_named_on_the_page(written: tuple[Rollouts, list[Outcomes], Path]) -> None:
    *_, folder = written
    page = (folder / "report.md").read_text(encoding="utf-8")
    for name in PICTURES:
        assert f"]({name}.png)" in page
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        texts = ["".join(e.itertext()) for e in ElementTree.parse(folder / f"{name}.svg").iter() if "text" in e.tag]
        assert len(texts) > 4, f"{name} has no labels"
    assert "ZIP-RC" in (folder / "frontier_alpha_1.svg").read_text(encoding="utf-8")


def test_the_same_outcomes_give_the_same_files(written: tuple[Rollouts, list[Outcomes], Path], tmp_path: Path) -> None:
    rollouts, outcomes, folder = written
    report.write(rollouts, outcomes, tmp_path)
    again = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {name: (folder / name).read_bytes() for name in again} == again


@pytest.mark.parametrize("name", TABLES)
def test_tables_say_the_same_in_both_forms(written: tuple[Rollouts, list[Outcomes], Path], name: str) -> None:
    *_, folder = written
    with (folder / f"{name}.csv").open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    lines = (folder / f"{name}.md").read_text(encoding="utf-8").splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]] == rows
    assert len(rows) > 1


def test_the_figures_behind_it_are_json_that_anyone_reads(written: tuple[Rollouts, list[Outcomes], Path]) -> None:
    *_, folder = written

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads((folder / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["questions"] == {"all": 8, "even": 4, "odd": 4}
    assert [item["alpha"] for item in found["alphas"]] == [0.1, 1.0]
    point = found["alphas"][0]["points"][0]
    assert point["accuracy"]["low"] <= point["accuracy"]["value"] <= point["accuracy"]["high"]


def test_the_legend_of_all_curves_leaves_room_for_the_note() -> None:
    one = Interval(0.5, 0.4, 0.6)
    points = tuple(Point(ALL, name, label, one, one, one, 1.0, 1.0, 1.0) for name in TITLES for label in "ab")
    figure = frontier(Comparison(0.1, points, (), ()), [ALL])
    figure.draw_without_rendering()
    _, aside = figure.axes
    legend, (note,) = aside.get_legend(), aside.texts
    assert legend is not None
    assert len(legend.get_texts()) == len(TITLES)
    assert legend.get_window_extent().y0 > note.get_window_extent().y1


def test_a_curve_of_a_third_party_is_shown_under_its_own_name() -> None:
    _, rollouts = simulated(questions=6)
    theirs = Setting("mine", CONFIG.replace(strategy="best_of_n", max_samples=2))
    ours = Setting(ZIP_RC, CONFIG.replace(max_samples=4))
    found = compare(rollouts, [evaluate(rollouts, setting) for setting in (theirs, ours)], CONFIG.alpha)
    assert found.curves == [ZIP_RC, "mine"]
    assert frontier(found, [ALL]).axes[0].get_legend_handles_labels()[1] == ["ZIP-RC", "mine"]


def test_without_zip_rc_there_is_nothing_to_compare(tmp_path: Path) -> None:
    _, rollouts = simulated(questions=4)
    with pytest.raises(EvaluationDataError, match="0 alphas, on 4 questions"):
        report.write(rollouts, [], tmp_path)
