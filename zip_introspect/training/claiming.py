"""Whose a directory is: what a training was begun with, and which of it may change before it goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zip_introspect.errors import ConfigError, TrainingDataError
from zip_introspect.paths import digest, expanded
from zip_introspect.training.recipe import Recipe, dump

RECIPE, RECORD = "recipe.yaml", "begun_with.json"
_FREE = frozenset(
    f"training.{name}" for name in ("logging_steps", "save_steps", "report_to", "gradient_checkpointing")
) | {"sampling.concurrency", "sampling.expected_tokens"}
"""Settings that no result depends on."""
_OF_ROLLOUTS = ("model", "backend", "questions", "grader", "sampling", "rollouts", "training.seed")
"""What the names of settings begin with that rollouts depend on; so do those of files."""


def claim(recipe: Recipe, given: Path | None, folder: Path, *, model: Path) -> None:
    """Keep beside a training what it was begun with, or see that it is the same.

    Args:
        given: the rollouts, where they are not sampled.
        folder: where the stages keep their results.
        model: the checkpoint's directory, if it is one.

    Raises:
        ConfigError: the directory holds something else, or results that depend on a setting which is another now.
    """
    record = folder / RECORD
    now = {
        "recipe": recipe.model_dump(mode="json"),
        "rollouts": None if given is None else _stamp(given),
        "questions in files": [_stamp(file) for file in _files(recipe)],
        "model's weights": [_stamp(file) for file in sorted(model.glob("*.safetensors"))] if model.is_dir() else [],
    }
    if record.exists():
        before = json.loads(record.read_text(encoding="utf-8"))
        _check(sorted(_differing(before, now)), folder)
    elif folder.parent.exists() and any(item != folder for item in folder.parent.iterdir()):
        raise ConfigError(f"{folder.parent} holds other files; expected a directory that is empty, or none yet")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).write_text(dump(recipe), encoding="utf-8")
    partial = record.with_suffix(".part")
    partial.write_text(json.dumps(now), encoding="utf-8")
    partial.replace(record)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; the Trainer writes its state last, so that one cut short has none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda item: int(item.name.rpartition("-")[2]), reverse=True)
    for item in found:
        try:
            json.loads((item / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return item
    return None


def _check(changed: list[str], folder: Path) -> None:
    changed = [name for name in changed if name not in _FREE]
    if not changed:
        return
    sampled = [folder / name for name in ("rollouts.parquet", "rollouts.parquet.parts") if (folder / name).exists()]
    trained = [folder / name for name in ("value", "labelled.parquet", "joint") if (folder / name).exists()]
    of_rollouts = [name for name in changed if name.startswith(_OF_ROLLOUTS)]
    said = f"{folder.parent} was begun with another {', '.join(of_rollouts or changed)}"
    if of_rollouts and (sampled or trained):
        raise ConfigError(f"{said}, on which its rollouts rest. Choose another --out, or put back what was changed")
    if trained:
        rest = f"give {sampled[0]} as ROLLOUTS with another --out" if sampled else "choose another --out"
        raise ConfigError(
            f"{said}. To train anew on the same rollouts, {rest}, or delete {' and '.join(map(str, trained))}"
        )


def _differing(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            inner = name if key == "recipe" and not name else f"{name}.{key}".removeprefix(".")
            yield from _differing(before.get(key), now.get(key), inner)
    elif before != now:
        yield name


def _files(recipe: Recipe) -> list[Path]:
    """Local files that the rollouts come from."""
    named = [source.dataset for source in recipe.questions]
    named += [recipe.sampling.examples] if recipe.sampling.examples else []
    return [file for name in named if (file := expanded(Path(name))).is_file()]


def _stamp(file: Path) -> str:
    try:
        return digest(file)
    except OSError as error:
        raise TrainingDataError(f"{file} cannot be read: {error.strerror}") from error
