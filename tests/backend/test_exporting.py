"""Finding who writes a kind of model file, and what is said where nobody does."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from zip_introspect.backend import exporting
from zip_introspect.errors import BackendNotInstalledError


def test_a_kind_that_nobody_writes_is_refused_by_name() -> None:
    with pytest.raises(BackendNotInstalledError, match="no exporter writes 'onnx'; expected one of gguf"):
        exporting.exporter("onnx")


def test_an_exporter_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("gguf", "package_that_is_not_here:Exporter", exporting.ENTRY_POINT_GROUP)
    monkeypatch.setattr(exporting, "entry_points", lambda **_: [point])
    assert "package_that_is_not_here" not in sys.modules
    with pytest.raises(BackendNotInstalledError, match=r"'package_that_is_not_here'.*pip install"):
        exporting.exporter("gguf")
