"""`zip-introspect export gguf` and `zip-introspect attach-grid`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zip_introspect.backend.exporting import exporter
from zip_introspect.cli.arguments import path
from zip_introspect.cli.model_files import read, trained_otherwise
from zip_introspect.cli.reporting import Debug, reporting
from zip_introspect.errors import ConfigError
from zip_introspect.introspection.grid import RELEASED_REWARDS, JointGrid

PRESETS = ("paper", "ziprc-release")

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
    model: Annotated[
        Path, typer.Argument(parser=path, help="A .gguf file, which is left as it is, or a checkpoint's directory.")
    ],
    grid: Annotated[
        Path | None, typer.Argument(parser=path, help="The grid's JSON file, or a directory that holds it.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"In place of a file: {', '.join(PRESETS)}, at --first-reserved.")
    ] = None,
    first_reserved: Annotated[int | None, typer.Option(min=0, help="The token id of the preset's first cell.")] = None,
    reward_value: Annotated[
        list[float] | None, typer.Option(help="Of ziprc-release: what its reward bins are centred on; again for more.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=path, help="Of a file: the copy to write; FILE.grid.gguf unless given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what the reserved tokens of a trained model mean: in a copy of a GGUF file, or beside a checkpoint."""
    with reporting(debug):
        found = _grid(grid, preset, first_reserved, reward_value)
        facts = read(str(model)) if model.exists() else None
        if facts and (caution := trained_otherwise(model, facts, found)):
            typer.echo(f"warning: {caution}", err=True)
        if facts and model.is_dir():
            found.check_fits(facts.head_rows, facts.eos_token_ids)
            typer.echo(f"{found.save(model)}: written")
            return
        target = out or model.with_suffix(".grid.gguf")
        exporter("gguf").attach_grid(model, found, target)
        typer.echo(f"{target}: written and verified")


def _grid(file: Path | None, preset: str | None, first_reserved: int | None, rewards: list[float] | None) -> JointGrid:
    """The grid of a file or a preset.

    Raises:
        ConfigError: neither or both, a preset that does not exist, or one without its first id.
    """
    if (file is None) == (preset is None):
        raise ConfigError("expected the grid's file or --preset, one of them")
    if file is not None:
        return JointGrid.load(file)
    if preset not in PRESETS:
        raise ConfigError(f"--preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    if first_reserved is None:
        raise ConfigError(f"--preset {preset} needs --first-reserved, the token id of its first cell")
    if preset == "paper":
        return JointGrid.paper(first_reserved)
    return JointGrid.released(first_reserved, reward_values=rewards or RELEASED_REWARDS)
