"""The part of a report that is about what answers cost: tables, figures and their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.measures.comparing import ALL, Comparison, groups
from zip_introspect.evaluation.measures.cost import Interval
from zip_introspect.evaluation.measures.cost_of_pass import (
    Attempts,
    Tariff,
    by_size,
    cost_of_pass,
    cost_of_pass_each,
    ladder,
    one_sample,
)
from zip_introspect.evaluation.measures.foretelling import Forecast, of_samples, of_searches, reversals
from zip_introspect.evaluation.measures.guarding import Guarded, guarded
from zip_introspect.evaluation.measures.resampling import Verified, verifiers
from zip_introspect.evaluation.replay.baselines import BOUND, WEIGHED, ZIP_RC, label, title
from zip_introspect.evaluation.replay.trials import Outcomes
from zip_introspect.evaluation.reporting import spending_figures as pictures
from zip_introspect.evaluation.reporting.drawing import save
from zip_introspect.evaluation.reporting.tables import Table, reference, share
from zip_introspect.evaluation.store.rollout_file import Rollouts

PENALTIES = (1.0, 4.0)
"""What a wrong answer costs, in right ones."""
THRESHOLDS = (0.5, 0.9)
"""On the value: of ladders, and of verifiers."""


@dataclass(frozen=True)
class OtherModel:
    """Another model's rollouts of the same questions, and what tokens cost of the model that is judged and of it."""

    rollouts: Rollouts
    tariff: Tariff
    """Of the model that is judged."""
    own_tariff: Tariff
    """In the same unit."""

    def check_same_questions(self, rollouts: Rollouts) -> None:
        """See that both were asked the same.

        Raises:
            EvaluationDataError: they were not.
        """
        ours, theirs = ([item.question.text for item in found.problems] for found in (rollouts, self.rollouts))
        if ours != theirs:
            raise EvaluationDataError(
                f"the {len(theirs)} questions of {self.rollouts.model} are not the {len(ours)} of {rollouts.model}; "
                "make both from the same data set, with the same --limit and --seed"
            )


@dataclass(frozen=True)
class Priced:
    """A setting under a tariff."""

    curve: str
    setting: str
    accuracy: float
    cost: Interval
    """Of pass, over all questions."""
    by_group: dict[str, float]


@dataclass
class Spending:
    """All that a report says of costs."""

    tables: list[Table] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def add(self, table: Table) -> None:
        """A table, on the page where the text has come to."""
        self.tables.append(table)
        self.text += [table.markdown(), ""]

    def say(self, *paragraphs: str) -> None:
        """Paragraphs, headings and pictures."""
        for paragraph in paragraphs:
            self.text += [paragraph, ""]


def write(
    rollouts: Rollouts,
    outcomes: Sequence[Outcomes],
    comparisons: Sequence[Comparison],
    folder: Path,
    *,
    tariffs: Sequence[Tariff] = (),
    other: OtherModel | None = None,
) -> Spending:
    """Measure what answers cost, and draw it; the tables are given back, to be saved with the others.

    Args:
        tariffs: what a token costs; where there are none, FLOPs, or tokens where the model's size is not known.
        other: is set beside it.

    Raises:
        EvaluationDataError: the other model was asked other questions.
    """
    if other is not None:
        other.check_same_questions(rollouts)
    spent = Spending()
    for tariff in tariffs or by_size(rollouts):
        _cost_of_pass(spent, rollouts, outcomes, tariff, folder)
    if other is not None:
        _two_models(spent, rollouts, other)
    _foretold(spent, rollouts, outcomes, comparisons, folder)
    _resampled(spent, verifiers(rollouts, THRESHOLDS), rollouts, folder)
    _guarded(spent, guarded(rollouts), rollouts)
    return spent


