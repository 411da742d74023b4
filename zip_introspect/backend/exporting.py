"""Model files of other runtimes: the contract of those who write and read them, and finding them by entry point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from zip_introspect.errors import BackendNotInstalledError
from zip_introspect.introspection.grid import JointGrid

if TYPE_CHECKING:
    from zip_introspect.heads.attaching import Place
    from zip_introspect.heads.head import Head

ENTRY_POINT_GROUP = "zip_introspect.exporters"


@dataclass(frozen=True, slots=True)
class Description:
    """What a model file says of itself. None is what it does not say."""

    architecture: str
    layers: int | None
    hidden_size: int | None
    max_context: int | None
    rows: int
    """Of the output head: token ids are below it."""
    tokens: dict[int, str]
    """Spellings by id; ids that stand for nothing are left out."""
    eos_token_ids: tuple[int, ...]
    chat_template: bool
    bytes: int
    parameters: int
    dtypes: tuple[str, ...]


class Exporter(Protocol):
    """Writes one kind of model file, the grid in its metadata, and reads what such a file says of itself."""

    types: tuple[str, ...]
    """Number types of weights that it can write."""

    def export(self, model: Path, target: Path, kind: str, grid: JointGrid | None = None) -> None:
        """Convert a checkpoint directory.

        Raises:
            ModelLoadError: an architecture, tokenizer or tensor that it does not know, or files that are not whole.
            GridError, ReservedTokensError: a grid that is malformed, or does not fit.
        """

    def attach_grid(self, source: Path, grid: JointGrid, target: Path) -> None:
        """Copy a model file with a grid in its metadata, and verify the copy.

        Raises:
            ModelLoadError, GridError, ReservedTokensError: as `export`.
        """

    def attach_head(self, source: Path, head: Head, target: Path) -> tuple[Place, JointGrid]:
        """Copy a model file with a linear head in rows of its output head, and verify the copy.

        Returns:
            which rows they are, and the grid with their ids.

        Raises:
            HeadError: a head that cannot be written, or is another model's.
            ModelLoadError, GridError, ReservedTokensError: as `export`.
        """

    def describe(self, file: Path) -> Description:
        """Read a file's metadata; its weights stay where they are.

        Raises:
            ModelLoadError: not a whole file of this kind.
        """

    def output_rows(self, file: Path, ids: Sequence[int]) -> NDArray[np.float32]:
        """Rows of a file's output head, shape (ids, hidden size).

        Raises:
            ModelLoadError: not a whole file of this kind.
            HeadError: of a number type that cannot be read.
        """

    def grid(self, file: Path) -> JointGrid | None:
        """The grid in a file or beside it; None where there is none.

        Raises:
            ModelLoadError: not a whole file of this kind.
            GridError: one that is malformed.
        """


def exporter(kind: str) -> Exporter:
    """The installed exporter of a kind of file, such as gguf.

    Raises:
        BackendNotInstalledError: nothing announces it, or what it needs is not installed.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in points:
        raise BackendNotInstalledError(
            f"no exporter writes {kind!r}; expected one of {', '.join(sorted(points)) or 'none installed'}"
        )
    try:
        return cast(Exporter, points[kind].load()())
    except ImportError as error:
        raise BackendNotInstalledError(
            f"writing {kind} files needs the module {error.name!r}, which is not installed. "
            f'Install it with: pip install "zip-introspect[llama-cpp,transformers]"'
        ) from error
