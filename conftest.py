"""The Python examples of the README and the docs are tests: each page runs from top to bottom."""

from importlib.util import find_spec

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=[] if find_spec("llama_cpp") else ["docs/llama-cpp.md"],
).pytest()
