"""Finding backends by entry point."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from zip_introspect.backend.contract import Backend
from zip_introspect.backend.discovery import ENTRY_POINT_GROUP, InstalledBackends
from zip_introspect.errors import BackendNotInstalledError, ModelLoadError


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=ENTRY_POINT_GROUP)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> InstalledBackends:
    """Two backends of a third party's, one for .aaa and one for .bbb files, and one whose library is missing."""
    module = ModuleType("third_party_backends")
    for suffix in ("aaa", "bbb"):
        kind = type(suffix, (), {"accepts": classmethod(lambda cls, model, end=suffix: str(model).endswith(end))})
        setattr(module, suffix, kind)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return InstalledBackends(
        {
            "aaa": point("aaa", "third_party_backends:aaa"),
            "bbb": point("bbb", "third_party_backends:bbb"),
            "llama-cpp": point("llama-cpp", "a_module_that_is_not_there:Backend"),
        }
    )


def test_our_backend_is_announced() -> None:
    assert "transformers" in InstalledBackends().points


def test_load_by_name(installed: InstalledBackends) -> None:
    assert installed.load("bbb").__name__ == "bbb"


def test_unknown_name_lists_those_there_are(installed: InstalledBackends) -> None:
    with pytest.raises(
        BackendNotInstalledError, match=r"'vllm' is unknown; expected one of aaa, bbb, llama-cpp.*pip install"
    ):
        installed.load("vllm")


def test_missing_library_prints_the_pip_command(installed: InstalledBackends) -> None:
    message = r"'llama-cpp' needs the module 'a_module_that_is_not_there'.*pip install \"zip-introspect\[llama-cpp\]\""
    with pytest.raises(BackendNotInstalledError, match=message):
        installed.load("llama-cpp")


def test_nothing_installed_says_so() -> None:
    with pytest.raises(BackendNotInstalledError, match="expected one of none installed"):
        InstalledBackends({}).load("transformers")


def test_infer_takes_the_one_that_accepts(installed: InstalledBackends) -> None:
    assert installed.infer("model.bbb").__name__ == "bbb"
    assert installed.infer(Path("model.aaa")).__name__ == "aaa"


def test_infer_names_what_is_missing_where_none_accepts(installed: InstalledBackends, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(BackendNotInstalledError, match=r"no installed backend opens '.*model.gguf'.*pip install"):
        installed.infer(tmp_path / "model.gguf")
    with pytest.raises(BackendNotInstalledError, match=r"no installed backend opens 'owner/model-1.5'.*pip install"):
        installed.infer("owner/model-1.5")


def test_a_path_that_leads_nowhere_is_not_blamed_on_what_is_missing(installed: InstalledBackends) -> None:
    for path in ("./typo", "model.gguf"):
        with pytest.raises(ModelLoadError, match=r"no backend opens .*Check the path"):
            installed.infer(path)


def test_infer_without_a_taker(installed: InstalledBackends) -> None:
    complete = InstalledBackends({name: entry for name, entry in installed.points.items() if name != "llama-cpp"})
    with pytest.raises(ModelLoadError, match=r"no backend opens 'model.gguf'; expected .*Installed backends: aaa, bbb"):
        complete.infer("model.gguf")


def test_the_contract_cannot_be_instantiated_bare() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Backend()  # type: ignore[abstract]
