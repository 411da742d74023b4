"""Where a head is: a file, a repository of the hub, or one that ships with this package, by its name."""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from pathlib import Path

from zip_introspect.errors import HeadError
from zip_introspect.heads.file import FILE_NAME, load
from zip_introspect.heads.head import Head
from zip_introspect.paths import expanded

_SUFFIX = ".zip.safetensors"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def opened(head: str | Path | Head) -> Head:
    """A head from wherever it is.

    Args:
        head: a head, its file, a directory that holds one, a name of `shipped()`, or a hub id.

    Raises:
        HeadError: none of these, or one that cannot be read.
    """
    if isinstance(head, Head):
        return head
    path = expanded(Path(head))
    if path.exists():
        return load(path)
    name = str(head)
    if name in (known := shipped()):
        with as_file(files(__package__).joinpath("shipped", f"{name}{_SUFFIX}")) as file:
            return load(file)
    if _HUB_ID.fullmatch(name) and not name.endswith(".safetensors"):
        return load(_downloaded(name))
    raise HeadError(
        f"there is no head {name!r}; expected a head's file, a directory that holds {FILE_NAME}, a hub id such as "
        f"owner/name, or one that ships with this package: {', '.join(known) or 'none does'}"
    )


def shipped() -> tuple[str, ...]:
    """The names of the heads that come with this package."""
    folder = files(__package__).joinpath("shipped")
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)))


def _downloaded(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError as error:
        raise HeadError(
            f"the head {name!r} is no file here, and fetching it from the hub needs the module {error.name!r}. "
            f'Install it with: pip install "zip-introspect[transformers]"'
        ) from error
    try:
        return Path(hf_hub_download(name, FILE_NAME))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise HeadError(
            f"the head {name!r} is no file here and cannot be had from the hub: {' '.join(str(error).split())[:300]}. "
            f"Check the name, or the connection"
        ) from error
