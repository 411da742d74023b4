"""Head files, `head.zip.safetensors`: weights, fingerprint, and in the metadata all that is said of them.

They come from outside: sizes, types and finiteness are checked, and nothing in them is code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from zip_introspect.errors import GridError, HeadError
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.head import About, Head
from zip_introspect.paths import expanded

FILE_NAME = "head.zip.safetensors"
FORMAT_VERSION = 1
MOST_BYTES = 1 << 28
MOST_METADATA = 1 << 23

_KEY, _VERSION = "zip_introspect.head", "zip_introspect.head.version"
_FINGERPRINT = "fingerprint."
_ARRAYS = ("rows", "mlp", "norm")
_TYPES = {"F32": np.float32, "F16": np.float16}


def save(head: Head, path: str | Path) -> Path:
    """Write a head to a file, or into a directory under the usual name; the file."""
    file = _file_of(path)
    said: dict[str, Any] = {"about": head.about.model_dump(mode="json")}
    arrays: dict[str, NDArray[Any]] = dict(head.weights)
    if (taken := head.fingerprint) is not None:
        said["fingerprint"] = {
            name: getattr(taken, name)
            for name in ("architecture", "hidden_size", "layers", "token_ids", "rounding", "template")
        }
        # Half precision rounds to 0.0005: less than any format that the rows are held against.
        arrays |= {f"{_FINGERPRINT}{name}": getattr(taken, name).astype(np.float16) for name in ("rows", "mlp")}
        arrays[f"{_FINGERPRINT}norm"] = taken.norm
    metadata = {_KEY: json.dumps(said, allow_nan=False), _VERSION: str(FORMAT_VERSION)}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, metadata)
    partial.replace(file)
    return file


def load(path: str | Path) -> Head:
    """Read a head from a file, or from a directory that holds one.

    Raises:
        HeadError: missing, not whole, not a head's, of a newer version, or malformed.
    """
    file = _file_of(path)
    if not file.is_file():
        raise HeadError(f"{file} does not exist; expected a head's file, {FILE_NAME}")
    if file.stat().st_size > MOST_BYTES:
        raise HeadError(f"{file} holds {file.stat().st_size} bytes, more than any head; is it another file?")
    try:
        with safe_open(str(file), framework="numpy") as opened:
            said = _said(opened.metadata() or {}, file)
            arrays = {name: _array(opened, name, file) for name in opened.keys()}  # noqa: SIM118, not a mapping
    except (SafetensorError, OSError, ValueError, TypeError, OverflowError) as error:
        raise HeadError(f"{file} is truncated, or no safetensors file: {' '.join(str(error).split())[:300]}") from error
    try:
        return _made(said, arrays)
    except (HeadError, GridError) as error:
        raise HeadError(f"{file}: {error}") from None


def _said(metadata: dict[str, str], file: Path) -> dict[str, Any]:
    if _KEY not in metadata:
        raise HeadError(f"{file} holds no head; expected a file that zip-introspect wrote, with {_KEY} in its metadata")
    version = metadata.get(_VERSION, "")
    if version != str(FORMAT_VERSION):
        raise HeadError(f"{file} has version {version[:20]!r}; this release reads {FORMAT_VERSION}. Upgrade it.")
    text = metadata[_KEY]
    try:
        said = json.loads(text) if len(text) <= MOST_METADATA else None
    except (ValueError, RecursionError) as error:
        raise HeadError(f"{file} holds metadata that is not JSON: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("about"), dict):
        raise HeadError(f"{file} says nothing of its head; expected an object with what it reads and its grid")
    return said


def _array(opened: Any, name: str, file: Path) -> NDArray[np.float32]:
    kind = opened.get_slice(name).get_dtype()
    if kind not in _TYPES:
        raise HeadError(f"{file} holds {name[:80]!r} as {kind}; expected {' or '.join(_TYPES)}")
    return np.asarray(opened.get_tensor(name), np.float32)


def _made(said: dict[str, Any], arrays: dict[str, NDArray[np.float32]]) -> Head:
    weights = {name: array for name, array in arrays.items() if not name.startswith(_FINGERPRINT)}
    taken = said.get("fingerprint")
    fingerprint = None
    if taken is not None:
        try:
            own = {name: arrays[f"{_FINGERPRINT}{name}"] for name in _ARRAYS}
            fingerprint = Fingerprint(
                architecture=str(taken["architecture"])[:200],
                hidden_size=int(taken["hidden_size"]),
                layers=int(taken["layers"]),
                token_ids=tuple(map(int, taken["token_ids"])),
                rounding=float(taken["rounding"]),
                template=str(taken["template"])[:64],
                **own,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HeadError(f"the head's fingerprint is malformed: {type(error).__name__}: {error}") from error
    return Head(About(**_fields(said["about"])), weights, fingerprint)


def _fields(about: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in about.items()}


def _file_of(path: str | Path) -> Path:
    path = expanded(Path(path))
    return path / FILE_NAME if path.is_dir() else path
