"""What fitting found, as pictures: calibration at the end of a sample, and what every setting gets for its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from zip_introspect.evaluation.reporting.drawing import bare, save
from zip_introspect.evaluation.reporting.figures import reliability_diagram, style
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.fitting.choosing import Tried
from zip_introspect.fitting.fit import Fitted


def draw(fitted: Fitted, stem: Path) -> dict[str, Path]:
    """Write `stem.calibration.png` and `stem.strategies.png`; their titles and where they are."""
    files = {}
    for title, name, figure in (
        ("Calibration at the end of a sample", "calibration", calibration(fitted.rollouts)),
        ("Accuracy against tokens", "strategies", strategies(fitted.played, list(fitted.recommended.values()))),
    ):
        path = stem.with_name(f"{stem.name}.{name}")
        save(figure, path, ("png",))
        files[title] = path.with_name(f"{path.name}.png")
    return files


def strategies(played: Sequence[Tried], recommended: Sequence[Tried]) -> Figure:
    """Every setting on held-out questions; what is recommended, ringed."""
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(str(item.config.strategy) for item in played):
        own = [item for item in played if item.config.strategy == name]
        look = {key: value for key, value in style(name).items() if key in ("color", "marker", "zorder")}
        axes.plot([_cost(item) for item in own], [_right(item) for item in own], linestyle="", label=name, **look)
    axes.scatter(
        [_cost(item) for item in recommended],
        [_right(item) for item in recommended],
        170,
        facecolors="none",
        edgecolors="black",
        linewidths=1.4,
        zorder=20,
        label="recommended",
    )
    axes.set_xlabel("tokens, in samples")
    axes.set_ylabel("accuracy on held-out questions")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside right upper", frameon=False)
    bare(axes)
    return figure


def calibration(rollouts: Rollouts) -> Figure:
    """Of samples that were not cut, as the report's figures are."""
    whole = [item for problem in rollouts.problems for item in problem.rollouts if item.finished]
    values = np.array([rollouts.final_value(item) for item in whole])
    return reliability_diagram(np.array([item.right for item in whole]), values)


def _cost(item: Tried) -> float:
    return float(item.cost.mean())


def _right(item: Tried) -> float:
    return float(item.right.mean())
