"""`zip-introspect train`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from zip_introspect.cli.arguments import path
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.errors import BackendNotInstalledError, ConfigError

if TYPE_CHECKING:
    from zip_introspect.training.estimate import Estimate


def train(
    model: Annotated[
        str | None, typer.Argument(help="Directory or hub id of a checkpoint. (default: the recipe's)")
    ] = None,
    rollouts: Annotated[
        Path | None,
        typer.Argument(parser=path, help="A Parquet file of rollouts, as rollouts writes it. (default: sampled)"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", parser=path, help="The directory of the model to write.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="YAML file, or a name that --list shows. (default: all defaults)")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="full: every weight; lora: adapters; lite: the reserved rows alone. (default: the recipe's)"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another setting, such as training.epochs=2; again for more."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it takes: memory, tokens and hours; load no weights.")
    ] = False,
    show: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print a recipe, or the accelerate configuration fsdp, and end.")
    ] = None,
    names: Annotated[bool, typer.Option("--list", help="Print the names of the recipes that ship, and end.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a whole model to say how likely it is to be right and how long it will take (the paper's ZIP-RC).

    Stages that are done are passed over, so the same command goes on with an
    interrupted run. For several GPUs: accelerate launch -m zip_introspect train.
    """
    with reporting(debug):
        modules = _modules()
        if names or show is not None:
            typer.echo(
                "\n".join(modules.recipe.shipped()) if show is None else modules.recipe.text(show), nl=show is None
            )
            return
        given = [*(changes or []), *([f"method={method}"] if method else [])]
        wanted = modules.recipe.load(recipe, given)
        if model is not None:
            wanted = wanted.replace(model=model)
        if rollouts is not None and not rollouts.is_file():
            raise ConfigError(f"{rollouts} does not exist; expected a Parquet file of rollouts")
        if dry_run:
            estimate = modules.estimate.estimated(wanted, rollouts)
            typer.echo(json.dumps(estimate.figures(), indent=2)) if as_json else _print(Console(), estimate)
            return
        if out is None:
            raise ConfigError("--out is missing; expected the directory of the model to write")
        # The Trainer prints what it logs; of JSON it is not a part.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            trained = modules.run.train(wanted, out, rollouts=rollouts, say=partial(typer.echo, err=True))
        if trained is None:
            return
        if as_json:
            figures = {"joint_loss": trained.joint_loss, "policy_kl": trained.policy_kl}
            typer.echo(json.dumps({"model": str(out), **figures}, indent=2))
            return
        moved = "" if trained.policy_kl is None else f"; the policy moved by {trained.policy_kl:.4f}"
        known = "not known" if trained.joint_loss is None else f"{trained.joint_loss:.3f} nats a token"
        typer.echo(f"{out}: the joint's cross-entropy is {known}{moved}")
        typer.echo(f"Try: zip-introspect ask --model {out} QUESTION")


def _print(console: Console, estimate: Estimate) -> None:
    for title, rows in estimate.tables():
        table = Table(box=None, pad_edge=False, title=title, title_justify="left", show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()


def _modules() -> Any:
    try:
        from zip_introspect.training import estimate, recipe, run
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"training needs the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[train,eval]"'
        ) from error
    return SimpleNamespace(estimate=estimate, recipe=recipe, run=run)
