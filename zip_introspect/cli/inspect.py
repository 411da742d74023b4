"""`zip-introspect inspect`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zip_introspect.cli import EXIT_ERROR
from zip_introspect.cli.model_files import MAX_BINS, MIN_BINS, ModelFacts, read, trained_otherwise
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.cli.text import printable
from zip_introspect.heads.spare_ids import SpareIds
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded

_RUNS_SHOWN = 3


def inspect(
    model: Annotated[str, typer.Argument(help="Directory, .gguf file or hub id of a model.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a model's architecture, vocabulary, reserved tokens and grid, and which grid would fit it.

    The weights are not loaded. The exit code is 1 where the files have a fault.
    """
    with reporting(debug):
        facts = read(model)
        caution = None if facts.grid is None else trained_otherwise(Path(expanded(model)), facts, facts.grid)
        if as_json:
            typer.echo(json.dumps({**_plain(facts), "warning": caution}, indent=2, ensure_ascii=False))
        else:
            _print(Console(), facts)
            if caution:
                typer.echo(f"warning: {caution}", err=True)
        if facts.problems:
            raise typer.Exit(EXIT_ERROR)


def _plain(facts: ModelFacts) -> dict[str, Any]:
    plain = asdict(facts)
    del plain["names"]
    for name, grid in (("grid", facts.grid), ("proposal", facts.proposal)):
        plain[name] = None if grid is None else grid.model_dump(mode="json")
    return plain


def _print(console: Console, facts: ModelFacts) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()

    def row(name: str, value: object, style: str = "") -> None:
        table.add_row(name, Text("not said" if value is None else printable(str(value)), style=style))

    row("model", facts.model, "bold")
    row("architecture", facts.architecture)
    row("layers, width", f"{facts.layers or '?'}, {facts.hidden_size or '?'}")
    row("context", None if facts.max_context is None else f"{facts.max_context:,} tokens")
    if facts.weights is None:
        row("weights", "no safetensors files here")
    else:
        weights = facts.weights
        row("weights", f"{weights.parameters:,} parameters, {', '.join(weights.dtypes)}, {weights.bytes / 1e6:,.1f} MB")
    row("output head", f"{facts.head_rows:,} rows")
    row("tokenizer", None if facts.tokens is None else f"{facts.tokens:,} tokens")
    row("chat template", "yes" if facts.chat_template else "no")
    row("ends with", ", ".join(map(str, facts.eos_token_ids)) or None)
    row("reserved ids", "; ".join(map(_describe_run, facts.runs[:_RUNS_SHOWN])) or "none found")
    row("grid", "none with the model" if facts.grid is None else _describe_grid(facts.grid))
    if facts.grid is None:
        row("what fits", _advice(facts))
    if facts.grid is None and not facts.problems:
        row("verdict", "ready without a head: samples that agree are its confidence", "green")
    for problem in facts.problems:
        row("problem", problem, "red")
    if facts.grid is not None and not facts.problems:
        row("verdict", "ready: the grid fits the vocabulary", "green")
    console.print(table)


def _describe_run(run: SpareIds) -> str:
    unnamed = run.count - run.named
    parts = [f"{run.named} named as reserved"] * bool(run.named) + [f"{unnamed} without a token"] * bool(unnamed)
    return f"{run.first}..{run.first + run.count - 1} ({', '.join(parts)})"


def _describe_grid(grid: JointGrid) -> str:
    ids = grid.reserved
    return (
        f"{grid.num_reward_bins} reward bins from {grid.reward_edges[0]:g} to {grid.reward_edges[-1]:g} x "
        f"{grid.num_length_bins} length bins from {grid.length_edges[0]:g} to {grid.length_edges[-1]:g} tokens, "
        + (f"ids {ids[0]}..{ids[-1]}" if ids else "no reserved ids")
    )


def _advice(facts: ModelFacts) -> str:
    grid = facts.proposal
    if grid is None:
        longest = facts.runs[0].count if facts.runs else 0
        return (
            f"no grid: the longest run of free ids is {longest}, and {MIN_BINS} x {MIN_BINS} bins need "
            f"{MIN_BINS * MIN_BINS}. Add {MAX_BINS * MAX_BINS} tokens to the vocabulary and train their rows."
        )
    return (
        f"{grid.num_reward_bins} x {grid.num_length_bins}: JointGrid.paper({grid.first_reserved}, "
        f"num_reward_bins={grid.num_reward_bins}, num_length_bins={grid.num_length_bins}). "
        "Its rows hold no prediction until they are trained."
    )
