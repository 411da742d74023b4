"""One directory that a reader can judge the strategies by: `report.md`, its tables and figures, and `results.json`.

Tables are written as Markdown and CSV, figures as PNG and SVG.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zip_introspect.config import GenerationConfig
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation import figures
from zip_introspect.evaluation.baselines import BOUND, MATCHED_BETA, ZIP_RC, title
from zip_introspect.evaluation.comparing import ALL, Comparison, Predictions, compare, groups, predictions
from zip_introspect.evaluation.cost import Interval
from zip_introspect.evaluation.drawing import save
from zip_introspect.evaluation.replay import ReplayBackend
from zip_introspect.evaluation.rollouts import Rollouts
from zip_introspect.evaluation.strategies import Outcomes
from zip_introspect.evaluation.timeline import timeline
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.result import GenerationResult

_SHOWN = 20  # joints, as in figure 2
_SEARCHES = 50  # among which the timeline is chosen
_PREDICTIONS = {
    "total_variation": "total variation at the start",
    "total_variation_floor": "the least that so few rollouts allow",
    "f1": "F1 at 0.5",
    "accuracy": "accuracy at 0.5",
    "recall_incorrect": "recall of incorrect at 0.5",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "auroc": "AUROC",
    "auroc_within": "AUROC within a problem",
    "problems_with_both": "problems with right and wrong rollouts",
    "risk_coverage_area": "area under risk-coverage",
    "accuracy_of_rollouts": "accuracy of a rollout",
    "rollouts": "rollouts",
}


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column says what a row is."""

    name: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown, numbers to the right."""
        lines = [self.headings, ("---", *["---:"] * (len(self.headings) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)

    def save(self, folder: Path) -> None:
        """Write `name.md` and `name.csv`."""
        (folder / f"{self.name}.md").write_text(self.markdown() + "\n", encoding="utf-8")
        with (folder / f"{self.name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([self.headings, *self.rows])


def write(rollouts: Rollouts, outcomes: Sequence[Outcomes], folder: Path) -> Path:
    """Write the report.

    Args:
        outcomes: of settings of `baselines`; those of zip_rc say which alphas are compared.

    Returns:
        its page, `report.md`.

    Raises:
        EvaluationDataError: fewer than two questions, none of zip_rc's outcomes, or outcomes of other rollouts.
    """
    alphas = sorted({outcome.setting.config.alpha for outcome in outcomes if outcome.setting.name == ZIP_RC})
    if not alphas or len(rollouts.problems) < 2:
        raise EvaluationDataError(
            f"there are outcomes of zip_rc at {len(alphas)} alphas, on {len(rollouts.problems)} questions; "
            "expected 1 or more, on 2 or more"
        )
    folder.mkdir(parents=True, exist_ok=True)
    comparisons = [compare(rollouts, outcomes, alpha) for alpha in alphas]
    expected = predictions(rollouts)
    inside = groups(rollouts)
    quality = {name: expected.figures(mask) for name, mask in inside.items()}
    results = {
        "model": Path(rollouts.model).name,
        "questions": {name: int(mask.sum()) for name, mask in inside.items()},
        "rollouts_per_question": min(len(problem.rollouts) for problem in rollouts.problems),
        "max_new_tokens": rollouts.max_new_tokens,
        "predictions": quality,
        "alphas": [asdict(comparison) for comparison in comparisons],
    }
    text = json.dumps(_finite(results), indent=1)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    tables = [_prediction_table(quality)]
    for comparison in comparisons:
        tables += [
            _matched(comparison, list(inside)),
            _verdict(comparison),
            _differences(comparison, list(inside)),
            _points(comparison),
        ]
    for table in tables:
        table.save(folder)
    config = next(outcome.setting.config for outcome in outcomes if outcome.setting.name == ZIP_RC)
    search = _search(rollouts, config.replace(alpha=alphas[0], beta=MATCHED_BETA))
    _draw(rollouts, comparisons, expected, list(inside), search, folder)
    page = folder / "report.md"
    page.write_text(_page(results, comparisons, {table.name: table for table in tables}), encoding="utf-8")
    return page


def _draw(
    rollouts: Rollouts,
    comparisons: Sequence[Comparison],
    expected: Predictions,
    names: list[str],
    search: GenerationResult,
    folder: Path,
) -> None:
    for comparison in comparisons:
        save(figures.frontier(comparison, names), folder / _frontier(comparison))
    places = np.unique(np.linspace(0, len(expected.starts) - 1, _SHOWN).round().astype(int))
    starts = sorted((expected.starts[place] for place in places), key=lambda start: start.problem.question.group)
    save(figures.joints(starts, rollouts.grid), folder / "joints")
    save(figures.samples(comparisons, [name for name in names if name != ALL] or names), folder / "samples")
    save(figures.reliability_diagram(expected), folder / "reliability")
    save(figures.risk_coverage_curve(expected), folder / "risk_coverage")
    save(timeline(search.to_dict()), folder / "timeline")


def _search(rollouts: Rollouts, config: GenerationConfig) -> GenerationResult:
    """Of the first questions' searches, the one that gave up most samples; of these the longest."""

    def eventful(result: GenerationResult) -> tuple[int, int]:
        return sum(sample.status != "finished" for sample in result.samples), len(result.decisions)

    backend = ReplayBackend(rollouts)
    with IntrospectiveLLM(backend, config, extractor=backend.answer) as llm:
        results = llm.batch([problem.question.text for problem in rollouts.problems[:_SEARCHES]])
    return max(results, key=eventful)


