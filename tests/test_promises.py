"""What the README promises, with the embedded model, through the front doors that people use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zip_introspect import Budget, IntrospectiveLLM
from zip_introspect.cli.app import app
from zip_introspect.cli.demo import QUESTIONS
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.demo.equations import TIERS, parse


def needs(backend: str) -> Any:
    missing = backend == "llama-cpp" and find_spec("llama_cpp") is None
    return pytest.param(backend, marks=pytest.mark.skipif(missing, reason="the extra llama-cpp is not installed"))


BACKENDS = [needs("transformers"), needs("llama-cpp")]


@pytest.fixture(scope="module", params=BACKENDS)
def llm(request: pytest.FixtureRequest) -> Iterator[IntrospectiveLLM]:
    with IntrospectiveLLM.demo(backend=request.param) as opened:
        assert opened.info.backend == request.param
        yield opened


@pytest.fixture(scope="module", params=BACKENDS)
def shown(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["demo", "--json", "--backend", request.param])
    assert done.exit_code == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def equation_in(question: str) -> str:
    """The part of a question that is an equation of the grammar."""
    return next(word for word in question.rstrip("?.").split() if parse(word))


def test_the_demos_questions_cover_the_tiers_and_none_was_trained_on() -> None:
    equations = [parse(equation_in(question)) for _, question in QUESTIONS]
    assert all(equation and equation.held_out for equation in equations)
    tiers = [equation.tier for equation in equations if equation and equation.solution is not None]
    assert tiers == list(TIERS)
    assert [equation.solution for equation in equations if equation][-1] is None


def test_the_demo_finds_a_right_answer_and_is_least_sure_of_the_question_to_doubt(
    shown: list[dict[str, Any]],
) -> None:
    answers = [item["result"]["answer"] for item in shown]
    equations = [parse(equation_in(question)) for _, question in QUESTIONS]
    assert answers[:3] == [equation.answer for equation in equations[:3] if equation]
    confidences = [item["result"]["confidence"] for item in shown]
    assert confidences[-1] == min(confidences)


def test_the_demo_says_what_was_expected_used_and_why_it_stopped() -> None:
    done = CliRunner().invoke(app, ["demo"])  # the quickest backend that is installed
    assert done.exit_code == 0, done.stderr
    for word in ("answer", "confidence", "expected", "used", "started", "paused", "dropped", "finished", "stopped"):
        assert done.stdout.count(word) >= len(QUESTIONS)


def test_a_harder_question_promises_less_and_takes_longer(llm: IntrospectiveLLM) -> None:
    easy, hard = llm.introspect(QUESTIONS[0][1]), llm.introspect(QUESTIONS[4][1])
    assert easy.confidence > hard.confidence
    assert easy.expected_tokens < hard.expected_tokens


def test_a_budget_is_held_to_the_token(llm: IntrospectiveLLM) -> None:
    out = llm.generate(QUESTIONS[4][1], budget=Budget(max_tokens=50, max_samples=3))
    assert out.usage.generated_tokens <= 50
    assert len(out.samples) <= 3


def test_a_seed_fixes_the_result(llm: IntrospectiveLLM) -> None:
    first, second = (llm.generate(QUESTIONS[3][1], seed=5) for _ in range(2))
    assert [sample.text for sample in first.samples] == [sample.text for sample in second.samples]
    assert first.decisions == second.decisions


def test_what_is_no_equation_gets_an_answer_that_says_so(llm: IntrospectiveLLM) -> None:
    asked = ("Tell me about the weather", "What is your name?", "Write a poem", "Hello", "Who wrote Hamlet?")
    outs = llm.batch(asked)
    assert all("whole x" in out.text for out in outs)
    assert sum(out.answer is None for out in outs) >= 3  # it may stumble behind that


@pytest.mark.parametrize("backend", BACKENDS)
def test_ask_uses_the_embedded_model_under_the_backend_that_is_named(backend: str) -> None:
    done = CliRunner().invoke(app, ["ask", QUESTIONS[0][1], "--backend", backend, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "5"


def test_inspect_finds_the_embedded_model_ready() -> None:
    done = CliRunner().invoke(app, ["inspect", str(DEMO_MODEL), "--json"])
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["runs"][0]["count"] == 64
    assert facts["grid"]["reserved_token_ids"] == list(range(facts["runs"][0]["first"], facts["runs"][0]["first"] + 64))
    assert facts["weights"]["bytes"] <= 8_000_000


def test_the_embedded_model_is_in_the_package_as_plain_data() -> None:
    kinds = {file.suffix for file in Path(DEMO_MODEL).iterdir() if file.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja", ".gguf"}
