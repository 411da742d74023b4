"""One directory that a reader can judge the strategies by: `report.md`, its tables and figures, and `results.json`.

Tables are written as Markdown and CSV, figures as PNG and SVG.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from zip_introspect.config import GenerationConfig
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.measures.comparing import (
    ALL,
    Comparison,
    Predictions,
    Start,
    compare,
    groups,
    predictions,
)
from zip_introspect.evaluation.measures.cost_of_pass import Tariff
from zip_introspect.evaluation.replay.backend import ReplayBackend
from zip_introspect.evaluation.replay.baselines import BOUND, GUESSES, MATCHED_BETA, POSTERIOR, ZIP_RC, title
from zip_introspect.evaluation.replay.trials import Outcomes
from zip_introspect.evaluation.reporting import figures, spending, tables
from zip_introspect.evaluation.reporting.drawing import save
from zip_introspect.evaluation.reporting.timeline import timeline
from zip_introspect.evaluation.reporting.training_log import LoggedUpdates
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.paths import expanded
from zip_introspect.result import GenerationResult

_SHOWN = 20  # joints, as in figure 2
_SEARCHES = 50  # among which the timeline is chosen


def write(
    rollouts: Rollouts,
    outcomes: Sequence[Outcomes],
    folder: Path,
    *,
    lite: Rollouts | None = None,
    trainings: Mapping[str, Sequence[LoggedUpdates]] | None = None,
    tariffs: Sequence[Tariff] = (),
    other: spending.OtherModel | None = None,
) -> Path:
    """Write the report.

    Args:
        outcomes: of settings of `baselines`; those of zip_rc say which alphas are compared.
        lite: the same samples with the joints of ZIP-RC-Lite, which is then set beside the model's own.
        trainings: by name, what was logged of the policy's divergence.
        tariffs: what a token costs; where there are none, FLOPs, or tokens where the model's size is not known.
        other: another model's rollouts of the same questions.

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
    folder = expanded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    comparisons = [compare(rollouts, outcomes, alpha) for alpha in alphas]
    inside = groups(rollouts)
    heads = {"predictions": predictions(rollouts)}
    if lite is not None:
        heads["predictions_lite"] = predictions(lite, rollouts)
    quality = {name: {group: head.figures(mask) for group, mask in inside.items()} for name, head in heads.items()}
    intervals = {name: head.intervals() for name, head in heads.items()}
    results = {
        "model": Path(rollouts.model).name,
        "questions": {name: int(mask.sum()) for name, mask in inside.items()},
        "rollouts_per_question": min(len(problem.rollouts) for problem in rollouts.problems),
        "max_new_tokens": rollouts.max_new_tokens,
        **quality,
        "intervals": {name: {key: asdict(item) for key, item in found.items()} for name, found in intervals.items()},
        "alphas": [asdict(comparison) for comparison in comparisons],
    }
    spent = spending.write(rollouts, outcomes, comparisons, folder, tariffs=tariffs, other=other)
    results["spending"] = spent.results
    (folder / "results.json").write_text(json.dumps(_finite(results), indent=1) + "\n", encoding="utf-8")
    made = [tables.prediction_table(name, quality[name], intervals[name]) for name in heads]
    for comparison in comparisons:
        made += tables.of_comparison(comparison, list(inside))
    for table in (*made, *spent.tables):
        table.save(folder)
    config = next(outcome.setting.config for outcome in outcomes if outcome.setting.name == ZIP_RC)
    search = _search(rollouts, config.replace(alpha=alphas[0], beta=MATCHED_BETA))
    _draw(rollouts, comparisons, heads["predictions"], list(inside), search, folder)
    if lite is not None:
        save(figures.joints(_shown(heads["predictions_lite"]), lite.joint_grid), folder / "joints_lite")
    if trainings:
        save(figures.training_kl(trainings), folder / "training_kl")
    page = folder / "report.md"
    shown = {table.name: table.markdown() for table in made}
    text = "\n".join([_page(results, comparisons, shown, bool(trainings)), *spent.text])
    page.write_text(text, encoding="utf-8")
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
    save(figures.joints(_shown(expected), rollouts.joint_grid), folder / "joints")
    save(figures.samples(comparisons, [name for name in names if name != ALL] or names), folder / "samples")
    save(figures.reliability_diagram(expected.right, expected.values), folder / "reliability")
    save(figures.risk_coverage_curve(expected), folder / "risk_coverage")
    save(timeline(search.to_dict()), folder / "timeline")


