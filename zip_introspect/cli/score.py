"""`zip-introspect score`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from zip_introspect.cli.arguments import path
from zip_introspect.cli.evaluate import RolloutsFile
from zip_introspect.cli.reporting import Debug, reporting
from zip_introspect.cli.rollouts import check_writable
from zip_introspect.errors import BackendNotInstalledError, ConfigError

_JUDGE = "Judge"


def score(
    rollouts: RolloutsFile,
    out: Annotated[Path, typer.Argument(parser=path, help="The .parquet file to write; may be the same.")],
    reward_model: Annotated[
        str | None, typer.Option(help="A sequence classifier with one label, whose scores weigh votes.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="The model itself, asked after each sample whether it is right.")
    ] = None,
    joints_of: Annotated[
        Path | None,
        typer.Option(parser=path, help="A model with a grid, whose joints replace those of the samples' own."),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="(default: of judge.json beside it)", rich_help_panel=_JUDGE)
    ] = None,
    yes: Annotated[str | None, typer.Option(help="Its first token is a yes.", rich_help_panel=_JUDGE)] = None,
    no: Annotated[str | None, typer.Option(help="Its first token is a no.", rich_help_panel=_JUDGE)] = None,
    debug: Debug = False,
) -> None:
    """Have other models read stored rollouts: a reward model, the model as its own judge, another head."""
    with reporting(debug):
        if not (reward_model or judge or joints_of):
            raise ConfigError("nothing was named that scores; expected --reward-model, --judge or --joints-of")
        if not judge and (question or yes or no):
            raise ConfigError("--question, --yes and --no are a judge's; expected --judge with them")
        check_writable(out)
        rescoring, stored = _scoring()
        found = stored.Rollouts.load(rollouts)
        if joints_of:
            found = rescoring.with_joints_of(found, joints_of)
        if reward_model:
            found = rescoring.with_external_scores(found, reward_model)
        if judge:
            found = rescoring.with_self_scores(found, judge, question=question, yes=yes, no=no)
        typer.echo(found.save(out))


def _scoring() -> tuple[ModuleType, ModuleType]:
    try:
        from zip_introspect.evaluation.store import rescoring, rollout_file
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"scoring needs the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[eval,transformers]"'
        ) from error
    return rescoring, rollout_file
