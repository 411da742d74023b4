"""What holds for all tests, and the Python examples of the README and the docs: each page runs from top to bottom."""

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# The models of the tests are small: a second thread gains nothing, and on a busy machine the first waits for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WITH_A_MODEL = ["docs/index.md", "docs/any-model.md", "docs/head.md"]


def _beside_a_model(namespace: dict[str, Any]) -> None:
    """Go where `my-model` is: the embedded checkpoint without its grid, as a model that nobody trained for us, and a
    head for it that nobody trained either."""
    from zip_introspect.demo import embedded
    from zip_introspect.heads import file
    from zip_introspect.testing.heads import random_head

    folder = namespace["folder"] = tempfile.TemporaryDirectory()
    namespace["before"] = Path.cwd()
    model = Path(folder.name) / "my-model"
    model.mkdir()
    for item in embedded.located("transformers").iterdir():
        if not item.name.startswith("zip_introspect"):
            (model / item.name).symlink_to(item.resolve())
    size = json.loads((model / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    file.save(random_head(size), Path(folder.name) / "my-head.zip.safetensors")
    os.chdir(folder.name)


def _back(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["before"])
    namespace["folder"].cleanup()


EXAMPLES = [PythonCodeBlockParser()]
pytest_collect_file = (
    Sybil(
        EXAMPLES,
        patterns=["README.md", "docs/*.md"],
        excludes=[*WITH_A_MODEL, *([] if find_spec("llama_cpp") else ["docs/llama-cpp.md"])],
    )
    + Sybil(EXAMPLES, patterns=WITH_A_MODEL, setup=_beside_a_model, teardown=_back)
).pytest()