def _shown(expected: Predictions) -> list[Start]:
    """Questions of every group in turn, spread over each, in the order of the groups."""
    in_groups: dict[str, list[Start]] = {}
    for start in expected.starts:
        in_groups.setdefault(start.problem.question.group, []).append(start)
    each = max(1, _SHOWN // len(in_groups))
    shown: list[Start] = []
    for _, found in sorted(in_groups.items()):
        shown += [found[place] for place in np.unique(np.linspace(0, len(found) - 1, each).astype(int))]
    return shown[:_SHOWN]


def _search(rollouts: Rollouts, config: GenerationConfig) -> GenerationResult:
    """Of the first questions' searches, the one that gave up most samples; of these the longest."""

    def eventful(result: GenerationResult) -> tuple[int, int]:
        return sum(sample.status != "finished" for sample in result.samples), len(result.decisions)

    backend = ReplayBackend(rollouts)
    with IntrospectiveLLM(backend, config, extractor=backend.answer) as llm:
        results = llm.batch([problem.question.text for problem in rollouts.problems[:_SEARCHES]])
    return max(results, key=eventful)


def _page(results: dict[str, Any], comparisons: Sequence[Comparison], shown: dict[str, str], trainings: bool) -> str:
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
        shown["predictions"],
        "",
        "![joints](joints.png)",
        "",
        f"Joints at the prompt of {_SHOWN} questions at most, of every group, beside those of the rollouts. "
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
    if "predictions_lite" in shown:
        lines += _lite_section(shown["predictions_lite"])
    if trainings:
        lines += [
            "## What training does to the policy",
            "",
            "![KL during training](training_kl.png)",
            "",
            "The policy's divergence from the original, on the batches of the training.",
            "",
        ]
    for comparison in comparisons:
        lines += _section(comparison, shown)
    lines += [
        "## Where the samples go",
        "",
        "![samples](samples.png)",
        "",
        "Samples that ZIP-RC started, with 95% intervals, and the compute that it spent, by group.",
        "",
        "![timeline](timeline.png)",
        "",
        f"One search at alpha {comparisons[0].alpha:g} and beta {MATCHED_BETA:g}: of the first {_SEARCHES} questions, "
        "the one where most samples were given up. Dotted where a sample is paused.",
        "",
    ]
    return "\n".join(lines)


def _lite_section(table: str) -> list[str]:
    return [
        "## ZIP-RC-Lite",
        "",
        "A head on the frozen model, trained without the KL term, reads the same samples. What happened is measured by "
        "the final values of the model above, for both heads.",
        "",
        table,
        "",
        "![joints of ZIP-RC-Lite](joints_lite.png)",
        "",
        "The same questions as above. Its searches are a curve of their own below.",
        "",
    ]


def _section(comparison: Comparison, shown: dict[str, str]) -> list[str]:
    suffix = f"alpha_{comparison.alpha:g}"
    falls = [step for step in comparison.steps if step.falls]
    what = "; ".join(
        f"{step.group}: {tables.gain(step.accuracy)} points from {step.before} to {step.after}" for step in falls
    )
    slope = (
        f"Paying more loses accuracy, by more than the interval, here: {what}."
        if falls
        else (
            "No point of ZIP-RC is less accurate than a cheaper one by more than the interval, overall or in a group."
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
        f"{tables.reference(comparison)}:",
        "",
        shown[f"matched_{suffix}"],
        "",
        f"ZIP-RC against each curve at its own mean cost, over all questions: at how many of its "
        f"{len(comparison.curve(ZIP_RC))} betas it is ahead or behind by more than the interval. "
        "A curve is interpolated between its points, and beyond them its end stands for it: its cheapest point where "
        f"ZIP-RC costs less, its dearest where ZIP-RC costs more. {title(BOUND)} is no method but a bound; "
        f"{title(GUESSES)} gives two answers, and is right where one is. Every "
        f"difference, by group: [differences_{suffix}.md](differences_{suffix}.md); every point: "
        f"[points_{suffix}.md](points_{suffix}.md).",
        "",
        shown[f"verdict_{suffix}"],
        "",
        *_of_posterior(comparison, shown),
    ]


def _of_posterior(comparison: Comparison, shown: Mapping[str, str]) -> list[str]:
    points, suffix = comparison.curve(POSTERIOR), tables.suffix(comparison, POSTERIOR)
    if not points:
        return []
    return [
        f"The posterior of answers (`answer_posterior`) likewise, at its {len(points)} betas; every "
        f"difference: [differences_{suffix}.md](differences_{suffix}.md).",
        "",
        shown[f"verdict_{suffix}"],
        "",
    ]


def _frontier(comparison: Comparison) -> str:
    return f"frontier_alpha_{comparison.alpha:g}"


def _finite(item: Any) -> Any:
    """The same with null for what JSON does not know: what is infinite, too."""
    if isinstance(item, dict):
        return {key: _finite(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_finite(value) for value in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item
