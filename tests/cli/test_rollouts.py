"""`rollouts`: from questions to a file that replays can use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("pyarrow", reason="the extra eval is not installed")
pytest.importorskip("regex", reason="the extra eval is not installed")
pytest.importorskip("tqdm", reason="the extra eval is not installed")

from zip_introspect.cli.app import app
from zip_introspect.demo.problems import held_out
from zip_introspect.evaluation.store.rollout_file import QuestionRollouts, Rollouts
from zip_introspect.evaluation.store.unfinished import Parts
from zip_introspect.llm import IntrospectiveLLM


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["rollouts", *map(str, arguments)])


def test_the_embedded_models_questions_are_sampled_graded_and_stored(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    done = run("abacus", out, "--limit", "4", "--samples", "2", "--seed", "5", "--json")
    assert done.exit_code == 0, done.stderr
    problems = held_out(5, 4)
    found = Rollouts.load(out)
    assert [problem.question.text for problem in found.problems] == [problem.prompt for problem in problems]
    for problem, stored in zip(problems, found.problems, strict=True):
        assert [item.right for item in stored.rollouts] == [
            item.finished and problem.grade(item.text) for item in stored.rollouts
        ]
    summary = json.loads(done.stdout)
    assert summary["bytes"] == out.stat().st_size
    assert {group: (counts["questions"], counts["samples"]) for group, counts in summary["groups"].items()} == {
        f"tier {tier}": (1, 2) for tier in (1, 2, 3, 4)
    }


def test_a_file_a_grader_and_settings_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = held_out(0, 3, tiers=(1,))
    rows = [{"ask": item.prompt, "key": item.answer, "from": "mine"} for item in problems]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "my_grading.py").write_text("def grade(text: str, expected: str) -> bool:\n    return True\n")
    monkeypatch.chdir(tmp_path)
    columns = ["--question-column", "ask", "--answer-column", "key", "--group-column", "from"]
    settings = ["--temperature", "0", "--max-new-tokens", "300", "--samples", "2", "--limit", "2"]
    done = run("mine.jsonl", "out.parquet", "--grader", "my_grading:grade", *columns, *settings)
    assert done.exit_code == 0, done.stderr
    found = Rollouts.load(tmp_path / "out.parquet")
    assert found.max_new_tokens == 300
    assert len(found.problems) == 2
    for problem in found.problems:
        first, second = problem.rollouts
        assert first.text == second.text, "greedy"
        assert first.right == first.finished, "the grader says so of all that ended"
    for text in ("mine", "kB written to out.parquet"):
        assert text in done.stdout
    assert "one is sampled, and stored 2 times" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["abacus", "out.json"], "expected the name of a .parquet file"),
        (["abacus", "none/out.parquet"], "not a directory that can be written to"),
        (["abacus", "out.parquet", "--grader", "hope"], "no grader 'hope'"),
        (["abacus", "out.parquet", "--temperature", "-1"], "temperature"),
        (["abacus:9", "out.parquet"], "no tier '9'"),
        (["none.jsonl", "out.parquet"], "does not exist"),
        (["empty.jsonl", "out.parquet"], "holds no questions"),
    ],
)
def test_what_cannot_work_is_one_line_before_a_model_is_opened(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    done = run(*arguments, "--model", "no-such-model")
    assert done.exit_code == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.parquet"))


def test_a_question_beyond_the_context_is_refused_before_any_is_sampled(tmp_path: Path) -> None:
    rows = [{"question": "Solve 2*x=4", "answer": "2"}, {"question": "Solve " + "1+" * 5000 + "x=1", "answer": "1"}]
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    done = run(file, tmp_path / "out.parquet")
    assert done.exit_code == 1
    assert "question 2 has" in done.stderr
    assert not (tmp_path / "out.parquet").exists()


def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path: Path, tiny_model: str) -> None:
    limits = ["--limit", "24", "--samples", "2", "--max-new-tokens", "150", "--concurrency", "4"]
    command: list[Any] = ["abacus", tmp_path / "out.parquet", "--model", tiny_model, *limits]
    parts = tmp_path / "out.parquet.parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "zip_introspect", "rollouts", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore the signal, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(parts.glob("*.parquet"))) < 2 and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, error
    assert out == ""
    assert "Traceback" not in error
    kept = len(list(parts.glob("*.parquet")))
    assert error.splitlines()[-2:] == [
        f"{kept} of 24 questions are kept in {parts}; run the same to go on",
        "interrupted",
    ]
    other = run(*command, "--seed", "1")
    assert other.exit_code == 1
    assert "differs from this one in" in other.stderr
    assert "seed (0 there, 1 here)" in other.stderr
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert f"{kept} of 24 questions are taken over from {parts}\n" in done.stderr
    assert not parts.exists()
    whole = run("abacus", tmp_path / "whole.parquet", "--model", tiny_model, *limits)
    assert whole.exit_code == 0, whole.stderr
    samples = [
        [(item.tokens.tolist(), item.right) for one in Rollouts.load(tmp_path / name).problems for item in one.rollouts]
        for name in ("out.parquet", "whole.parquet")
    ]
    assert samples[0] == samples[1]


def test_a_run_goes_on_with_the_same_template_options_only(
    tmp_path: Path, thinking_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ["--limit", "4", "--samples", "1", "--max-new-tokens", "4", "--model", thinking_model]
    command: list[Any] = ["abacus", tmp_path / "out.parquet", *limits]
    option = ["--template-option", "enable_thinking=false"]

    def interrupted(self: Parts, place: int, problem: QuestionRollouts) -> None:
        save(self, place, problem)
        raise KeyboardInterrupt

    save = Parts.save
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "save", interrupted)
        assert run(*command, *option).exit_code == 130
    other = run(*command)
    assert other.exit_code == 1
    assert "differs from this one in chat_template_kwargs, questions" in other.stderr
    done = run(*command, *option)
    assert done.exit_code == 0, done.stderr
    assert "1 of 4 questions are taken over" in done.stderr
    with IntrospectiveLLM.from_pretrained(thinking_model) as llm:
        for problem in Rollouts.load(tmp_path / "out.parquet").problems:
            expected = llm.backend.encode(problem.question.text, chat_template_kwargs={"enable_thinking": False})
            assert list(problem.prompt_tokens) == expected != llm.backend.encode(problem.question.text)