def priced(rollouts: Rollouts, outcomes: Sequence[Outcomes], tariff: Tariff) -> dict[str, list[Priced]]:
    """Every setting under a tariff, by curve; an oracle is no method and left out."""
    inside = groups(rollouts)
    found: dict[str, list[Priced]] = {}
    for outcome in outcomes:
        setting = outcome.setting
        if setting.name == BOUND:
            continue
        curve = title(setting.name)
        if setting.name in WEIGHED:
            curve += f", alpha {setting.config.alpha:g}"
        paid = tariff.paid(outcome.compute, outcome.tokens)
        by_group = {
            name: cost_of_pass(outcome.right[mask], paid[mask]).value for name, mask in inside.items() if name != ALL
        }
        accuracy = float(outcome.right.mean())
        item = Priced(curve, label(setting), accuracy, cost_of_pass(outcome.right, paid), by_group)
        found.setdefault(curve, []).append(item)
    return found


def _cost_of_pass(
    spent: Spending, rollouts: Rollouts, outcomes: Sequence[Outcomes], tariff: Tariff, folder: Path
) -> None:
    curves = priced(rollouts, outcomes, tariff)
    stem = f"cost_of_pass_{tariff.unit.lower()}"
    save(pictures.cost_of_pass_curves(curves, tariff.unit), folder / stem)
    names = [name for name in groups(rollouts) if name != ALL]
    rows = []
    for curve, items in curves.items():
        cheapest = min(items, key=lambda item: item.cost.value)
        best = max(items, key=lambda item: (item.accuracy, -item.cost.value))
        each = (amount(cheapest.by_group[name]) for name in names)
        front = (curve, cheapest.setting, f"{cheapest.accuracy:.1%}", between(cheapest.cost), *each)
        rows.append((*front, best.setting, f"{best.accuracy:.1%}", amount(best.cost.value)))
    headings = (
        "strategy",
        "cheapest setting",
        "right",
        "cost of pass",
        *names,
        "most accurate setting",
        "right",
        "cost",
    )
    spent.results[stem] = {curve: [asdict(item) for item in items] for curve, items in curves.items()}
    spent.say(
        f"## What a right answer costs, in {tariff.unit}",
        "Cost of pass (Erol et al., 2025): the mean cost of a question over the share that is right, or what one right "
        f"answer costs whoever goes on until there is one. A generated token costs {amount(tariff.per_token)} "
        f"{tariff.unit}, one that is read {amount(tariff.per_prompt_token)}. A wrong answer costs nothing here but "
        "what was paid for it, so one sample is often cheapest; what a higher accuracy costs stands to the right.",
        f"![cost of pass]({stem}.png)",
    )
    spent.add(Table(stem, headings, tuple(rows)))


def _two_models(spent: Spending, rollouts: Rollouts, other: OtherModel) -> None:
    """The single samples of both, ladders from the one to the other, and price reversal."""
    tariff = other.tariff
    ours, theirs = one_sample(rollouts, tariff), one_sample(other.rollouts, other.own_tariff)
    rungs = rollouts.model, other.rollouts.model
    rows = [_attempts_row(rungs[0], ours), _attempts_row(rungs[1], theirs)]
    for threshold in THRESHOLDS:
        found = ladder(rollouts, other.rollouts, tariff, other.own_tariff, threshold)
        rows.append(_attempts_row(f"ladder, a value below {threshold:g} is handed on", found))
    headings = ("one sample of", f"{tariff.unit} a question", "right", "handed on", "cost of pass", "never right")
    prices = tariff.per_token, other.own_tariff.per_token
    by_question = reversals(prices[0], ours.paid, prices[1], theirs.paid)
    each = (cost_of_pass_each(item.right, item.paid) for item in (ours, theirs))
    by_answer = reversals(prices[0], next(each), prices[1], next(each))
    spent.results["two_models"] = {"reversed": asdict(by_question), "reversed_for_an_answer": asdict(by_answer)}
    spent.say("## Two models, two prices")
    spent.add(Table("two_models", headings, tuple(rows)))
    if prices[0] == prices[1]:
        spent.say("Both have the same price a token, so that neither list price is below the other.")
        return
    cheap = rungs[prices[0] > prices[1]]
    spent.say(
        f"Price reversal (Chen et al., 2026): {cheap} has the lower price a token, and costs more for "
        f"{share(by_question)} percent of the questions. Of one right answer, by what each question's samples came to, "
        f"it costs more for {share(by_answer)} percent."
    )


