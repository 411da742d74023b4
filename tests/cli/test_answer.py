"""`answer`: a file of questions in, a row for each out, whatever happens on the way."""

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

from zip_introspect.cli.app import app

LIMITS = ["--max-new-tokens", "60", "--max-samples", "3", "--strategy", "best_of_n"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["answer", *map(str, arguments)])


def written(file: Path, count: int) -> Path:
    rows = [{"id": f"q{number}", "question": f"Solve x+{number}=40"} for number in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_question_gets_its_row_and_the_total_holds(tmp_path: Path, tiny_model: str) -> None:
    questions, out = written(tmp_path / "q.jsonl", 6), tmp_path / "out.jsonl"
    done = run(questions, out, "-m", tiny_model, *LIMITS, "--total-tokens", "300", "--price-per-token", "0.5", "--json")
    assert done.exit_code == 0, done.stderr
    rows, summary = rows_of(out), json.loads(done.stdout)
    assert [row["id"] for row in rows] == [f"q{number}" for number in range(6)]
    assert sum(row["tokens"] for row in rows) == summary["tokens"] <= 300
    assert summary["cost"] == 0.5 * summary["tokens"]
    assert summary["questions"] == 6 == summary["answered"] + summary["left"] + summary["failed"]
    assert [row["complete"] for row in rows].count(True) == summary["answered"]
    assert not out.with_name("out.jsonl.parts").exists()


def test_a_row_that_fails_ends_no_run(tmp_path: Path, tiny_model: str) -> None:
    questions, out = tmp_path / "q.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "Solve x+1=2"}, {"prompt": "Solve " * 120_000}, {"prompt": [{"role": "user", "content": "1+1"}]}]
    questions.write_text("\n".join(map(json.dumps, rows)))
    done = run(questions, out, "-m", tiny_model, *LIMITS)
    assert done.exit_code == 0, done.stderr
    found = rows_of(out)
    assert [row["id"] for row in found] == [0, 1, 2]
    assert found[1]["error"].startswith("PromptError: the prompt has")
    assert [row["error"] is None for row in found] == [True, False, True]
    assert "failed" in done.stdout


def test_where_every_row_fails_so_does_the_command(tmp_path: Path, tiny_model: str) -> None:
    questions, out = tmp_path / "q.jsonl", tmp_path / "out.jsonl"
    questions.write_text(json.dumps({"question": "Solve " * 120_000}))
    done = run(questions, out, "-m", tiny_model, *LIMITS)
    assert done.exit_code == 1
    assert "every question failed" in done.stderr
    assert len(rows_of(out)) == 1


def test_parquet_in_and_out(tmp_path: Path, tiny_model: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra eval is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    questions, out = tmp_path / "q.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"name": ["a", "b"], "ask": ["Solve x+1=2", "Solve x+2=3"]}), questions)
    columns = ["--question-column", "ask", "--id-column", "name"]
    done = run(questions, out, "-m", tiny_model, *LIMITS, *columns)
    assert done.exit_code == 0, done.stderr
    rows = pq.read_table(out).to_pylist()
    assert [(row["id"], row["question"]) for row in rows] == [("a", "Solve x+1=2"), ("b", "Solve x+2=3")]
    assert all(isinstance(row["confidence"], float) and row["error"] is None for row in rows)


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("", [], "holds no questions"),
        ('{"text": "a"}', [], "expected 'question or problem or prompt'"),
        ('{"question": "a"}', ["--question-column", "ask"], "expected 'ask'"),
        ('{"question": "a"}', ["--id-column", "key"], "no 'key'"),
        ('{"question": ""}', [], "line 1 of"),
        ("[1]", [], "is a list; expected one object a line"),
        ("{", [], "is not JSON"),
        ('{"question": "a"}', ["--total-cost", "1"], "needs price_per_token"),
        ('{"question": "a"}', ["--strategy", "none"], "strategy is 'none'"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_opened(
    tmp_path: Path, content: str, arguments: list[str], said: str
) -> None:
    (tmp_path / "q.jsonl").write_text(content)
    done = run(tmp_path / "q.jsonl", tmp_path / "out.jsonl", "-m", "no-such-model", *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert sorted(item.name for item in tmp_path.iterdir()) == ["q.jsonl"]


def test_an_output_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    questions = written(tmp_path / "q.jsonl", 1)
    (tmp_path / "out.jsonl").write_text("mine")
    done = run(questions, tmp_path / "out.jsonl")
    assert done.exit_code == 1
    assert "is there already" in done.stderr


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, tiny_model: str) -> None:
    questions, out = written(tmp_path / "q.jsonl", 40), tmp_path / "out.jsonl"
    many = ["--max-new-tokens", "150", "--max-samples", "4", "--strategy", "best_of_n"]
    command = [str(questions), str(out), "-m", tiny_model, *many]
    folder = tmp_path / "out.jsonl.parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "zip_introspect", "answer", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        kept = folder / "rows.jsonl"
        while not (kept.exists() and kept.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    before = kept.read_bytes()
    with kept.open("ab") as stream:
        stream.write(b'{"place": 39, "id": "q3')  # what was being written
    other = run(*command, "--seed", "7")
    assert other.exit_code == 1
    assert "differs from this one in seed" in other.stderr
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    lines = before.count(b"\n")
    assert f"{lines} of 40 rows are done already" in done.stderr
    whole = run(questions, tmp_path / "whole.jsonl", "-m", tiny_model, *many)
    assert whole.exit_code == 0, whole.stderr

    def timeless(file: Path) -> list[dict[str, Any]]:
        return [{**row, "seconds": 0.0} for row in rows_of(file)]

    assert timeless(out) == timeless(tmp_path / "whole.jsonl")


def test_an_interrupted_total_lacks_what_was_spent(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zip_introspect.cli import answer_rows

    questions, out = written(tmp_path / "q.jsonl", 12), tmp_path / "out.jsonl"
    add, calls = answer_rows.AnswerRows.add, [0]

    def interrupted(self: answer_rows.AnswerRows, place: int, row: answer_rows.Row) -> None:
        add(self, place, row)
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(answer_rows.AnswerRows, "add", interrupted)
    first = run(questions, out, "-m", tiny_model, *LIMITS, "--total-tokens", "500")
    assert first.exit_code == 130
    assert "3 of 12 rows are kept" in first.stderr
    spent = json.loads((tmp_path / "out.jsonl.parts" / "spent.json").read_text())["tokens"]
    monkeypatch.undo()
    done = run(questions, out, "-m", tiny_model, *LIMITS, "--total-tokens", "500", "--json")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert spent <= summary["tokens"] <= 500
    assert len(rows_of(out)) == 12


def test_a_line_that_is_longer_than_memory_likes_is_refused(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "' + "x" * (1 << 20) + '"}\n')
    done = run(questions, tmp_path / "out.jsonl")
    assert done.exit_code == 1
    assert "has more than 1,048,576 bytes" in " ".join(done.stderr.split())
