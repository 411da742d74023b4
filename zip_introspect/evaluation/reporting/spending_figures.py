"""The pictures of what answers cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from zip_introspect.evaluation.measures.foretelling import Forecast
from zip_introspect.evaluation.measures.resampling import Verified
from zip_introspect.evaluation.replay.baselines import TITLES
from zip_introspect.evaluation.reporting.drawing import bare
from zip_introspect.evaluation.reporting.figures import style
from zip_introspect.evaluation.store.rollout_file import Rollouts

if TYPE_CHECKING:
    from zip_introspect.evaluation.reporting.spending import Priced

_NAMES = {title: name for name, title in TITLES.items()}


def cost_of_pass_curves(curves: Mapping[str, Sequence[Priced]], unit: str) -> Figure:
    """How often a strategy is right against what one right answer costs: high and to the left is better."""
    figure = Figure(figsize=(9.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for name, items in curves.items():
        head, _, alpha = name.partition(", alpha ")
        look = {"linewidth": 1.3, "markersize": 5.0, **style(_NAMES.get(head, head))}
        if alpha and float(alpha) == 1:
            look["linestyle"] = (0, (1, 1))
        shown = [item for item in items if np.isfinite(item.cost.value)]
        points = [item.cost.value for item in shown], [item.accuracy for item in shown]
        axes.plot(*points, label=name, markeredgecolor="white", markeredgewidth=0.4, **look)
    axes.set_xscale("log")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"cost of pass: {unit} for one right answer")
    axes.set_ylabel("accuracy")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    bare(axes)
    return figure


def predicted_against_paid(found: Sequence[Forecast], rollouts: Rollouts) -> Figure:
    """A dot for each question, in the colour of its group."""
    owner = np.array([problem.question.group for problem in rollouts.problems])
    names = sorted(set(owner.tolist()))
    shades = mpl.colormaps["viridis"](np.linspace(0.92, 0.05, len(names)))
    figure = Figure(figsize=(1.2 + 4.0 * len(found), 4.4), layout="constrained")
    for place, item in enumerate(found):
        axes = figure.add_subplot(1, len(found), place + 1)
        ends = [f(column) for f in (min, max) for column in (item.expected, item.paid)]
        low, high = min(ends) / 1.2, max(ends) * 1.2
        axes.plot([low, high], [low, high], color="0.6", linewidth=1, linestyle="--")
        for name, shade in zip(names, shades, strict=True):
            inside = owner == name
            axes.scatter(item.expected[inside], item.paid[inside], 9, color=shade, alpha=0.7, label=name or "questions")
        for axis, scaled, limited in (
            (axes.xaxis, axes.set_xscale, axes.set_xlim),
            (axes.yaxis, axes.set_yscale, axes.set_ylim),
        ):
            scaled("log")
            limited(low, high)
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{item.name}\nrank correlation {item.rank_correlation.value:.2f}", loc="left", fontsize="small")
        axes.set_xlabel("tokens expected at the prompt")
        if not place:
            axes.set_ylabel("tokens generated")
        bare(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
    return figure


def resampling_curves(found: Sequence[Verified], single: float) -> Figure:
    """As attempts grow: how much of what is accepted is right; questions that get an answer, and a wrong one."""
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    precision, coverage, wrong = figure.subplots(1, 3)
    precision.axhline(single, color="0.6", linewidth=1, linestyle="--", label="a single sample, all accepted")
    for item, colour in zip(found, ("#D55E00", "#0072B2", "#8E4585", "#009E73"), strict=False):
        sizes = np.arange(1, item.attempts + 1)
        for axes, measure in ((precision, item.precision), (coverage, item.coverage), (wrong, item.false_accepts)):
            curve = [measure(int(size)) for size in sizes]
            axes.plot(sizes, [point.value for point in curve], color=colour, marker=".", label=item.name)
            low, high = ([getattr(point, end) for point in curve] for end in ("low", "high"))
            axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    for axes, heading in (
        (precision, "right, of the answers"),
        (coverage, "questions that get an answer"),
        (wrong, "questions that get a wrong one"),
    ):
        axes.set_title(heading, loc="left", fontsize="medium")
        axes.set_xlabel("attempts, at most")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_formatter(lambda tick, _: f"{round(100 * tick, 1):g}%")
        bare(axes)
    wrong.set_ylim(0)
    figure.legend(*precision.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure
