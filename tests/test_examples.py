"""The examples print what they promise: right answers, honest confidences, and questions that went elsewhere."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zip_introspect.demo.problems import held_out, training_mix
from zip_introspect.evaluation.store import datasets

EXAMPLES = Path(__file__).parents[1] / "examples"

Run = Callable[[str], list[list[str]]]


@pytest.fixture
def solve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The solver of the examples."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("exact_solver").solve


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example as a script; its lines, each split at gaps."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def lines(name: str) -> list[list[str]]:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]

    return lines


def test_a_chain_gives_answers_with_confidences_and_streams(run: Run) -> None:
    _, *answers, _, title = (lines := run("chain"))[:6]
    assert [answer[:2] for answer in answers[:2]] == [["3*x+16=31", "5"], ["8*x-13=283", "37"]]
    confidences = [float(answer[2]) for answer in answers]
    assert min(confidences[:2]) > 0.9 > confidences[2]  # no whole number solves the third one
    assert title[0].startswith("8*x-13=283 again")
    streamed = lines[6:]
    assert len(streamed) > 3
    assert all(0 <= float(confidence) <= 1 for confidence, _ in streamed)
    last = "".join(text for _, text in streamed).replace(" ", "").rpartition("/ans")[2]
    assert (last == "37") == (float(streamed[-1][0]) > 0.5)


def test_an_escalating_chain_is_right_throughout_and_says_who_answered(run: Run, solve: Any) -> None:
    lines = run("escalating_chain")
    first, second = lines[2:7], lines[11:16]
    for rows in (first, second):
        for equation, answer, confidence, by, _, saved in rows:
            assert f"ans {answer}" == solve(equation)
            assert (by == "sympy") == (confidence == "1.00")
            assert by == "sympy" or saved == "0"
        assert {row[3] for row in rows} == {"small", "sympy"}
    assert all(row[5] == "0" for row in first)
    assert any(int(row[5]) > 0 for row in second)
    totals = [sum(int(row[4]) for row in rows) for rows in (first, second)]
    assert totals[1] < totals[0]
    assert [lines[7], lines[16]] == [[f"{total} tokens in all"] for total in totals]


def test_an_agent_takes_every_route(run: Run) -> None:
    rows = {row[0]: row[1:] for row in run("langgraph_agent")[1:]}
    ways = {question: (row[0], row[3]) for question, row in rows.items()}
    assert ways == {
        "Solve 3*x+16=31": ("5", "answer > accept"),
        "Find x: 9(x+5)+19=127": ("7", "answer > ask again > accept"),
        "Solve x*x+8*x+16=223": ("none", "answer > ask again > solver > accept"),
        "Solve x*x*x=512": ("declined", "answer > ask again > solver > decline"),
        "How high is Mont Blanc?": ("declined", "answer > decline"),
    }
    assert all(int(row[2]) <= 750 for row in rows.values())


def test_retrieval_answers_from_the_right_notes_and_flags_what_is_doubtful(run: Run, solve: Any) -> None:
    lines = run("batch_retrieval")
    rows = lines[1:9]
    for _, equation, answer, confidence in rows:
        assert float(confidence) < 0.9 or f"ans {answer}" == solve(equation)
    assert [row[1] for row in rows][:2] == ["7*x+12=96", "8*x-13=283"]
    assert len({row[1] for row in rows}) == 8
    flagged = [row[0] for row in rows if float(row[3]) < 0.9]
    assert flagged == ["How many rows of chairs are in the theatre?"]
    assert lines[10:] == [["For a human, below 0.9: 1 of 8"], *([question] for question in flagged)]


def test_a_probe_foretells_length_better_than_the_base_rate(run: Run) -> None:
    lines = run("passes_length")
    rows = [[float(number) for number in line] for line in lines[3:8]]
    assert [row[0] for row in rows] == [0, 40, 80, 120, 160]
    losses, base, auroc = (np.array([row[place] for row in rows]) for place in (3, 4, 5))
    assert (losses < base + 0.02).all()
    assert losses.mean() < base.mean() - 0.04
    assert auroc.mean() > 0.65
    assert lines[9][0].endswith("=32")
    assert all(0 <= float(probability) <= 1 for _, probability in lines[11:-1])
    assert re.fullmatch(r"it has \d+ tokens(, and is done| and goes on)", lines[-1][0])


def test_the_solver_is_exact(solve: Any) -> None:
    for problem in (*held_out(3, 100), *(item for item in training_mix(5, 200) if item.tier)):
        assert solve(problem.prompt) == f"ans {problem.answer}"


@pytest.mark.parametrize(
    "text", ["", "Solve 9**9**9**9=x", "x*x*x=27", "__import__('os')=x", "x(3)=3", "x=", "(x=3", "1 2=x", "5=5", "x=x"]
)
def test_the_solver_reads_nothing_but_equations(text: str, solve: Any) -> None:
    with pytest.raises(ValueError, match="equation"):
        solve(text)


def test_sums_are_questions_for_a_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> None:
    monkeypatch.setattr("sys.argv", ["sums.py", "25"])
    lines = [" ".join(parts) for parts in run("sums")]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines), encoding="utf-8")
    questions = datasets.load(tmp_path / "sums.jsonl")
    assert len({question.text for question in questions}) == 25
    for question in questions:
        first, second = map(int, re.findall(r"\d+", question.text))
        assert question.expected == str(first + second)
