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
_PRICES = "Prices"
Price = Annotated[
    float | None,
    typer.Option(
        "--price-per-token", help="Money for a generated token: costs are in money too.", rich_help_panel=_PRICES
    ),
]
PromptPrice = Annotated[
    float,
    typer.Option("--price-per-prompt-token", help="Money for a token of the prompt.", min=0.0, rich_help_panel=_PRICES),
]
Joules = Annotated[
    float | None,
    typer.Option(
        "--joules-per-token", help="As zip-introspect rollouts measured it: costs too.", rich_help_panel=_PRICES
    ),
]
OtherFile = Annotated[
    Path | None,
    typer.Option(
        "--other",
        parser=path,
        help="Another model's rollouts of the same questions: price reversal, and ladders from this one to it.",
        rich_help_panel=_PRICES,
    ),
]
OtherPrice = Annotated[
    float | None,
    typer.Option("--other-price-per-token", help="Of --other; needs --price-per-token.", rich_help_panel=_PRICES),
]
OtherPromptPrice = Annotated[
    float,
    typer.Option("--other-price-per-prompt-token", help="Of --other.", min=0.0, rich_help_panel=_PRICES),
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
    price_per_token: Price = None,
    price_per_prompt_token: PromptPrice = 0.0,
    joules_per_token: Joules = None,
    other: OtherFile = None,
    other_price_per_token: OtherPrice = None,
    other_price_per_prompt_token: OtherPromptPrice = 0.0,
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
        prices = _prices(
            modules,
            stored,
            (price_per_token, price_per_prompt_token),
            joules_per_token,
            other,
            (other_price_per_token, other_price_per_prompt_token),
        )
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
        typer.echo(modules.report.write(stored, outcomes, out, lite=head, trainings=trainings, **prices))


def report(
    folder: Annotated[Path, typer.Argument(parser=path, help="Directory that zip-introspect evaluate wrote.")],
    rollouts: RolloutsFile,
    lite: Lite = None,
    training: Training = None,
    price_per_token: Price = None,
    price_per_prompt_token: PromptPrice = 0.0,
    joules_per_token: Joules = None,
    other: OtherFile = None,
    other_price_per_token: OtherPrice = None,
    other_price_per_prompt_token: OtherPromptPrice = 0.0,
    debug: Debug = False,
) -> None:
    """Write tables and figures anew from saved outcomes."""
    with reporting(debug):
        modules = _modules()
        trainings = _trainings(training or [], modules)
        stored, head = _load(rollouts, lite, modules)
        prices = _prices(
            modules,
            stored,
            (price_per_token, price_per_prompt_token),
            joules_per_token,
            other,
            (other_price_per_token, other_price_per_prompt_token),
        )
        outcomes = modules.outcomes.load_outcomes(rollouts, folder)
        if lite is not None:
            outcomes += modules.outcomes.load_outcomes(lite, folder, modules.outcomes.LITE_FILE_NAME)
        typer.echo(modules.report.write(stored, outcomes, folder, lite=head, trainings=trainings, **prices))


def _load(file: Path, lite: Path | None, modules: SimpleNamespace) -> tuple[Rollouts, Rollouts | None]:
    stored = modules.rollout_file.Rollouts.load(file)
    if lite is None:
        return stored, None
    head = modules.rollout_file.Rollouts.load(lite)
    stored.check_same_samples(head)
    return stored, head


def _prices(
    modules: SimpleNamespace,
    stored: Rollouts,
    price: tuple[float | None, float],
    joules: float | None,
    other: Path | None,
    other_price: tuple[float | None, float],
) -> dict[str, Any]:
    """What tokens cost, as `report.write` takes it."""
    spending, tariff = modules.spending, modules.cost_of_pass.Tariff
    if (price[0] is None) and (price[1] or other_price[0] is not None or other_price[1]):
        raise ConfigError("a price was given, and --price-per-token was not; expected the price of a generated token")
    if other is None and (other_price[0] is not None or other_price[1]):
        raise ConfigError("--other-price-per-token is that of --other; expected its rollouts too")
    tariffs = [] if price[0] is None else [tariff("money", price[0], price[1])]
    if joules is not None:
        tariffs.append(tariff("joules", joules))
    if other is None:
        return {"tariffs": tariffs}
    theirs = modules.rollout_file.Rollouts.load(other)
    if price[0] is None:
        ours, beside = modules.cost_of_pass.by_size(stored, theirs)
    elif other_price[0] is None:
        raise ConfigError("--price-per-token was given, and --other-price-per-token was not; expected both")
    else:
        ours, beside = tariffs[0], tariff("money", other_price[0], other_price[1])
    found = spending.OtherModel(theirs, ours, beside)
    found.check_same_questions(stored)
    return {"tariffs": tariffs, "other": found}


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
        from zip_introspect.evaluation.measures import cost_of_pass
        from zip_introspect.evaluation.replay import baselines
        from zip_introspect.evaluation.reporting import report, spending, training_log
        from zip_introspect.evaluation.store import outcomes, rollout_file
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"evaluating needs the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[eval]"'
        ) from error
    return SimpleNamespace(
        baselines=baselines,
        cost_of_pass=cost_of_pass,
        outcomes=outcomes,
        report=report,
        rollout_file=rollout_file,
        spending=spending,
        training_log=training_log,
    )
