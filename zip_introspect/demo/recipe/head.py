"""Step 3: the final model learns what its rollouts were worth and how long they were (`training.run`)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import typer

from zip_introspect.demo.tokenizer import RESERVED, VOCABULARY_SIZE
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.recipe import load
from zip_introspect.training.run import train

LENGTH_EDGES = (0, 16, 32, 64, 96, 144, 208, 320, 640)
REWARD_EDGES = tuple(b / 8 for b in range(9))


def abacus_grid() -> JointGrid:
    """8 reward bins by 8 length bins; lengths grow roughly as powers of two, as in A.1."""
    return JointGrid(
        reward_edges=REWARD_EDGES,
        reward_values=(0.0, *((low + high) / 2 for low, high in pairwise(REWARD_EDGES[1:-1])), 1.0),
        length_edges=LENGTH_EDGES,
        first_reserved=VOCABULARY_SIZE - len(RESERVED),
    )


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
