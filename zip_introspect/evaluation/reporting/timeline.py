"""One search as a timeline: samples as bars over serial steps, coloured by confidence, pauses and drops visible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zip_introspect.evaluation.reporting.drawing import bare

_CONFIDENCE = mpl.colormaps["RdYlBu"]  # from 0 to 1; people who see fewer colours tell these ends apart
_ENDS = {"finished": "finished", "dropped": "dropped", "paused": "paused", "active": "cut by the budget"}
_HEIGHT = 0.62


@dataclass(frozen=True, slots=True)
class Stretch:
    """One interval of one sample. `tokens` is 0 where it was paused."""

    start: int
    """Serial steps of the search at its beginning."""
    end: int
    tokens: int
    value: float


def stretches(result: dict[str, Any], sample: dict[str, Any]) -> Iterator[Stretch]:
    """The intervals of a sample, from the decision that started it to the last one."""
    depths = {decision["index"]: decision["depth"] for decision in result["decisions"]}
    number = sample["number"]
    begun = next(
        (
            decision["index"]
            for decision in result["decisions"]
            if number in decision["started"] or number in [child for _, child in decision["forked"]]
        ),
        0,
    )
    decision, tokens = begun, 0
    for point in sample["trace"]:
        grown = point["tokens"] - tokens
        yield Stretch(depths[decision], depths[point["decision"]], grown, point["value"])
        decision, tokens = point["decision"], point["tokens"]


def timeline(result: dict[str, Any]) -> Figure:
    """One search: a row for each sample, its bars coloured by the confidence at the end of each interval.

    Args:
        result: `GenerationResult.to_dict()`.
    """
    rows = result["samples"]
    figure = Figure(figsize=(9.0, 1.6 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for row, sample in enumerate(rows):
        _draw_sample(axes, row, result, sample)
    for decision in result["decisions"]:
        axes.axvline(decision["depth"], color="0.9", linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(rows)), [f"sample {sample['number']}" for sample in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    depth = result["usage"]["depth"]
    axes.set_xticks([tick for tick in MaxNLocator(8, integer=True).tick_values(0, depth) if tick <= depth])
    axes.set_xlim(0, depth * 1.22)
    axes.set_xlabel("serial steps (each vertical line is a decision)")
    axes.tick_params(axis="y", length=0)
    bare(axes)
    axes.spines["left"].set_visible(False)
    shades = ScalarMappable(Normalize(0.0, 1.0), _CONFIDENCE)
    figure.colorbar(shades, ax=axes, label="confidence", fraction=0.03, pad=0.01)
    answer = result["answer"] if result["answer"] is not None else "none"
    axes.set_title(
        f"answer {answer}, confidence {result['confidence']:.2f}, {result['usage']['generated_tokens']} tokens",
        loc="left",
        fontsize="medium",
    )
    return figure


def _draw_sample(axes: Axes, row: int, result: dict[str, Any], sample: dict[str, Any]) -> None:
    end = 0
    for stretch in stretches(result, sample):
        if stretch.tokens:
            end = stretch.start + stretch.tokens
            colour = _CONFIDENCE(stretch.value)
            axes.barh(row, stretch.tokens, _HEIGHT, stretch.start, color=colour, edgecolor="0.4", linewidth=0.4)
        else:
            axes.hlines(row, stretch.start, stretch.end, color="0.5", linewidth=1.2, linestyle=(0, (1, 2)))
            end = stretch.end
    status = sample["status"]
    label = (
        _ENDS[status]
        if status != "finished"
        else f"{'no answer' if sample['answer'] is None else 'answer ' + sample['answer']}, {sample['value']:.2f}"
    )
    if status == "finished" and sample["finish"] == "length":
        label = "cut at its longest"
    if status == "dropped":
        axes.plot(end, row, marker="x", color="firebrick", markersize=7, markeredgewidth=2, clip_on=False)
    chosen = sample["number"] == result["chosen"]
    offset = 10 if status == "dropped" else 5
    axes.annotate(
        label + (" (chosen)" if chosen else ""),
        (end, row),
        (offset, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
        fontweight="bold" if chosen else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
