"""What was learnt of a model and lies beside it: settings in a JSON file of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from zip_introspect.config import Settings
from zip_introspect.errors import CalibrationError, ConfigError
from zip_introspect.paths import expanded


class BesideModel(Settings):
    """Settings that are kept in a directory beside a model's weights."""

    file_name: ClassVar[str]
    what: ClassVar[str]
    """What such a file is, for people."""
    made_by: ClassVar[str]
    """The command that makes one."""
    max_file_bytes: ClassVar[int] = 1 << 22
    format_version: ClassVar[int] = 1

    def save(self, path: str | Path) -> Path:
        """Write it to a file, or into a directory under its usual name; the file."""
        file = self._file_of(path)
        content = {"format_version": self.format_version, **self.model_dump(mode="json")}
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return file

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it from a file, or from a directory that holds one.

        Raises:
            CalibrationError: missing, too large, not JSON, of a newer version, or malformed.
        """
        file = cls._file_of(path)
        try:
            if file.stat().st_size > cls.max_file_bytes:
                raise CalibrationError(f"{file} is too large for {cls.what}; is it another file?")
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CalibrationError(f"{file} does not exist; make it with: {cls.made_by}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CalibrationError(f"{file} is not readable JSON: {error}") from error
        if not isinstance(content, dict) or content.pop("format_version", None) != cls.format_version:
            raise CalibrationError(
                f"{file} is no {cls.what.removeprefix('a ')} of format {cls.format_version}; make it again, or upgrade "
                f"zip-introspect"
            )
        try:
            return cls(**content)
        except CalibrationError:
            raise
        except (ConfigError, TypeError) as error:
            raise CalibrationError(f"{file} is refused: {error}") from error

    @classmethod
    def beside(cls, model: str | Path) -> Self | None:
        """That in a model's directory, or in that of its file; None where there is none.

        Raises:
            CalibrationError: as `load`.
        """
        path = expanded(Path(model))
        file = (path if path.is_dir() else path.parent) / cls.file_name
        return cls.load(file) if path.exists() and file.is_file() else None

    @classmethod
    def _file_of(cls, path: str | Path) -> Path:
        path = expanded(Path(path))
        return path / cls.file_name if path.is_dir() else path
