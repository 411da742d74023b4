"""Head files, `head.zip.safetensors`, and those of probes: weights, fingerprint, and in the metadata all that is said.

They come from outside: sizes, types and finiteness are checked, and nothing in them is code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from zip_introspect.errors import GridError, HeadError
from zip_introspect.heads.fingerprint import Fingerprint
from zip_introspect.heads.head import About, Head
from zip_introspect.heads.network import Network
from zip_introspect.heads.probe import AboutProbe, Probe
from zip_introspect.paths import expanded

FILE_NAME = "head.zip.safetensors"
PROBE_NAME = "probe.zip.safetensors"
FORMAT_VERSION = 1
MOST_BYTES = 1 << 28
MOST_METADATA = 1 << 23

_FINGERPRINT = "fingerprint."
_ARRAYS = ("rows", "mlp", "norm")
_TYPES = {"F32": np.float32, "F16": np.float16}


class _Kind(NamedTuple):
    """What a file holds, the key of its metadata, and the file's usual name."""

    what: str
    key: str
    name: str


_HEAD = _Kind(About.what, "zip_introspect.head", FILE_NAME)
_PROBE = _Kind(AboutProbe.what, "zip_introspect.probe", PROBE_NAME)


def save(head: Head, path: str | Path) -> Path:
    """Write a head to a file, or into a directory under the usual name; the file."""
    return _write(_HEAD, head, path)


def load(path: str | Path) -> Head:
    """Read a head from a file, or from a directory that holds one.

    Raises:
        HeadError: missing, not whole, not a head's, of a newer version, or malformed.
    """
    return _read(_HEAD, path, lambda about, weights, taken: Head(About(**about), weights, taken))


def save_probe(probe: Probe, path: str | Path) -> Path:
    """Write a probe to a file, or into a directory as `probe.zip.safetensors`; the file."""
    return _write(_PROBE, probe, path)


def load_probe(path: str | Path) -> Probe:
    """Read a probe from a file, or from a directory that holds one.

    Raises:
        HeadError: missing, not whole, not a probe's, of a newer version, or malformed.
    """
    return _read(_PROBE, path, lambda about, weights, taken: Probe(AboutProbe(**about), weights, taken))


def _write(kind: _Kind, network: Network, path: str | Path) -> Path:
    file = _file_of(path, kind)
    said: dict[str, Any] = {"about": network.about.model_dump(mode="json")}
    arrays: dict[str, NDArray[Any]] = dict(network.weights)
    if (taken := network.fingerprint) is not None:
        said["fingerprint"] = {
            name: getattr(taken, name)
            for name in ("architecture", "hidden_size", "layers", "token_ids", "rounding", "template")
        }
        # Half precision rounds to 0.0005: less than any format that the rows are held against.
        arrays |= {f"{_FINGERPRINT}{name}": getattr(taken, name).astype(np.float16) for name in ("rows", "mlp")}
        arrays[f"{_FINGERPRINT}norm"] = taken.norm
    metadata = {kind.key: json.dumps(said, allow_nan=False), f"{kind.key}.version": str(FORMAT_VERSION)}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, metadata)
    partial.replace(file)
    return file


_Made = TypeVar("_Made", Head, Probe)
_Make = Callable[[dict[str, Any], dict[str, NDArray[np.float32]], Fingerprint | None], _Made]


def _read(kind: _Kind, path: str | Path, make: _Make[_Made]) -> _Made:
    file = _file_of(path, kind)
    if not file.is_file():
        raise HeadError(f"{file} does not exist; expected a {kind.what}'s file, {kind.name}")
    if file.stat().st_size > MOST_BYTES:
        raise HeadError(f"{file} holds {file.stat().st_size} bytes, more than any {kind.what}; is it another file?")
    try:
        with safe_open(str(file), framework="numpy") as opened:
            said = _said(kind, opened.metadata() or {}, file)
            arrays = {name: _array(opened, name, file) for name in opened.keys()}  # noqa: SIM118, not a mapping
    except (SafetensorError, OSError, ValueError, TypeError, OverflowError) as error:
        raise HeadError(f"{file} is truncated, or no safetensors file: {' '.join(str(error).split())[:300]}") from error
    weights = {name: array for name, array in arrays.items() if not name.startswith(_FINGERPRINT)}
    try:
        about = {str(name): value for name, value in said["about"].items()}
        return make(about, weights, _fingerprint(said.get("fingerprint"), arrays))
    except (HeadError, GridError, TypeError) as error:  # a setting may be named as an argument is
        raise HeadError(f"{file}: {error}") from None


def _said(kind: _Kind, metadata: dict[str, str], file: Path) -> dict[str, Any]:
    if kind.key not in metadata:
        for other, reader in ((_HEAD, "load"), (_PROBE, "load_probe")):
            if other.key in metadata:
                raise HeadError(f"{file} holds a {other.what}, and no {kind.what}; read it with heads.file.{reader}")
        raise HeadError(
            f"{file} holds no {kind.what}; expected a file that zip-introspect wrote, with {kind.key} in its metadata"
        )
    version = metadata.get(f"{kind.key}.version", "")
    if version != str(FORMAT_VERSION):
        raise HeadError(f"{file} has version {version[:20]!r}; this release reads {FORMAT_VERSION}. Upgrade it.")
    text = metadata[kind.key]
    try:
        said = json.loads(text) if len(text) <= MOST_METADATA else None
    except (ValueError, RecursionError) as error:
        raise HeadError(f"{file} holds metadata that is not JSON: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("about"), dict):
        raise HeadError(
            f"{file} says nothing of its {kind.what}; expected an object with what it reads and what it foretells"
        )
    return said


def _array(opened: Any, name: str, file: Path) -> NDArray[np.float32]:
    kind = opened.get_slice(name).get_dtype()
    if kind not in _TYPES:
        raise HeadError(f"{file} holds {name[:80]!r} as {kind}; expected {' or '.join(_TYPES)}")
    return np.asarray(opened.get_tensor(name), np.float32)


def _fingerprint(taken: Any, arrays: dict[str, NDArray[np.float32]]) -> Fingerprint | None:
    if taken is None:
        return None
    try:
        own = {name: arrays[f"{_FINGERPRINT}{name}"] for name in _ARRAYS}
        return Fingerprint(
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


def _file_of(path: str | Path, kind: _Kind) -> Path:
    path = expanded(Path(path))
    return path / kind.name if path.is_dir() else path
