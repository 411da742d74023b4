"""The pictures of a report. Each takes what `comparing` measured and gives a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from scipy.stats import binomtest

from zip_introspect.evaluation.measures.comparing import ALL, Comparison, Point, Predictions, Start
from zip_introspect.evaluation.measures.metrics import expected_calibration_error, reliability, risk_coverage
from zip_introspect.evaluation.replay.baselines import BOUND, GUESSES, LITE, POSTERIOR, ZIP_RC, title
from zip_introspect.evaluation.reporting.drawing import bare
from zip_introspect.evaluation.reporting.training_log import LoggedUpdates
from zip_introspect.introspection.grid import JointGrid

# Okabe and Ito's colours, told apart by people who see fewer; the marker says the same once more.
_STYLES: dict[str, dict[str, Any]] = {
    ZIP_RC: {"color": "#D55E00", "marker": "o", "linewidth": 2.6, "markersize": 6, "zorder": 10},
    POSTERIOR: {"color": "#7B3294", "marker": "o", "linewidth": 2.2, "markersize": 5.5, "zorder": 9},
    LITE: {"color": "#F4A582", "marker": "o", "linestyle": "--", "linewidth": 2.0},
    "majority_vote": {"color": "#0072B2", "marker": "s"},
    "majority_vote_pruned": {"color": "#56B4E9", "marker": "D"},
    "best_of_n": {"color": "#009E73", "marker": "^"},
    "weighted_best_of_n": {"color": "#CC79A7", "marker": "v", "linestyle": (0, (4, 2))},
    "weighted_best_of_n_external": {"color": "#8E4585", "marker": "<"},
    "weighted_best_of_n_self": {"color": "#8E4585", "marker": ">", "linestyle": ":"},
    "zip_rc_reward_pruning": {"color": "#B8860B", "marker": "P"},
    "zip_rc_reward_pruning_thresholds": {"color": "#B8860B", "marker": "X", "linestyle": "--"},
    "adaptive_consistency": {"color": "#7F7F00", "marker": "p"},
    "adaptive_consistency_dirichlet": {"color": "#7F7F00", "marker": "p", "linestyle": ":"},
    "early_stopping_consistency": {"color": "#56B4E9", "marker": "<", "linestyle": "--"},
    "best_of_majority": {"color": "#009E73", "marker": "d", "linestyle": "--"},
    GUESSES: {"color": "#009E73", "marker": "d", "linestyle": ":"},
    "opt_scale": {"color": "#CC79A7", "marker": "*"},
    "deep_conf": {"color": "black", "marker": "h"},
    "step_prune": {"color": "black", "marker": "8", "linestyle": "--"},
    BOUND: {"color": "0.85", "marker": None, "linewidth": 5.0, "zorder": 1},
}
_OTHER = {"color": "0.3", "marker": "."}
_COLOUR = _STYLES[ZIP_RC]["color"]
_RIVAL = _STYLES["majority_vote"]["color"]
_COLUMNS = 5


def style(strategy: str) -> dict[str, Any]:
    """How a strategy's points look in every picture: Matplotlib's colour, marker and the like."""
    return dict(_STYLES.get(strategy, _OTHER))


def joints(starts: Sequence[Start], grid: JointGrid) -> Figure:
    """Joints at the prompt beside those of the rollouts (figure 2), all on one scale of colour."""
    columns = min(_COLUMNS, len(starts))
    rows = -(-len(starts) // columns)
    width, height = 1.3 + 2.5 * columns, 1.0 + 1.5 * rows
    figure = Figure(figsize=(width, height))
    norm = PowerNorm(0.5, 0.0, max(float(max(start.predicted.max(), start.measured.max())) for start in starts))
    inner = {"left": 0.5 / width, "right": 1 - 0.9 / width, "bottom": 0.65 / height, "top": 1 - 0.35 / height}
    outer = figure.add_gridspec(rows, columns, wspace=0.08, hspace=0.3, **inner)
    for place, start in enumerate(starts):
        row, column = divmod(place, columns)
        pair = outer[row, column].subgridspec(1, 2, wspace=0.06)
        group = f"{start.problem.question.group}: " if start.problem.question.group else ""
        titles = f"{group}predicted", f"measured, TV {start.distance:.2f}"
        for half, (heading, cells) in enumerate(zip(titles, (start.predicted, start.measured), strict=True)):
            axes = figure.add_subplot(pair[half])
            axes.imshow(cells, norm=norm, cmap="Blues", origin="lower", aspect="auto")
            axes.set_title(heading, fontsize="x-small", loc="left", pad=3)
            axes.tick_params(length=0, labelsize="x-small", pad=2)
            axes.set_xticks([])
            axes.set_yticks([])
            if place + columns >= len(starts):
                axes.set_xticks([0.5, grid.num_length_bins - 1.5], ["short", "long"])
            if not column and not half:
                ends = [f"{edge:g}" for edge in grid.reward_edges[[0, -1]]]
                axes.set_yticks([-0.5, grid.num_reward_bins - 0.5], ends)
                axes.set_ylabel("reward", fontsize="x-small", labelpad=0)
    shades = figure.add_axes((1 - 0.72 / width, inner["bottom"], 0.12 / width, inner["top"] - inner["bottom"]))
    figure.colorbar(ScalarMappable(norm, "Blues"), cax=shades, label="probability of a cell")
    lengths = f"tokens to come, in {grid.num_length_bins} bins: under {grid.length_edges[1]:g} to over "
    figure.text(0.5, 0.12 / height, f"{lengths}{grid.length_edges[-2]:g}", ha="center", fontsize="small")
    return figure


def frontier(comparison: Comparison, groups: Sequence[str]) -> Figure:
    """Accuracy against generation cost, for every curve (figure 3): all questions large, each group small."""
    small = [group for group in groups if group != ALL]
    rows = -(-len(small) // 3)
    figure = Figure(figsize=(11.5, 5.4 + 2.9 * rows), layout="constrained")
    spec = figure.add_gridspec(1 + rows, 3, height_ratios=[1.75, *[1.0] * rows])
    large = figure.add_subplot(spec[0, :2])
    _curves(large, comparison, ALL)
    large.set_title(f"all questions, alpha {comparison.alpha:g}", loc="left", fontweight="bold")
    aside = figure.add_subplot(spec[0, 2])
    aside.axis("off")
    aside.legend(
        *large.get_legend_handles_labels(), loc="upper left", frameon=False, labelspacing=0.35, fontsize="small"
    )
    aside.text(
        0.03,
        0.02,
        "ZIP-RC (with 95% bootstrap intervals over\nquestions) and the answer posterior: one point\n"
        "for each beta. The others: one for each number\nof samples, threshold, window or confidence.",
        transform=aside.transAxes,
        fontsize="small",
        color="0.3",
    )
    for place, group in enumerate(small):
        axes = figure.add_subplot(spec[1 + place // 3, place % 3])
        _curves(axes, comparison, group, scale=0.7)
        axes.set_title(group, loc="left", fontsize="medium")
    return figure


def _curves(axes: Axes, comparison: Comparison, group: str, scale: float = 1.0) -> None:
    shown: list[Point] = []
    tops: list[float] = []
    for name in comparison.curves:
        points = comparison.curve(name, group)
        look = {"linewidth": 1.3, "markersize": 5.0, "zorder": 2, **style(name)}
        look["linewidth"], look["markersize"] = look["linewidth"] * scale, look["markersize"] * scale
        cost, right = ([getattr(point, figure).value for point in points] for figure in ("cost", "accuracy"))
        axes.plot(cost, right, label=title(name), markeredgecolor="white", markeredgewidth=0.4, **look)
        if name == ZIP_RC:
            low, high = ([getattr(point.accuracy, end) for point in points] for end in ("low", "high"))
            axes.vlines(cost, low, high, color=look["color"], linewidth=scale, alpha=0.6)
            tops += high
        if name == BOUND:
            tops += right
        else:
            shown += points
    rights = [point.accuracy.value for point in shown]
    lowest, highest = min(rights), max([*rights, *tops])
    room = max(0.01, 0.06 * (highest - lowest))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_ylim(lowest - room, highest + room)
    axes.set_yticks([tick for tick in axes.get_yticks() if lowest - room <= tick <= min(1.0, highest + room)])
    axes.set_xlim(0.0, 1.06 * max(point.cost.value for point in shown))
    axes.axvline(1.0, color="0.8", linewidth=0.8, zorder=0)
    axes.yaxis.set_major_formatter(lambda tick, _: f"{round(100 * tick, 1):g}%")
    axes.set_xlabel("generation cost (1: a single sample)")
    axes.set_ylabel("accuracy")
    bare(axes)


def samples(comparisons: Sequence[Comparison], groups: Sequence[str]) -> Figure:
    """What each group got of zip_rc, for each beta: samples, and compute. Harder groups should get more."""
    figure = Figure(figsize=(1.4 + 5.0 * len(comparisons), 6.6), layout="constrained")
    shades = mpl.colormaps["viridis"](np.linspace(0.92, 0.05, len(groups)))
    rows = figure.subplots(2, len(comparisons), squeeze=False, sharey="row")
    for column, comparison in enumerate(comparisons):
        started, computed = rows[:, column]
        betas = [point.setting for point in comparison.curve(ZIP_RC)]
        for number, (group, shade) in enumerate(zip(groups, shades, strict=True)):
            points = comparison.curve(ZIP_RC, group)
            found = [point.samples for point in points]
            means = [item.value for item in found]
            bars = [[item.value - item.low for item in found], [item.high - item.value for item in found]]
            aside = 0.4 * ((number + 0.5) / len(groups) - 0.5)  # so that no bar hides another
            style = {"color": shade, "marker": "o", "markersize": 4, "linewidth": 1.2, "label": group}
            started.errorbar(np.arange(len(betas)) + aside, means, bars, elinewidth=0.8, **style)
            computed.plot(np.arange(len(betas)) + aside, [point.compute for point in points], **style)
        started.set_title(f"alpha {comparison.alpha:g}", loc="left")
        for axes in (started, computed):
            axes.set_xticks(range(len(betas)), [beta.removeprefix("beta ") for beta in betas], fontsize="small")
            bare(axes)
        computed.set_xlabel("beta, the price of cost")
    for row in rows:
        row[0].set_ylim(0)
    rows[0, 0].set_ylabel("samples started")
    rows[1, 0].set_ylabel("compute (1: a single sample)")
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def training_kl(histories: Mapping[str, Sequence[LoggedUpdates]]) -> Figure:
    """The policy's divergence from the original during trainings, by their names (figure 4)."""
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for (name, history), colour in zip(histories.items(), mpl.color_sequences["petroff10"], strict=False):
        steps, divergence = [record.step for record in history], [record.policy_kl for record in history]
        axes.plot(steps, divergence, color=colour, linewidth=1.8, label=f"{name}: {divergence[-1]:.3g} at the end")
    axes.set_yscale("log")
    axes.set_xlabel("updates")
    axes.set_ylabel("KL from the original policy, nats a token")
    axes.set_xlim(0)
    figure.legend(loc="outside upper left", frameon=False)
    bare(axes)
    return figure


