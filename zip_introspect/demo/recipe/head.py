"""Step 3: the final model learns what its rollouts were worth and how long they were (`training.run`)."""

from __future__ import annotations

from pathlib import Path

import typer

from zip_introspect.demo.recipe.base_rollouts import MAX_NEW_TOKENS
from zip_introspect.demo.tokenizer import RESERVED, VOCABULARY_SIZE
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.recipe import load
from zip_introspect.training.run import train


def abacus_grid() -> JointGrid:
    """That of the recipe: 8 reward bins by 8 length bins, which grow roughly as powers of two, as in A.1."""
    return load("abacus").grid.over(MAX_NEW_TOKENS, VOCABULARY_SIZE - len(RESERVED))


def train_head(
    base: Path, rollouts: Path, out: Path, *, seed: int, labels: Path | None = None, changes: tuple[str, ...] = ()
) -> None:
    """Train by the recipe `abacus`.

    Args:
        labels: a training whose values are taken over.
        changes: to the recipe, as of `--set`.
    """
    recipe = load("abacus", [f"training.seed={seed}", *changes]).replace(model=str(base))
    train(recipe, out, rollouts=rollouts, labels=labels, say=typer.echo)
