"""`zip-introspect attach`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zip_introspect.backend.exporting import exporter
from zip_introspect.cli.arguments import path
from zip_introspect.cli.model_files import read
from zip_introspect.cli.reporting import Debug, reporting
from zip_introspect.errors import HeadError
from zip_introspect.heads import attaching
from zip_introspect.heads.checkpoint import Checkpoint
from zip_introspect.heads.head import BALANCED, Head
from zip_introspect.heads.sources import opened
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.posterior import AnswerModel
from zip_introspect.strategies import chosen


def attach(
    model: Annotated[
        Path, typer.Argument(parser=path, help="A checkpoint's directory or a .gguf file; it is left as it is.")
    ],
    head: Annotated[str, typer.Argument(help="A head by fit --attachable: its file, hub id, or a name that ships.")],
    out: Annotated[Path, typer.Argument(parser=path, help="The directory or .gguf file to write.")],
    debug: Debug = False,
) -> None:
    """Write a linear head into a copy of its model: for servers that give logits of token ids, such as vLLM.

    Its rows are ids that stand for nothing, or appended ones, in the tensor's own
    number type. Every other byte of the weights stays as it is.
    """
    with reporting(debug):
        written = opened(head)
        place, grid = _attached(model, written, out)
        where = "appended" if place.appended else "of ids that stood for nothing"
        typer.echo(f"{out}: the joint has the rows {grid.reserved.start} to {grid.reserved.stop - 1}, {where}")
        _calibrate(written, out)
        _believe(written, out)
        typer.echo(f"Try: zip-introspect ask --model {out} QUESTION")


def _attached(model: Path, head: Head, out: Path) -> tuple[attaching.Place, JointGrid]:
    """Write the copy.

    Raises:
        HeadError: a model that is neither kind, has a grid, or is not the head's.
    """
    if model.is_file():
        if out.suffix != ".gguf":
            raise HeadError(f"OUT is {out}; expected the name of a .gguf file, as the model is one")
        return exporter("gguf").attach_head(model, head, out)
    if not model.is_dir():
        raise HeadError(f"{model} does not exist; expected a checkpoint's directory or a .gguf file. Check the path")
    facts = read(str(model))
    if facts.grid is not None:
        raise HeadError(f"{model} has a grid, so its reserved rows are trained already; expected a model without one")
    if facts.names is None:
        raise HeadError(f"{model} has no tokenizer.json, so that it cannot be told which ids are free")
    place = attaching.placed(facts.names, facts.head_rows, facts.eos_token_ids, head.grid.num_cells)
    grid = attaching.attach(Checkpoint(model), head, place, out)
    return place, grid


def _believe(head: Head, out: Path) -> None:
    """Put what is believed of answers beside the model, unless it would count for others too."""
    folder = out if out.is_dir() else out.parent
    alone = out.is_dir() or [item for item in folder.glob("*.gguf") if item != out] == []
    if head.about.answers is not None and alone and AnswerModel.beside(out) is None:
        typer.echo(f"{head.about.answers.save(folder)}: what answer_posterior believes of answers")


def _calibrate(head: Head, out: Path) -> None:
    """Put what confidence means after the recommended search beside the model, unless it would count for others too."""
    config = head.about.config(BALANCED)
    if config is None:
        return
    selection = str(config.selection or chosen(config, joints=True).selection)
    found = head.about.calibration(str(config.strategy), selection, config.max_samples)
    if found is None:
        return
    others = [] if out.is_dir() else [item.name for item in sorted(out.parent.glob("*.gguf")) if item != out]
    if others or Calibration.beside(out) is not None:
        typer.echo(f"no calibration is written: it would count for {', '.join(others) or 'what lies there'} too")
        return
    file = found.save(out if out.is_dir() else out.parent)
    typer.echo(f"{file}: what confidence means after {config.strategy} of {config.max_samples}")
