"""Draw one search as a timeline: `python docs/make_figure.py search.json search.svg`.

The JSON is what `zip-introspect ask --json` writes. Each sample is a row; its bars are the intervals in which it ran,
coloured by the confidence that the model had at their ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

_HEIGHT = 0.62
_COLOURS = mpl.colormaps["RdYlGn"]  # over confidence, from 0 to 1
_ENDS = {"finished": "finished", "dropped": "dropped", "paused": "paused", "active": "cut by the budget"}


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


def draw(result: dict[str, Any]) -> Figure:
    """The timeline of a search.

    Args:
        result: `GenerationResult.to_dict()`.
    """
    samples = result["samples"]
    figure = Figure(figsize=(9.0, 1.6 + 0.42 * len(samples)), layout="constrained")
    axes = figure.add_subplot()
    for row, sample in enumerate(samples):
        _draw_sample(axes, row, result, sample)
    for decision in result["decisions"]:
        axes.axvline(decision["depth"], color="0.9", linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(samples)), [f"sample {sample['number']}" for sample in samples])
    axes.set_ylim(len(samples) - 0.4, -0.6)
    axes.set_xlim(0, result["usage"]["depth"] * 1.22)
    axes.set_xlabel("serial steps (each vertical line is a decision)")
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), _COLOURS), ax=axes, label="confidence", fraction=0.03, pad=0.01)
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
            colour = _COLOURS(stretch.value)
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
    )


def main() -> None:
    """Read the JSON, write the picture."""
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/make_figure.py SEARCH.json FIGURE.svg")
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # Text stays text and ids are fixed, so that the same search gives the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "zip-introspect"})
    draw(result).savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
