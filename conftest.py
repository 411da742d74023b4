"""What holds for all tests, and the Python examples of the README and the docs: each page runs from top to bottom."""

import os
from importlib.util import find_spec

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# The models of the tests are small: a second thread gains nothing, and on a busy machine the first waits for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=[] if find_spec("llama_cpp") else ["docs/llama-cpp.md"],
).pytest()
