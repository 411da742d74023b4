"""The embedded model is the same model under llama.cpp: exact in float32, close as the Q8_0 file that is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scipy.stats import binomtest

from zip_introspect import IntrospectiveLLM
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL
from zip_introspect.demo.problems import held_out
from zip_introspect.evaluation.measures.agreement import agreement

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

from zip_introspect_llama_cpp.exporting.export import GgufExporter

PROBLEMS = held_out(5, 200)
COMPARED = 12


@pytest.fixture(scope="module")
def exact() -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.demo(backend="transformers") as llm:
        yield llm


@pytest.fixture(scope="module")
def shipped() -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.demo(backend="llama-cpp", threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def prompts(exact: IntrospectiveLLM) -> list[list[int]]:
    return [exact.backend.encode(problem.prompt) for problem in PROBLEMS[:COMPARED]]


def test_in_float32_logits_joints_and_greedy_texts_are_those_of_transformers(
    exact: IntrospectiveLLM, prompts: list[list[int]], tmp_path: Path
) -> None:
    GgufExporter().export(DEMO_MODEL, tmp_path / "abacus.gguf", "f32")
    with IntrospectiveLLM.from_pretrained(tmp_path / "abacus.gguf", threads=1) as llm:
        assert llm.info.dtype == "f32"
        found = agreement(exact.backend, llm.backend, prompts, steps=200)
    assert found.prefixes > 10 * COMPARED
    assert found.logits <= 1e-3
    assert found.joints <= 1e-3
    assert found.same_texts == COMPARED


def test_the_shipped_file_is_the_shipped_model_rounded(tmp_path: Path) -> None:
    GgufExporter().export(DEMO_MODEL, tmp_path / DEMO_GGUF.name, "q8_0")
    assert (tmp_path / DEMO_GGUF.name).read_bytes() == DEMO_GGUF.read_bytes()


def test_rounded_to_eight_bits_joints_stay_close(
    exact: IntrospectiveLLM, shipped: IntrospectiveLLM, prompts: list[list[int]]
) -> None:
    assert shipped.info.dtype == "q8_0"
    assert 0 < agreement(exact.backend, shipped.backend, prompts, steps=200).total_variation <= 0.03


def test_rounded_to_eight_bits_it_solves_as_many(exact: IntrospectiveLLM, shipped: IntrospectiveLLM) -> None:
    right = []
    for llm in (exact, shipped):
        results = llm.batch([problem.prompt for problem in PROBLEMS], strategy="single", seed=1)
        right.append(sum(problem.grade(result.text) for problem, result in zip(PROBLEMS, results, strict=True)))
    low, high = binomtest(right[0], len(PROBLEMS)).proportion_ci(method="wilson")
    assert low <= right[1] / len(PROBLEMS) <= high