def _attempts_row(name: str, attempts: Attempts) -> tuple[str, ...]:
    return (
        name,
        amount(float(attempts.paid.mean())),
        f"{attempts.right.mean():.1%}",
        f"{attempts.handed_on.mean():.1%}",
        between(cost_of_pass(attempts.right, attempts.paid)),
        f"{(attempts.right == 0).mean():.1%}",
    )


def _foretold(
    spent: Spending,
    rollouts: Rollouts,
    outcomes: Sequence[Outcomes],
    comparisons: Sequence[Comparison],
    folder: Path,
) -> None:
    """What the joint at the prompt expects against what is paid."""
    samples, searches = of_samples(rollouts), []
    for comparison in comparisons:
        setting = reference(comparison)
        config = next(
            item.setting.config
            for item in outcomes
            if (item.setting.name, label(item.setting)) == (ZIP_RC, setting)
            and item.setting.config.alpha == comparison.alpha
        )
        name = f"a search, alpha {comparison.alpha:g}, {setting}"
        searches.append(of_searches(name, rollouts, config))
    save(pictures.predicted_against_paid([samples[0], *searches], rollouts), folder / "predicted_cost")
    rows = tuple(_foretold_row(item) for item in (*samples, *searches))
    headings = ("", "expected", "paid", "rank correlation", "paid / expected", "10%", "median", "90%")
    spent.results["predicted_cost"] = {
        item.name: {"rank_correlation": asdict(item.rank_correlation), "ratio": asdict(item.ratio)}
        for item in (*samples, *searches)
    }
    spent.say(
        "## Predicted against paid",
        "Tokens that the joint at the prompt expects, and what was generated: for one sample, and for a whole search, "
        "of which the first decision plans only the first round. The three columns to the right are quantiles over "
        "questions of paid over expected. How long a question's other samples are is the best that any prediction at "
        "the prompt could know, but for its own noise; the rest is luck.",
        "![predicted against paid](predicted_cost.png)",
    )
    spent.add(Table("predicted_cost", headings, rows))
    fixed = [item for item in outcomes if item.setting.name == "majority_vote"]
    one = samples[0].expected
    rows = tuple(
        (found.name, f"majority vote, {label(item.setting)}", f"{(found.expected < quote).mean():.1%}", share(turned))
        for found in searches
        for item in fixed
        if (size := item.setting.config.max_samples) in (1, 2, 4, 8)
        for quote in (one * size,)
        for turned in (reversals(found.expected, found.paid, quote, item.tokens),)
    )
    spent.say(
        "The same happens between strategies: the one that is expected to take fewer tokens may take more. The last "
        "column says for how many percent of the questions it did, whichever of the two it was."
    )
    spent.add(Table("price_reversal", ("ZIP-RC", "against", "ZIP-RC is quoted less", "reversed"), rows))


def _foretold_row(item: Forecast) -> tuple[str, ...]:
    rank, ratio = (f"{x.value:.2f} [{x.low:.2f}, {x.high:.2f}]" for x in (item.rank_correlation, item.ratio))
    means = (f"{column.mean():.0f}" for column in (item.expected, item.paid))
    return (item.name, *means, rank, ratio, *(f"{number:.2f}" for number in item.quantiles))


