"""The exporter of GGUF files; converting needs torch and transformers, attaching a grid does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.exporting import Description
from zip_introspect.errors import BackendNotInstalledError
from zip_introspect.heads.attaching import Place
from zip_introspect.heads.head import Head
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded
from zip_introspect_llama_cpp import attaching, gguf_file


class GgufExporter:
    """Writes GGUF files, and reads what they say of themselves."""

    types = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")

    def export(self, model: Path, target: Path, kind: str, grid: JointGrid | None = None) -> None:
        """As `convert.convert`."""
        try:
            from zip_introspect_llama_cpp.exporting.convert import convert
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError(
                f"converting a checkpoint needs the module {error.name!r}, which is not installed. "
                f'Install it with: pip install "zip-introspect[llama-cpp,transformers]"'
            ) from error

        convert(expanded(model), expanded(target), kind, grid)

    def attach_grid(self, source: Path, grid: JointGrid, target: Path) -> None:
        """As `attaching.attach_grid`."""
        attaching.attach_grid(expanded(source), grid, expanded(target))

    def attach_head(self, source: Path, head: Head, target: Path) -> tuple[Place, JointGrid]:
        """As `attaching.attach_head`."""
        return attaching.attach_head(expanded(source), head, expanded(target))

    def describe(self, file: Path) -> Description:
        """As `gguf_file.describe`."""
        return gguf_file.describe(expanded(file))

    def output_rows(self, file: Path, ids: Sequence[int]) -> NDArray[np.float32]:
        """As `attaching.output_rows`."""
        return attaching.output_rows(expanded(file), ids)

    def grid(self, file: Path) -> JointGrid | None:
        """As `gguf_file.find_grid`."""
        file = expanded(file)
        return gguf_file.find_grid(gguf_file.read(file), file)
