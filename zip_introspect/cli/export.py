"""`zip-introspect export gguf` and `zip-introspect attach-grid`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zip_introspect.backend.exporting import exporter
from zip_introspect.cli.arguments import path
from zip_introspect.cli.reporting import Debug, reporting
from zip_introspect.introspection.grid import JointGrid

export = typer.Typer(help="Write a model for another runtime.", no_args_is_help=True)


@export.command("gguf")
def export_gguf(
    model: Annotated[
        Path, typer.Argument(parser=path, help="Directory of a checkpoint, as save_pretrained writes it.")
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="The .gguf file to write.")],
    kind: Annotated[
        str, typer.Option("--type", help="Of the weights: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0.")
    ] = "q8_0",
    grid: Annotated[
        Path | None, typer.Option(parser=path, help="A grid's file, in place of the one in the directory.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Convert a checkpoint to GGUF: weights, tokenizer, chat template and grid in one file."""
    with reporting(debug):
        exporter("gguf").export(model, out, kind, None if grid is None else JointGrid.load(grid))
        typer.echo(f"{out}: {out.stat().st_size / 1e6:,.1f} MB. Try: zip-introspect ask --model {out} PROMPT")


def attach_grid(
    file: Annotated[Path, typer.Argument(parser=path, help="A .gguf file; it is left as it is.")],
    grid: Annotated[Path, typer.Argument(parser=path, help="The grid's JSON file, or a directory that holds it.")],
    out: Annotated[
        Path | None, typer.Option(parser=path, help="The copy to write; FILE.grid.gguf unless given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Copy a GGUF file with a grid in its metadata."""
    with reporting(debug):
        target = out or file.with_suffix(".grid.gguf")
        exporter("gguf").attach_grid(file, JointGrid.load(grid), target)
        typer.echo(f"{target}: written and verified")