def _resampled(spent: Spending, found: Sequence[Verified], rollouts: Rollouts, folder: Path) -> None:
    single = float(np.mean([np.mean([x.right for x in problem.rollouts]) for problem in rollouts.problems]))
    save(pictures.resampling_curves(found, single), folder / "resampling")
    rows = []
    for item in found:
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= item.attempts]
        for size in sizes:
            net = (f"{item.net(size, penalty):+.3f}" for penalty in PENALTIES)
            paid = f"{item.samples[:, size - 1].mean():.2f}"
            shares = (share(x) for x in (item.coverage(size), item.precision(size), item.false_accepts(size)))
            rows.append((item.name, str(size), *shares, paid, *net))
    headings = ("accepted", "attempts", "answered", "right of these", "false accepts", "samples paid")
    nets = tuple(f"net, a wrong one costs {penalty:g}" for penalty in PENALTIES)
    best = {
        item.name: {
            f"{penalty:g}": max(range(1, item.attempts + 1), key=lambda size: round(item.net(size, penalty), 3))
            for penalty in PENALTIES
        }
        for item in found
    }
    spent.results["resampling"] = {"best_attempts": best, "single_sample": single}
    spent.say(
        "## Asking again until a verifier accepts",
        "The first sample that a verifier accepts is the answer; where none of so many attempts is accepted, there is "
        "none (Stroebl, Kapoor and Narayanan, 2024). Each further attempt is spent on the questions that are still "
        "open: the harder ones, where what is accepted may more often be the verifier's mistake. Shares are of all "
        f"questions, in percent; a single sample is right in {100 * single:.1f}. The net counts a right answer as 1, "
        "and none as 0.",
        *(_told(item, best[item.name]) for item in found),
        "![resampling](resampling.png)",
    )
    spent.add(Table("resampling", (*headings, *nets), tuple(rows)))


def _told(item: Verified, best: dict[str, int]) -> str:
    """What more attempts do, in words."""
    figures = item.coverage, item.precision, item.false_accepts
    answered, right, wrong = ([100 * figure(size).value for size in (1, item.attempts)] for figure in figures)
    counts = " and ".join(f"{count} where a wrong answer costs {penalty}" for penalty, count in best.items())
    return (
        f"A {item.name}, from one attempt to {item.attempts}: the questions with an answer go from {answered[0]:.1f} "
        f"to {answered[1]:.1f}, those with a wrong one from {wrong[0]:.1f} to {wrong[1]:.1f}, and of the answers "
        f"{right[0]:.1f} are right, then {right[1]:.1f}. The fewest attempts with the best net: {counts}."
    )


def _guarded(spent: Spending, found: Sequence[Guarded], rollouts: Rollouts) -> None:
    cut = float(np.mean([not item.finished for problem in rollouts.problems for item in problem.rollouts]))
    rows = tuple((f"{x.share:g}", *map(share, (x.refused, x.runaways, x.longest, x.tokens, x.right))) for x in found)
    headings = (
        *("share", "questions refused", "runaways spared", "longest samples spared"),
        *("tokens spared", "right samples lost"),
    )
    spent.results["guard"] = [asdict(item) for item in found]
    spent.say(
        "## Guarding against questions that run on",
        "A question is refused, or handed on, where one sample is expected at the prompt to take more than a share of "
        f"{rollouts.max_new_tokens:,} tokens (`Budget(max_expected_share=...)`). The shares are those that refuse a "
        "half, a quarter, 10%, 5% and 1% of the questions. In percent: of the questions, those refused; and theirs of "
        f"the samples that were cut at that length ({100 * cut:.1f} of all samples), of the longest tenth of the "
        "samples, of all tokens, and of all right samples. To refuse as many by lot would spare, and lose, as much of "
        "each as of the questions.",
    )
    spent.add(Table("guard", headings, rows))


def amount(number: float) -> str:
    """Three digits; "never" for what no money buys."""
    return "never" if np.isinf(number) else f"{number:.3g}"


def between(found: Interval) -> str:
    """An amount with its interval."""
    return f"{amount(found.value)} [{amount(found.low)}, {amount(found.high)}]"
