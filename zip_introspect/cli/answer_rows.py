"""Answers on their way to a file: a folder beside it, in which an interrupted run keeps every row that is done.

The folder holds `settings.json`, on which the answers depend; `rows.jsonl`, a row as soon as it is there; and
`spent.json`, what all questions together have taken of a total budget, those that had not ended included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from zip_introspect.cli.question_rows import PARQUET, parquet_library
from zip_introspect.errors import ConfigError

Row = dict[str, Any]
COLUMNS: dict[str, str] = {
    "id": "string",
    "question": "string",
    "answer": "string",
    "text": "string",
    "confidence": "float64",
    "calibrated_confidence": "float64",
    "confidence_source": "string",
    "finish_reason": "string",
    "complete": "bool_",
    "samples": "int64",
    "prompt_tokens": "int64",
    "tokens": "int64",
    "cost": "float64",
    "seconds": "float64",
    "error": "string",
}
"""Of a row, with their types in Parquet. There `id` is text, and so is a question that is a conversation, as JSON."""


class AnswerRows:
    """The rows that are done, by their places in the file of questions.

    Args:
        file: what they will be put together into: JSONL, or Parquet if it ends so.
        settings: what the answers depend on; JSON.

    Raises:
        ConfigError: the folder is that of a run with other settings, or nothing can be written there.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file, self.folder = file, file.with_name(file.name + ".parts")
        if file.exists():
            raise ConfigError(f"{file} is there already; delete it, or name another output")
        if file.suffix == PARQUET:
            parquet_library()
        try:
            self.folder.mkdir(exist_ok=True)
            self._claim(json.loads(json.dumps(settings)))
            self.done = self._kept()
            self._stream = (self.folder / "rows.jsonl").open("a", encoding="utf-8")
            _alone(self._stream, self.folder)
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be used: {error.strerror}") from error

    def add(self, place: int, row: Row) -> None:
        """Keep a row that is done."""
        self._stream.write(json.dumps({"place": place, **row}, ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()
        self.done[place] = row

    def spent(self) -> tuple[int, float]:
        """Tokens and money that earlier parts of the run have taken."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((self.folder / "spent.json").read_text(encoding="utf-8"))
            return int(found["tokens"]), float(found["cost"])
        return sum(row["tokens"] or 0 for row in self.done.values()), sum(r["cost"] or 0.0 for r in self.done.values())

    def note_spent(self, tokens: int, cost: float) -> None:
        """Keep what all parts of the run have taken so far."""
        _write(self.folder / "spent.json", json.dumps({"tokens": tokens, "cost": cost}))

    def close(self) -> None:
        """Leave what is done for another run."""
        self._stream.close()

    def finish(self, count: int) -> None:
        """Put all rows together, in the order of the questions, and remove the folder."""
        self._stream.close()
        rows = [self.done[place] for place in range(count)]
        part = self.file.with_name(self.file.name + ".part")
        if self.file.suffix == PARQUET:
            _save_parquet(part, rows)
        else:
            text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            part.write_text(text, encoding="utf-8")
        part.replace(self.file)
        for name in ("rows.jsonl", "spent.json", "settings.json"):  # settings last: rows without them are nobody's
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's file is in it
            self.folder.rmdir()

    def _claim(self, settings: dict[str, Any]) -> None:
        file, rows = self.folder / "settings.json", self.folder / "rows.jsonl"
        way_out = "Run it as it was to complete it, delete the directory to begin anew, or name another output."
        nothing = not (self.folder / "spent.json").exists() and (not rows.exists() or not rows.stat().st_size)
        if nothing and (file.exists() or not rows.exists()):
            _write(file, json.dumps(settings, indent=2))
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in sorted({*found, *settings}) if found.get(name) != settings.get(name)]
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            raise ConfigError(f"{file} does not say what the rows beside it were made with. {way_out}") from None
        if differing:
            names = ", ".join(differing)
            raise ConfigError(
                f"{self.folder} holds an interrupted run that differs from this one in {names}. {way_out}"
            )

    def _kept(self) -> dict[int, Row]:
        """The rows that are there; one that was being written when the run was killed is cut off."""
        file = self.folder / "rows.jsonl"
        if not file.exists():
            return {}
        kept: dict[int, Row] = {}
        whole = 0
        data = file.read_bytes()
        for line in data.splitlines(keepends=True):
            try:
                row = json.loads(line)
                place = row.pop("place")
            except (ValueError, KeyError, AttributeError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            kept[place] = row
            whole += len(line)
        if whole < len(data):
            os.truncate(file, whole)
        return kept


def _alone(stream: IO[str], folder: Path) -> None:
    """Refuse a second run on the same rows, as long as the first one lives."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise ConfigError(f"another run is writing to {folder}; wait for it, or name another output") from None


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _save_parquet(file: Path, rows: list[Row]) -> None:
    library = parquet_library()
    columns = {
        name: library.array([_cell(row[name], kind) for row in rows], type=getattr(library, kind)())
        for name, kind in COLUMNS.items()
    }
    library.parquet.write_table(library.table(columns), str(file))


def _cell(value: Any, kind: str) -> Any:
    if kind != "string" or value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)
