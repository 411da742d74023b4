"""The tables of a report: rows of text, written as Markdown and CSV."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from zip_introspect.evaluation.measures.comparing import ALL, Comparison
from zip_introspect.evaluation.measures.cost import Interval
from zip_introspect.evaluation.replay.baselines import MATCHED_BETA, OURS, ZIP_RC, need, title

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


def prediction_table(name: str, quality: dict[str, dict[str, float]], intervals: dict[str, Interval]) -> Table:
    """Tables 1 and 3, and more: all questions with their intervals, then each group."""
    rows = []
    for key, heading in _PREDICTIONS.items():
        counted = key in ("rollouts", "problems_with_both")
        everything, *cells = (f"{found[key]:.0f}" if counted else _number(found[key]) for found in quality.values())
        interval = "" if counted else f" [{_number(intervals[key].low)}, {_number(intervals[key].high)}]"
        rows.append((heading, everything + interval, *cells))
    return Table(name, ("", *quality), tuple(rows))


def of_comparison(comparison: Comparison, groups: list[str]) -> list[Table]:
    """Everything about one alpha."""
    ours = [curve for curve in OURS if comparison.curve(curve)]
    return [
        _matched(comparison, groups),
        *(_verdict(comparison, curve) for curve in ours),
        *(_differences(comparison, groups, curve) for curve in ours),
        _points(comparison),
    ]


def suffix(comparison: Comparison, curve: str) -> str:
    """Of the names of tables in which one of our strategies is held against others."""
    return f"alpha_{comparison.alpha:g}" if curve == ZIP_RC else f"{curve}_alpha_{comparison.alpha:g}"


def _matched(comparison: Comparison, names: list[str]) -> Table:
    """Table 2: every strategy at the setting whose cost is nearest to that of zip_rc."""
    rows = []
    for point in comparison.matched(reference(comparison)):
        of_group = comparison.at(point.curve, point.setting)
        cells = (share(of_group[group].accuracy) for group in names)
        rows.append((title(point.curve), point.setting, f"{point.cost.value:.2f}", *cells, need(point.curve)))
    headings = ("strategy", "setting", "cost", *names, "needs")
    return Table(f"matched_alpha_{comparison.alpha:g}", headings, tuple(rows))


def _differences(comparison: Comparison, names: list[str], curve: str) -> Table:
    rows: dict[tuple[str, str], list[str]] = {}
    for item in (item for item in comparison.differences if item.curve == curve):
        note = "" if item.reach == "within" else f" ({item.reach})"
        key = (item.setting, item.rival)
        rows.setdefault(key, [item.setting, title(item.rival)]).append(gain(item.accuracy) + note)
    name = f"differences_{suffix(comparison, curve)}"
    return Table(name, (title(curve), "less", *names), tuple(map(tuple, rows.values())))


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


def _verdict(comparison: Comparison, curve: str) -> Table:
    """Over all questions: at how many of a strategy's settings the interval lies above zero, holds it, or lies below;
    and at how many it is the more accurate one, intervals aside.
    """
    rows = []
    of_all = [item for item in comparison.differences if (item.curve, item.group) == (curve, ALL)]
    for name in comparison.curves:
        found = [item.accuracy for item in of_all if item.rival == name]
        if found:
            ahead, behind = sum(item.low > 0 for item in found), sum(item.high < 0 for item in found)
            better = sum(item.value > 0 for item in found)
            counts = ahead, len(found) - ahead - behind, behind, better
            rows.append((title(name), *map(str, counts), need(name)))
    headings = (f"{title(curve)} against", "ahead", "undecided", "behind", "more accurate", "needs")
    return Table(f"verdict_{suffix(comparison, curve)}", headings, tuple(rows))


def reference(comparison: Comparison) -> str:
    """The setting of zip_rc whose beta is nearest to that of the paper's table 2."""
    settings = [point.setting for point in comparison.curve(ZIP_RC)]
    return min(settings, key=lambda setting: abs(math.log((_beta(setting) + 1e-9) / MATCHED_BETA)))


def _beta(setting: str) -> float:
    return float(setting.removeprefix("beta "))


def share(accuracy: Interval) -> str:
    """In percent, with its interval; "none" where there is nothing to count."""
    if math.isnan(accuracy.value):
        return "none"
    return f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def gain(difference: Interval) -> str:
    """In points of accuracy; zero has no sign."""
    value, low, high = (round(100 * number, 1) + 0.0 for number in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"
