"""What holds for all tests, and the Python examples of the README and the docs: each page runs from top to bottom."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# The models of the tests are small: a second thread gains nothing, and on a busy machine the first waits for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WITH_A_MODEL = ["docs/index.md", "docs/any-model.md"]


def _beside_a_model(namespace: dict[str, Any]) -> None:
    """Go where `my-model` is: the embedded checkpoint without its grid, as a model that nobody trained for us."""
    from zip_introspect.demo import embedded

    folder = namespace["folder"] = tempfile.TemporaryDirectory()
    namespace["before"] = Path.cwd()
    model = Path(folder.name) / "my-model"
    model.mkdir()
    for file in embedded.located("transformers").iterdir():
        if not file.name.startswith("zip_introspect"):
            (model / file.name).symlink_to(file.resolve())
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