def reliability_diagram(right: NDArray[np.bool_], values: NDArray[np.float64], bins: int = 10) -> Figure:
    """What came true beside what was predicted at the end of a rollout; below, how many rollouts a bin holds.

    Args:
        right, values: shape (rollouts,).
    """
    held = reliability(right, values, bins)
    figure = Figure(figsize=(5.2, 5.8), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="perfectly calibrated")
    for value, share, count in zip(held.value, held.accuracy, held.count, strict=True):
        low, high = binomtest(round(share * count), count).proportion_ci(method="wilson")
        axes.vlines(value, low, high, color=_COLOUR, linewidth=1.2)
    axes.scatter(held.value, held.accuracy, 12 + 90 * held.count / held.count.max(), color=_COLOUR, zorder=3)
    error = expected_calibration_error(right, values, bins)
    axes.set_title(f"calibration error {error:.3f}, {len(right):,} rollouts", loc="left", fontsize="medium")
    axes.set_ylabel("share that is right")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside upper left", frameon=False)
    below.hist(values, bins, range=(0.0, 1.0), color="0.6", rwidth=0.9)
    below.set_yscale("log")
    below.set_ylabel("rollouts")
    below.set_xlabel("predicted probability of being right")
    for item in (axes, below):
        bare(item)
    return figure


def risk_coverage_curve(found: Predictions) -> Figure:
    """The error of answering only the most confident share, between chance and the best order there is."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    curve, best = found.risk_coverage, risk_coverage(found.right, found.right)
    wrong = float(curve.risk[-1])
    axes.axhline(wrong, color="0.6", linewidth=1, linestyle="--", label=f"at random, area {wrong:.3f}")
    axes.plot(curve.coverage, curve.risk, color=_COLOUR, linewidth=2.2, label=f"by value, area {curve.area:.3f}")
    style = {"color": _RIVAL, "linewidth": 1.4, "linestyle": ":"}
    axes.plot(best.coverage, best.risk, label=f"best possible, area {best.area:.3f}", **style)
    axes.set_xlabel("share of rollouts that is answered, most confident first")
    axes.set_ylabel("share of these that is wrong")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(wrong, float(curve.risk.max())) * 1.4 + 0.005)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="upper left", frameon=False)
    bare(axes)
    return figure
