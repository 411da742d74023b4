"""`zip-introspect evaluate` and `zip-introspect report`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zip_introspect.cli.arguments import path
from zip_introspect.cli.reporting import Debug, reporting
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BackendNotInstalledError, ConfigError

if TYPE_CHECKING:
    from zip_introspect.evaluation.store.rollout_file import Rollouts

Lite = Annotated[
    Path | None,
    typer.Option(
        parser=path, help="The same samples with ZIP-RC-Lite's joints (score --joints-of), to be set beside them."
    ),
]
Training = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE", help="A training.json whose divergence is drawn; again for more."),
]
RolloutsFile = Annotated[
    Path, typer.Argument(parser=path, help="Stored rollouts, as zip-introspect rollouts writes them.")
]


def evaluate(
    rollouts: RolloutsFile,
    out: Annotated[Path, typer.Option("--out", "-o", parser=path, help="Directory for outcomes, tables and figures.")],
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
    lite: Lite = None,
    training: Training = None,
    debug: Debug = False,
) -> None:
    """Replay every strategy over stored rollouts, and write what came of it: no model is needed."""
    with reporting(debug):
        modules = _modules()
        for value in alpha or []:
            if not 0 <= value <= 1:
                raise ConfigError(f"--alpha is {value:g}; expected 0 to 1")
        trainings = _trainings(training or [], modules)
        stored, head = _load(rollouts, lite, modules)
        baselines, saved = modules.baselines, modules.outcomes
        config = GenerationConfig(interval=interval)
        curves = {"alphas": alpha or baselines.ALPHAS, "betas": beta or baselines.BETAS}
        how = {"windows": windows, "processes": processes}
        outcomes = saved.evaluate_missing(
            rollouts, stored, out, baselines.settings_for(stored, config, **curves), **how
        )
        if head is not None:
            settings = baselines.lite_settings_for(head, config, **curves)
            outcomes += saved.evaluate_missing(lite, head, out, settings, **how, file_name=saved.LITE_FILE_NAME)
        typer.echo(modules.report.write(stored, outcomes, out, lite=head, trainings=trainings))


def report(
    folder: Annotated[Path, typer.Argument(parser=path, help="Directory that zip-introspect evaluate wrote.")],
    rollouts: RolloutsFile,
    lite: Lite = None,
    training: Training = None,
    debug: Debug = False,
) -> None:
    """Write tables and figures anew from saved outcomes."""
    with reporting(debug):
        modules = _modules()
        trainings = _trainings(training or [], modules)
        stored, head = _load(rollouts, lite, modules)
        outcomes = modules.outcomes.load_outcomes(rollouts, folder)
        if lite is not None:
            outcomes += modules.outcomes.load_outcomes(lite, folder, modules.outcomes.LITE_FILE_NAME)
        typer.echo(modules.report.write(stored, outcomes, folder, lite=head, trainings=trainings))


def _load(file: Path, lite: Path | None, modules: SimpleNamespace) -> tuple[Rollouts, Rollouts | None]:
    stored = modules.rollout_file.Rollouts.load(file)
    if lite is None:
        return stored, None
    head = modules.rollout_file.Rollouts.load(lite)
    stored.check_same_samples(head)
    return stored, head


def _trainings(given: list[str], modules: SimpleNamespace) -> dict[str, Any]:
    found = {}
    for item in given:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise ConfigError(f"--training is {item!r}; expected NAME=FILE")
        found[name] = modules.training_log.load_history(Path(file))
    return found


def _modules() -> SimpleNamespace:
    try:
        from zip_introspect.evaluation.replay import baselines
        from zip_introspect.evaluation.reporting import report, training_log
        from zip_introspect.evaluation.store import outcomes, rollout_file
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"evaluating needs the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[eval]"'
        ) from error
    return SimpleNamespace(
        baselines=baselines, outcomes=outcomes, report=report, rollout_file=rollout_file, training_log=training_log
    )
