"""Rollouts on their way to a file: a folder beside it, so that an interrupted run of hours loses next to nothing.

The folder holds `settings.json`, everything that the samples depend on, and for each question that is done a small file
of rollouts, named by its place. A file appears under its name when it is whole and on the disk, so that whatever ends
the run, what is there can be used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts

_SETTINGS = "settings.json"


class Parts:
    """The questions that are done.

    Args:
        file: what they will be put together into.
        header: the rollouts, without a problem.
        prompts: the questions as the model reads them.
        settings: what the samples depend on, by the names that a user knows them by; JSON.

    Attributes:
        done: the places of the questions that are there.
        damaged: how many files were there that cannot be used.

    Raises:
        EvaluationDataError: the folder is that of a run with other settings, or cannot be written.
    """

    def __init__(
        self, file: Path, header: Rollouts, prompts: list[tuple[int, ...]], samples: int, settings: Mapping[str, Any]
    ) -> None:
        self.folder = _folder(file)
        self._header, self._prompts, self._samples = header, prompts, samples
        try:
            self._claim(json.loads(json.dumps(settings)))
        except OSError as error:
            raise EvaluationDataError(f"{self.folder} cannot be used: {error.strerror}") from error
        self.done: set[int] = set()
        self.damaged = 0
        for place in range(len(prompts)):
            if self._file(place).exists():
                try:
                    self.load(place)
                except EvaluationDataError:
                    self.damaged += 1  # it will be replaced
                else:
                    self.done.add(place)

    def save(self, place: int, problem: QuestionRollouts) -> None:
        """Keep a question that is done."""
        replace(self._header, problems=(problem,)).save(self._file(place))
        self.done.add(place)

    def load(self, place: int) -> QuestionRollouts:
        """A question that is done.

        Raises:
            EvaluationDataError: its file cannot be read, or holds something else.
        """
        found = Rollouts.load(self._file(place))
        problem = found.problems[0]
        if (len(found.problems), len(problem.rollouts)) != (1, self._samples) or (
            (found.grid, problem.prompt_tokens) != (self._header.grid, self._prompts[place])
        ):
            raise EvaluationDataError(f"{self._file(place)} holds other rollouts than its name says; delete it")
        return problem

    def discard(self) -> None:
        """Remove the folder and what this class wrote into it."""
        for pattern in ("*.parquet", "*.part"):  # the second were being written when a run ended
            for file in self.folder.glob(pattern):
                file.unlink()
        (self.folder / _SETTINGS).unlink(missing_ok=True)  # last: parts without it could not be taken over
        with suppress(OSError):  # somebody else's file is in it
            self.folder.rmdir()

    def _file(self, place: int) -> Path:
        return self.folder / f"{place:06}.parquet"

    def _claim(self, settings: dict[str, Any]) -> None:
        """Take a new folder, or see that the one that is there is of the same run."""
        self.folder.mkdir(exist_ok=True)
        file = self.folder / _SETTINGS
        if not file.exists() and not any(self.folder.glob("*.parquet")):
            part = file.with_name(file.name + ".part")
            with part.open("w", encoding="utf-8") as stream:
                json.dump(settings, stream, indent=2)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
            return
        way_out = "Delete the directory to begin anew, or name another output."
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in sorted({*found, *settings}) if found.get(name) != settings.get(name)]
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            raise EvaluationDataError(
                f"{file} does not say what the rollouts beside it were made with, so they cannot be gone on with. "
                f"{way_out}"
            ) from None
        if differing:
            said = ", ".join(_difference(name, found.get(name), settings.get(name)) for name in differing)
            raise EvaluationDataError(
                f"{self.folder} holds an interrupted run that differs from this one in {said}. "
                f"Run it as it was to complete it. {way_out}"
            )


def seed_of(file: Path) -> int | None:
    """The seed that the interrupted run of a file drew; None where there is no such run, or nobody can tell."""
    try:
        found = json.loads((_folder(file) / _SETTINGS).read_text(encoding="utf-8"))
        return int(found["seed"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _folder(file: Path) -> Path:
    return file.with_name(file.name + ".parts")


def _difference(name: str, there: Any, here: Any) -> str:
    plain = all(value is None or isinstance(value, (str, int, float)) for value in (there, here))
    return f"{name} ({there} there, {here} here)" if plain else name
