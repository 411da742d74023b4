"""Outcomes on disk, so that nothing is evaluated twice: one Parquet file, a row for each question of each setting.

Columns: `curve`, `scorer`, `config` (string; the config as JSON), `problem` (int32), and the arrays of `Outcomes`
(float64). The schema's metadata says which rollouts they come from, and over how many windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from zip_introspect.config import GenerationConfig
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.replay.trials import Outcomes, Setting, sweep
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.paths import expanded

FILE_NAME, LITE_FILE_NAME = "outcomes.parquet", "outcomes_lite.parquet"
_KEY = b"zip_introspect"
_FIGURES = ("right", "compute", "latency", "samples", "tokens")
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.dictionary(pa.int32(), pa.string())) for name in ("curve", "scorer", "config")),
        pa.field("problem", pa.int32()),
        *(pa.field(name, pa.float64()) for name in _FIGURES),
    ]
)


def evaluate_missing(
    rollouts_file: Path,
    rollouts: Rollouts,
    folder: Path,
    settings: Sequence[Setting],
    *,
    windows: int = 1,
    processes: int | None = None,
    file_name: str = FILE_NAME,
) -> list[Outcomes]:
    """Evaluate the settings whose outcomes the folder does not hold yet, and save each when it is there.

    Args:
        rollouts_file: what `rollouts` was read from.
        windows, processes: as in `sweep`.
        file_name: within the folder; `LITE_FILE_NAME` for rollouts with another head's joints.

    Returns:
        all outcomes of the file.

    Raises:
        EvaluationDataError: the folder holds outcomes of other rollouts or windows.
        ConfigError: as `sweep`.
    """
    source = {"rollouts": fingerprint(rollouts_file), "windows": windows}
    folder = expanded(folder)
    file = folder / file_name
    done = _load(file, source) if file.exists() else []
    known = [outcome.setting for outcome in done]
    missing = [setting for setting in settings if setting not in known]
    folder.mkdir(parents=True, exist_ok=True)
    found = sweep(rollouts, missing, windows=windows, processes=processes)
    for outcome in tqdm(found, total=len(missing), desc="settings", disable=not missing):
        done.append(outcome)
        _save(file, done, source)
    return done


def load_outcomes(rollouts_file: Path, folder: Path, file_name: str = FILE_NAME) -> list[Outcomes]:
    """The outcomes of a folder.

    Raises:
        EvaluationDataError: there are none, or they come from other rollouts.
    """
    return _load(expanded(folder) / file_name, {"rollouts": fingerprint(rollouts_file)})


def fingerprint(file: Path) -> str:
    """SHA-256 of a file.

    Raises:
        EvaluationDataError: it cannot be read.
    """
    try:
        with expanded(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise EvaluationDataError(f"{file} cannot be read: {error.strerror}") from error


def _save(file: Path, outcomes: Sequence[Outcomes], source: dict[str, Any]) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for outcome in outcomes:
        size = len(outcome.right)
        columns["curve"] += [outcome.setting.name] * size
        columns["scorer"] += [outcome.setting.scorer] * size
        columns["config"] += [outcome.setting.config.model_dump_json()] * size
        columns["problem"] += range(size)
        for name in _FIGURES:
            columns[name] += getattr(outcome, name).tolist()
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_KEY: json.dumps(source)}))
    part = file.with_name(file.name + ".part")
    pq.write_table(table, part)
    part.replace(file)


def _load(file: Path, source: dict[str, Any]) -> list[Outcomes]:
    try:
        table = pq.read_table(file)
        about = json.loads((table.schema.metadata or {})[_KEY])
        outcomes = list(_outcomes(table))
    except FileNotFoundError:
        raise EvaluationDataError(f"{file} does not exist; make it with: zip-introspect evaluate") from None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise EvaluationDataError(f"{file} holds no outcomes: {error}") from error
    for name, value in source.items():
        if about.get(name) != value:
            raise EvaluationDataError(
                f"{file} was made with {name} {about.get(name)}, and this is {value}; choose another directory"
            )
    return outcomes


def _outcomes(table: pa.Table) -> Iterator[Outcomes]:
    """The rows, cut where the problems begin again."""
    problems = table["problem"].to_numpy()
    for rows in np.split(np.arange(len(problems)), np.flatnonzero(problems == 0)[1:]):
        part = table.slice(rows[0], len(rows))
        first = part.slice(0, 1).to_pylist()[0]
        setting = Setting(first["curve"], GenerationConfig(**json.loads(first["config"])), first["scorer"])
        yield Outcomes(setting, **{name: part[name].to_numpy() for name in _FIGURES})
