"""The embedded model from nothing, step by step: `python -m zip_introspect.demo.recipe all`.

Every step writes under `--runs`, is seeded, resumes where it was stopped, and is skipped once its result is there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import print as show
from transformers import AutoModelForCausalLM, AutoTokenizer

from zip_introspect.demo.problems import training_mix
from zip_introspect.demo.recipe.base import train_base
from zip_introspect.demo.recipe.evaluate import evaluate as measure
from zip_introspect.demo.recipe.head import abacus_grid, label, train_head, train_value
from zip_introspect.demo.recipe.report import page
from zip_introspect.demo.recipe.rollouts import evidence, roll_out
from zip_introspect.llm import DEMO_MODEL
from zip_introspect.training.dataset import load
from zip_introspect_transformers import TransformersBackend

app = typer.Typer(help=__doc__, no_args_is_help=True)
Runs = Annotated[Path, typer.Option(help="Where the steps keep their results.")]
Seed = Annotated[int, typer.Option(help="Fixes corpus, training and rollouts.")]


@app.command()
def base(runs: Runs = Path("runs"), seed: Seed = 0, examples: int = 90_000) -> None:
    """Train the base model on the fallible solver's working."""
    if not (runs / "base" / "model.safetensors").exists():
        train_base(runs / "base", seed=seed, count=examples)


@app.command()
def rollouts(runs: Runs = Path("runs"), seed: Seed = 0, problems: int = 10_000, samples: int = 2) -> None:
    """Sample the base model on the training mix, grade it, and print what its own evidence is worth."""
    path = runs / "rollouts.parquet"
    if not path.exists():
        tokenizer = AutoTokenizer.from_pretrained(runs / "base")
        model = AutoModelForCausalLM.from_pretrained(runs / "base", dtype=torch.float32)
        backend = TransformersBackend.from_model(model, tokenizer, abacus_grid())
        roll_out(backend, training_mix(seed, problems), samples, path, seed=seed)
    show(evidence(load(path)))


@app.command()
def value(runs: Runs = Path("runs"), seed: Seed = 0) -> None:
    """Train the intermediate head on correctness, without the KL term."""
    if not (runs / "value" / "model.safetensors").exists():
        train_value(runs / "base", runs / "rollouts.parquet", runs / "value", seed=seed)


@app.command()
def final(runs: Runs = Path("runs"), seed: Seed = 0, kl_weight: float = 10.0) -> None:
    """Label the rollouts with denoised values and train the final model on them."""
    grid = label(runs / "value", runs / "rollouts.parquet", runs / "labelled.parquet")
    train_head(runs / "base", load(runs / "labelled.parquet"), grid, runs / "final", seed=seed, kl_weight=kl_weight)


@app.command()
def ship(runs: Runs = Path("runs")) -> None:
    """Put the final model into the package: weights, tokenizer, chat template and grid."""
    DEMO_MODEL.mkdir(exist_ok=True)
    for file in sorted((runs / "final").iterdir()):
        if file.suffix in {".json", ".jinja", ".safetensors"}:
            shutil.copy2(file, DEMO_MODEL / file.name)


@app.command()
def evaluate(
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    problems: int = 600,
    measured: int = 40,
    rollouts: int = 256,
    docs: Annotated[Path, typer.Option(help="Where results.md and results.json are written.")] = Path("docs"),
) -> None:
    """Measure the shipped model on held-out problems and write the results page."""
    figures = measure(DEMO_MODEL, runs / "base", seed=seed, problems=problems, measured=measured, rollouts=rollouts)
    (docs / "results.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (docs / "results.md").write_text(page(figures), encoding="utf-8")


@app.command("all")
def everything(runs: Runs = Path("runs"), seed: Seed = 0) -> None:
    """Run every step: about three hours on two cores."""
    base(runs, seed)
    rollouts(runs, seed)
    value(runs, seed)
    final(runs, seed)
    ship(runs)
    evaluate(runs, seed)


if __name__ == "__main__":
    app()
