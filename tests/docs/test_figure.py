"""The timeline is drawn from a real search, and its bars are as long as the samples are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from zip_introspect import IntrospectiveLLM

SCRIPT = Path(__file__).parents[2] / "docs" / "make_figure.py"


def test_every_sample_has_a_row_and_the_same_search_gives_the_same_picture(tmp_path: Path) -> None:
    with IntrospectiveLLM.demo() as llm:
        result = llm.generate("Solve x*x+6*x+51=186", max_samples=4)
    search = tmp_path / "search.json"
    search.write_text(result.to_json(), encoding="utf-8")
    pictures = [tmp_path / "first.svg", tmp_path / "second.svg"]
    for picture in pictures:
        subprocess.run([sys.executable, SCRIPT, search, picture], check=True)
    texts = ["".join(element.itertext()) for element in ElementTree.parse(pictures[0]).iter() if "text" in element.tag]
    assert all(f"sample {sample.number}" in texts for sample in result.samples)
    assert any("(chosen)" in text for text in texts)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
