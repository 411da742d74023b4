"""`zip-introspect evaluate` and `zip-introspect report`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from zip_introspect.cli.reporting import Debug, reporting
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BackendNotInstalledError, ConfigError

RolloutsFile = Annotated[Path, typer.Argument(help="Stored rollouts, as zip-introspect rollouts writes them.")]


def evaluate(
    rollouts: RolloutsFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for outcomes, tables and figures.")],
    alpha: Annotated[
        list[float] | None, typer.Option(help="Compute against latency; again for more. (default: 0.1 1)")
    ] = None,
    beta: Annotated[
        list[float] | None, typer.Option(help="Cost against reward, for zip_rc; again for more. (default: 1 to 0.001)")
    ] = None,
    interval: Annotated[int, typer.Option(help="Tokens between two decisions.", min=1)] = 16,
    windows: Annotated[
        int, typer.Option(help="Run each setting from so many places of the stored rollouts, and average.", min=1)
    ] = 1,
    processes: Annotated[int | None, typer.Option(help="(default: one for each core)", min=1)] = None,
    debug: Debug = False,
) -> None:
    """Replay every strategy over stored rollouts, and write what came of it: no model is needed."""
    with reporting(debug):
        modules = _modules()
        for value in alpha or []:
            if not 0 <= value <= 1:
                raise ConfigError(f"--alpha is {value:g}; expected 0 to 1")
        stored = modules.rollouts.Rollouts.load(rollouts)
        baselines = modules.baselines
        settings = baselines.settings_for(
            stored,
            GenerationConfig(interval=interval),
            alphas=alpha or baselines.ALPHAS,
            betas=beta or baselines.BETAS,
        )
        outcomes = modules.outcomes.evaluate_missing(
            rollouts, stored, out, settings, windows=windows, processes=processes
        )
        typer.echo(modules.report.write(stored, outcomes, out))


def report(
    folder: Annotated[Path, typer.Argument(help="Directory that zip-introspect evaluate wrote.")],
    rollouts: RolloutsFile,
    debug: Debug = False,
) -> None:
    """Write tables and figures anew from saved outcomes."""
    with reporting(debug):
        modules = _modules()
        stored = modules.rollouts.Rollouts.load(rollouts)
        outcomes = modules.outcomes.load_outcomes(rollouts, folder)
        typer.echo(modules.report.write(stored, outcomes, folder))


def _modules() -> SimpleNamespace:
    try:
        from zip_introspect.evaluation import baselines, outcomes, report, rollouts
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"evaluating needs the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[eval]"'
        ) from error
    return SimpleNamespace(baselines=baselines, outcomes=outcomes, report=report, rollouts=rollouts)