def _prediction_table(quality: dict[str, dict[str, float]]) -> Table:
    rows = [
        (
            heading,
            *(
                f"{found[key]:.0f}" if key in ("rollouts", "problems_with_both") else _number(found[key])
                for found in quality.values()
            ),
        )
        for key, heading in _PREDICTIONS.items()
    ]
    return Table("predictions", ("", *quality), tuple(rows))


def _matched(comparison: Comparison, names: list[str]) -> Table:
    """Table 2: every strategy at the setting whose cost is nearest to that of zip_rc."""
    rows = []
    for point in comparison.matched(_reference(comparison)):
        of_group = comparison.at(point.curve, point.setting)
        cells = (_share(of_group[group].accuracy) for group in names)
        rows.append((title(point.curve), point.setting, f"{point.cost.value:.2f}", *cells))
    return Table(f"matched_alpha_{comparison.alpha:g}", ("strategy", "setting", "cost", *names), tuple(rows))


def _differences(comparison: Comparison, names: list[str]) -> Table:
    rows: dict[tuple[str, str], list[str]] = {}
    for item in comparison.differences:
        note = "" if item.reach == "within" else f" ({item.reach})"
        key = (item.setting, item.rival)
        rows.setdefault(key, [item.setting, title(item.rival)]).append(_gain(item.accuracy) + note)
    name = f"differences_alpha_{comparison.alpha:g}"
    return Table(name, ("ZIP-RC", "less", *names), tuple(map(tuple, rows.values())))


def _points(comparison: Comparison) -> Table:
    rows = [
        (
            title(point.curve),
            point.setting,
            point.group,
            *(f"{number:.4f}" for item in (point.accuracy, point.cost) for number in (item.value, item.low, item.high)),
            f"{point.compute:.3f}",
            f"{point.latency:.3f}",
            f"{point.samples.value:.2f}",
            f"{point.tokens:.1f}",
        )
        for point in comparison.points
    ]
    headings = (
        *("strategy", "setting", "questions", "accuracy", "low", "high", "cost", "cost low", "cost high"),
        *("compute", "latency", "samples", "tokens"),
    )
    return Table(f"points_alpha_{comparison.alpha:g}", headings, tuple(rows))


def _verdict(comparison: Comparison) -> Table:
    """Over all questions: at how many settings of zip_rc the interval lies above zero, holds it, or lies below it."""
    rows = []
    for name in comparison.curves:
        found = [item.accuracy for item in comparison.differences if (item.rival, item.group) == (name, ALL)]
        if found:
            ahead, behind = sum(item.low > 0 for item in found), sum(item.high < 0 for item in found)
            rows.append((title(name), str(ahead), str(len(found) - ahead - behind), str(behind)))
    return Table(f"verdict_alpha_{comparison.alpha:g}", ("ZIP-RC against", "ahead", "undecided", "behind"), tuple(rows))


def _reference(comparison: Comparison) -> str:
    """The setting of zip_rc whose beta is nearest to that of the paper's table 2."""
    settings = [point.setting for point in comparison.curve(ZIP_RC)]
    return min(settings, key=lambda setting: abs(math.log((_beta(setting) + 1e-9) / MATCHED_BETA)))


