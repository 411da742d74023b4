"""Finding backends and integrations by entry point."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from zip_introspect.backend.contract import Backend
from zip_introspect.errors import BackendNotInstalledError, ModelLoadError
from zip_introspect.paths import expanded

ENTRY_POINT_GROUP = "zip_introspect.backends"
INTEGRATIONS = "zip_introspect.integrations"


@dataclass(frozen=True)
class InstalledBackends:
    """The backends that entry points announce, ours and third parties' alike."""

    points: dict[str, EntryPoint] = field(
        default_factory=lambda: {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    )

    def load(self, name: str) -> type[Backend]:
        """The backend class of a name.

        Raises:
            BackendNotInstalledError: nothing announces it, or what it needs is not installed.
        """
        if name not in self.points:
            raise BackendNotInstalledError(
                f"backend {name!r} is unknown; expected one of {', '.join(sorted(self.points)) or 'none installed'}. "
                f'Install one with: pip install "zip-introspect[transformers]"'
            )
        try:
            backend: type[Backend] = self.points[name].load()
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError(
                f"backend {name!r} needs the module {error.name!r}, which is not installed. "
                f'Install it with: pip install "zip-introspect[{name}]"'
            ) from error
        except (ImportError, OSError, RuntimeError) as error:  # a shared library that is missing or of another system
            raise BackendNotInstalledError(
                f"backend {name!r} cannot be imported: {error}. What it needs is installed in another version; "
                f'upgrade it with: pip install --upgrade "zip-introspect[{name}]"'
            ) from error
        return backend

    def infer(self, model: str | Path) -> type[Backend]:
        """The first installed backend that accepts a model.

        Raises:
            ModelLoadError: none does.
            BackendNotInstalledError: none is installed.
        """
        model = expanded(model)
        missing: list[str] = []
        likely = "llama-cpp" if Path(model).suffix == ".gguf" else "transformers"  # loading another takes seconds
        for name in sorted(self.points, key=lambda name: name != likely):
            try:
                backend = self.load(name)
            except BackendNotInstalledError as error:
                missing.append(str(error))
                continue
            if backend.accepts(model):
                return backend
        path = Path(model)
        named_here = path.suffix == ".gguf" or path.is_absolute() or str(model).startswith(".")
        if missing and (path.exists() or not named_here):
            raise BackendNotInstalledError(f"no installed backend opens {str(model)!r}. " + " ".join(missing))
        raise ModelLoadError(
            f"no backend opens {str(model)!r}; expected a directory with config.json and *.safetensors, a hub id "
            f"or a .gguf file. Installed backends: {', '.join(sorted(self.points))}. Check the path."
        )


def integration(framework: str) -> Any:
    """What a framework's integration wraps an open model in: a class that takes `llm=` and settings.

    Raises:
        BackendNotInstalledError: nothing announces it, or what it needs is not installed.
    """
    points = {point.name: point for point in entry_points(group=INTEGRATIONS)}
    try:
        return points[framework].load()
    except (KeyError, ImportError) as error:
        what = f"the module {error.name!r}" if isinstance(error, ImportError) else "an integration"
        raise BackendNotInstalledError(
            f"{framework} needs {what}, which is not installed. "
            f'Install it with: pip install "zip-introspect[{framework}]"'
        ) from error
