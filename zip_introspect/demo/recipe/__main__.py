"""The embedded model from nothing, step by step: `python -m zip_introspect.demo.recipe all`.

Every step writes under `--runs`, is seeded, resumes where it was stopped, and is skipped once its result is there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import print as show
from transformers import AutoModelForCausalLM, AutoTokenizer

from zip_introspect.backend.exporting import exporter
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL
from zip_introspect.demo.problems import training_mix
from zip_introspect.demo.recipe.base import train_base
from zip_introspect.demo.recipe.base_rollouts import evidence, roll_out
from zip_introspect.demo.recipe.evaluate import evaluate as measure
from zip_introspect.demo.recipe.head import abacus_grid, train_head
from zip_introspect.demo.recipe.report import page
from zip_introspect.demo.recipe.scorers import train_judge, train_reward_model
from zip_introspect.introspection.grid import FILE_NAME
from zip_introspect.training.dataset import load
from zip_introspect.training.run import FOLDER, LOG_FILE
from zip_introspect_transformers import TransformersBackend

EXAMPLES, PROBLEMS = 150_000, 6_000

app = typer.Typer(help=__doc__, no_args_is_help=True)
Runs = Annotated[Path, typer.Option(help="Where the steps keep their results.")]
Seed = Annotated[int, typer.Option(help="Fixes corpus, training and rollouts.")]


def _done(runs: Path, step: str, result: str, **settings: Any) -> bool:
    """Whether a step's result is there. What it was made with is kept beside it.

    Raises:
        BadParameter: it was made, or begun, with other settings.
    """
    record = runs / f"{step}.settings.json"
    if record.exists() and (made := json.loads(record.read_text(encoding="utf-8"))) != settings:
        raise typer.BadParameter(
            f"{runs / step} was made with {made}, not with {settings}. Choose another --runs, or delete {record}, what "
            f"it describes and the results of the later steps."
        )
    runs.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return (runs / result).exists()


@app.command()
def base(runs: Runs = Path("runs"), seed: Seed = 0, examples: int = EXAMPLES) -> None:
    """Train the base model on the fallible solver's working."""
    if not _done(runs, "base", "base/model.safetensors", seed=seed, examples=examples):
        train_base(runs / "base", seed=seed, count=examples)


@app.command()
def rollouts(runs: Runs = Path("runs"), seed: Seed = 0, problems: int = PROBLEMS, samples: int = 2) -> None:
    """Sample the base model on the training mix, grade it, and print what its own evidence is worth."""
    path = runs / "rollouts.parquet"
    if not _done(runs, "rollouts", path.name, seed=seed, problems=problems, samples=samples):
        tokenizer = AutoTokenizer.from_pretrained(runs / "base")
        model = AutoModelForCausalLM.from_pretrained(runs / "base", dtype=torch.float32)
        backend = TransformersBackend.from_model(model, tokenizer, abacus_grid())
        roll_out(backend, training_mix(seed, problems), samples, path, seed=seed)
    show(evidence(load(path)))


@app.command()
def final(runs: Runs = Path("runs"), seed: Seed = 0, kl_weight: float = 10.0) -> None:
    """Label the rollouts with denoised values and train the final model on them."""
    if not _done(runs, "final", f"final/{FILE_NAME}", seed=seed, kl_weight=kl_weight):
        change = f"training.kl_weight={kl_weight}"
        train_head(runs / "base", runs / "rollouts.parquet", runs / "final", seed=seed, changes=(change,))


@app.command()
def ship(runs: Runs = Path("runs")) -> None:
    """Put the final model into the package: weights, tokenizer, chat template and grid; and all of it as GGUF."""
    DEMO_MODEL.mkdir(exist_ok=True)
    for file in sorted((runs / "final").iterdir()):
        if file.suffix in {".json", ".jinja", ".safetensors"}:
            shutil.copy2(file, DEMO_MODEL / file.name)
    exporter("gguf").export(DEMO_MODEL, DEMO_GGUF, "q8_0")


@app.command()
def rivals(
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Where models and logs are put.")] = Path("benchmarks/rivals"),
) -> None:
    """Train what the final model is held against: reward model, judge, ZIP-RC-Lite, and a model without the KL term.

    After `final`, from the same base model and rollouts.
    """
    base, graded = runs / "base", runs / "rollouts.parquet"
    if not _done(runs, "reward_model", "reward_model/model.safetensors", seed=seed):
        train_reward_model(base, graded, runs / "reward_model", seed=seed)
    if not _done(runs, "judge", "judge/model.safetensors", seed=seed):
        train_judge(base, graded, runs / "judge", seed=seed)
    others = {
        "lite": ("method=lite", "training.learning_rate=1e-2"),
        "without_kl": ("training.kl_weight=0",),
    }
    for name, changes in others.items():
        if not _done(runs, name, f"{name}/{FILE_NAME}", seed=seed):
            train_head(base, graded, runs / name, seed=seed, labels=runs / "final", changes=changes)
    for name in ("base", "reward_model", "judge", "lite"):
        shutil.copytree(runs / name, out / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns(FOLDER))
    for name, model in (("with_kl", "final"), ("without_kl", "without_kl")):
        shutil.copy2(runs / model / FOLDER / LOG_FILE, out / f"{name}.json")


@app.command()
def evaluate(
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    problems: int = 500,
    measured: int = 30,
    rollouts: int = 256,
    docs: Annotated[Path, typer.Option(help="Where embedded-model-figures.md and .json are written.")] = Path("docs"),
) -> None:
    """Measure the shipped model on held-out problems and write the results page."""
    figures = measure(DEMO_MODEL, runs / "base", seed=seed, problems=problems, measured=measured, rollouts=rollouts)
    (docs / "embedded-model-figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (docs / "embedded-model-figures.md").write_text(page(figures), encoding="utf-8")


@app.command("all")
def everything(runs: Runs = Path("runs"), seed: Seed = 0) -> None:
    """Run every step but the rivals: about two and a half hours on two cores."""
    base(runs, seed)
    rollouts(runs, seed)
    final(runs, seed)
    ship(runs)
    evaluate(runs, seed)


if __name__ == "__main__":
    app()