def _beta(setting: str) -> float:
    return float(setting.removeprefix("beta "))


def _page(results: dict[str, Any], comparisons: Sequence[Comparison], tables: dict[str, Table]) -> str:
    asked = results["questions"][ALL]
    lines = [
        f"# {results['model']}: what introspection buys",
        "",
        f"{asked:,} questions with {results['rollouts_per_question']} stored rollouts each, of at most "
        f"{results['max_new_tokens']:,} tokens, replayed. Every interval is a 95% bootstrap interval over questions; "
        "all differences are paired. Where every question of a group comes out alike, an interval has no width.",
        "",
        "## Predictions",
        "",
        "At the start: the total variation between the joint at the prompt and the final values and lengths of the "
        "question's rollouts, and what a perfect prediction would score against so few of them. At the end: the "
        "expected reward before the last token, as a prediction of being right.",
        "",
        tables["predictions"].markdown(),
        "",
        "![joints](joints.png)",
        "",
        f"Joints at the prompt of {_SHOWN} questions at most, spread over all of them, beside those of the rollouts. "
        "TV is the total variation between the two; before the colon stands the group.",
        "",
        "![reliability](reliability.png)",
        "",
        "What came true beside what was predicted. Bars are 95% Wilson intervals; a larger dot is a fuller bin.",
        "",
        "![risk and coverage](risk_coverage.png)",
        "",
        "The error that is left if only the most confident share of the rollouts is answered.",
        "",
    ]
    for comparison in comparisons:
        lines += _section(comparison, tables)
    lines += [
        "## Where the samples go",
        "",
        "![samples](samples.png)",
        "",
        "Samples that ZIP-RC started, by group. Bars are 95% intervals.",
        "",
        "![timeline](timeline.png)",
        "",
        f"One search at alpha {comparisons[0].alpha:g} and beta {MATCHED_BETA:g}: of the first {_SEARCHES} questions, "
        "the one where most samples were given up. Dotted where a sample is paused.",
        "",
    ]
    return "\n".join(lines)


def _section(comparison: Comparison, tables: dict[str, Table]) -> list[str]:
    suffix = f"alpha_{comparison.alpha:g}"
    falls = [step for step in comparison.steps if step.falls]
    what = "; ".join(
        f"{step.group}: {_gain(step.accuracy)} points from {step.before} to {step.after}" for step in falls
    )
    slope = (
        f"Paying more loses accuracy, by more than the interval, here: {what}."
        if falls
        else (
            "No point of ZIP-RC is less accurate than a cheaper one by more than the interval, overall or in a group: "
            "the frontier is monotone."
        )
    )
    return [
        f"## Accuracy and cost at alpha {comparison.alpha:g}",
        "",
        f"Cost is {comparison.alpha:g} times normalised compute plus {1 - comparison.alpha:g} times normalised "
        "latency; 1 is a single sample of the question.",
        "",
        f"![frontier]({_frontier(comparison)}.png)",
        "",
        slope,
        "",
        f"Accuracy in percent of every strategy at the setting whose cost is nearest to that of ZIP-RC at "
        f"{_reference(comparison)}:",
        "",
        tables[f"matched_{suffix}"].markdown(),
        "",
        f"ZIP-RC against each curve at its own mean cost, over all questions: at how many of its "
        f"{len(comparison.curve(ZIP_RC))} betas it is ahead or behind by more than the interval. "
        "A curve is interpolated between its points, and beyond them its end stands for it: its cheapest point where "
        f"ZIP-RC costs less, its dearest where ZIP-RC costs more. {title(BOUND)} is no method but a bound. Every "
        f"difference, by group: [differences_{suffix}.md](differences_{suffix}.md); every point: "
        f"[points_{suffix}.md](points_{suffix}.md).",
        "",
        tables[f"verdict_{suffix}"].markdown(),
        "",
    ]


def _frontier(comparison: Comparison) -> str:
    return f"frontier_alpha_{comparison.alpha:g}"


def _share(accuracy: Interval) -> str:
    return f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def _gain(difference: Interval) -> str:
    """In points of accuracy; zero has no sign."""
    value, low, high = (round(100 * number, 1) + 0.0 for number in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def _finite(item: Any) -> Any:
    """The same with null for what JSON does not know."""
    if isinstance(item, dict):
        return {key: _finite(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_finite(value) for value in item]
    return None if isinstance(item, float) and math.isnan(item) else item
